/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the agent has been given of each page of a region, so that a page which
 * was written, but with what it held already, is not given again.
 *
 * By hash, 8 bytes a page (2 MiB for each GiB of guest RAM): xxh64 of the page with a
 * seed of the session's own. Two contents of one page have one hash with a
 * probability of 2^-64 each time a page is looked at: 5e-5 that it ever happened in
 * 10^15 looks. xxh64 is not made against an adversary, but whoever could find such
 * contents would have to be in the guest, and would spoil its own pages.
 *
 * Exactly: with a copy of every page, as much memory as the guest has.
 */
#ifndef _VMREPL_SAME_H
#define _VMREPL_SAME_H

#include <linux/types.h>

/* From the flags of an attach. */
enum vmrepl_same_mode {
	VMREPL_SAME_OFF,
	VMREPL_SAME_HASH,
	VMREPL_SAME_EXACT,
};

/**
 * struct vmrepl_same - of one region
 * @sums:	hash of each page, or 0: never given; VMREPL_SAME_HASH
 * @given:	a bit for each page that was given; VMREPL_SAME_EXACT
 * @copies:	those pages; VMREPL_SAME_EXACT
 * @seed:	of the hash
 *
 * A page's part belongs to the worker that has taken the page from the set.
 * From one epoch to the next, the session's @busy hands it on.
 */
struct vmrepl_same {
	u64 *sums;
	unsigned long *given;
	u8 *copies;
	u64 seed;
};

/* Return: 0 or -ENOMEM, and nothing is kept then. Sleeps. */
int vmrepl_same_alloc(struct vmrepl_same *same, enum vmrepl_same_mode mode,
		      u64 seed, unsigned long nr_pages);
void vmrepl_same_free(struct vmrepl_same *same);

/**
 * vmrepl_same_page() - is this what the agent has been given last?
 * @same:	of the page's region
 * @page:	its index there; the caller has taken it from the set
 * @data:	its content, or NULL for a page of zeros
 *
 * Remembers the content where it is not. Process context.
 */
bool vmrepl_same_page(struct vmrepl_same *same, unsigned long page,
		      const void *data);

/* Whatever it holds, the page is to be given next. Nobody else looks at it now. */
void vmrepl_same_forget(struct vmrepl_same *same, unsigned long page);

#endif /* _VMREPL_SAME_H */
