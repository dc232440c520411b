/* SPDX-License-Identifier: GPL-2.0 */
/*
 * backing: what the memory of a RAM block is made of, and how pages of it become
 * zeros without taking memory, or give back what they have.
 *
 * A shared mapping (memory-backend-memfd, or -file on tmpfs, with share=on) is given
 * back by punching a hole into its file. In private anonymous memory nobody outside
 * of the process can do that; there a page that has never been touched stays so.
 */
#ifndef VMREPL_BACKING_H
#define VMREPL_BACKING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum backing_kind {
	BACKING_WRITE,		/* zeros have to be written */
	BACKING_ANON,		/* untouched pages are zeros */
	BACKING_SHARED,		/* holes in the file are zeros */
};

/**
 * struct backing - of one block in one process
 * @kind:  what can be done
 * @fd:    BACKING_SHARED: the file; BACKING_ANON: /proc/PID/pagemap; else -1
 * @base:  BACKING_SHARED: where the block begins in the file; BACKING_ANON: its
 *         address; bytes
 */
struct backing {
	enum backing_kind kind;
	int fd;
	uint64_t base;
};

/**
 * backing_open() - look at a mapping
 * @hva, @size: address and bytes of the block in process @vm
 * @keep:       its owner wants all of it in memory (prealloc=on)
 *
 * What is not understood is BACKING_WRITE, which always works.
 */
void backing_open(struct backing *backing, pid_t vm, uint64_t hva, uint64_t size, bool keep);
void backing_close(struct backing *backing);

/**
 * backing_clear() - make pages zeros, where that can be had without writing
 * @page: number of the first in the block
 * @nr:   1 to BACKING_MAX
 * @left: out, for each: zeros still have to be written there
 */
void backing_clear(struct backing *backing, uint64_t page, unsigned int nr, bool *left);

#define BACKING_MAX	256u

#endif /* VMREPL_BACKING_H */
