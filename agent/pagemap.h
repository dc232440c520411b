/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pagemap: which pages of a process are there: in memory, or swapped out
 * (/proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst).
 */
#ifndef VMREPL_PAGEMAP_H
#define VMREPL_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The most pages that can be asked for at once. */
#define PAGEMAP_MAX	256u

/* Returns a file descriptor, the caller's to close, or -errno. */
int pagemap_open(pid_t pid);

/**
 * pagemap_look() - look at some pages
 * @hva:   address of the first in that process
 * @nr:    1 to PAGEMAP_MAX
 * @there: out, for each
 *
 * Returns false where that cannot be known.
 */
bool pagemap_look(int fd, uint64_t hva, unsigned int nr, bool *there);

#endif /* VMREPL_PAGEMAP_H */
