/* SPDX-License-Identifier: GPL-2.0 */
/*
 * target: where the standby puts pages. Guest RAM goes straight into the
 * waiting QEMU, small blocks into the copies that are loaded at promotion.
 */
#ifndef VMREPL_TARGET_H
#define VMREPL_TARGET_H

#include <sys/types.h>

#include "backing.h"
#include "epoch.h"
#include "ramblock.h"

/**
 * struct target - a standby's VM
 * @vm:     the QEMU's pid
 * @blocks: the primary's table, matched: @hva of big blocks, @copy of small ones
 * @nr_backings, @backings: private: of the first so many of them
 */
struct target {
	pid_t vm;
	struct ramblock_table *blocks;
	unsigned int nr_backings;
	struct backing *backings;
};

/*
 * @blocks is another: looks at what they are made of. Errors: ENOMEM.
 */
int target_look(struct target *target);
/* Closes what target_look() opened; nothing happens where it was not called. */
void target_forget(struct target *target);

/* An epoch_apply_fn; @arg is the struct target. Errors: ESRCH, EFAULT, EPERM. */
int target_apply(void *arg, const struct epoch_page *pages, unsigned int nr, struct why *why);

/* An epoch_read_fn; @arg is the struct target. Errors: the same. */
int target_read(void *arg, uint32_t block, uint64_t page, void *data, struct why *why);

#endif /* VMREPL_TARGET_H */
