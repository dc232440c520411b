/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Guest RAM as ranges of the VMM's addresses (hva), with a bit for each page.
 *
 * Regions are only ever added while a session lives. Hooks walk them without a
 * lock: a region is complete before @nr says that it is there.
 *
 * Each region has two dirty bitmaps. Hooks set bits in the one that the
 * session's generation names; a freeze moves the generation on and thereby owns
 * the other one, until the workers have cleared it bit by bit.
 */
#ifndef _VMREPL_REGION_H
#define _VMREPL_REGION_H

#include <linux/types.h>

#include "cow.h"
#include "same.h"

struct vmrepl_session;

#define VMREPL_MAX_REGIONS	128

/**
 * struct vmrepl_region - a range of the VMM's addresses that is guest RAM
 * @start:	first address, page aligned
 * @nr_pages:	length
 * @dirty:	a bit for each page that was written, one bitmap a generation
 * @held:	pages the host side wrote since the last quiet freeze; they stay in
 *		the set over live rounds, because a device may still be writing them
 *		through a reference it took before (O_DIRECT)
 * @cow:	which pages of the frozen set are not copied yet
 * @same:	what the agent has of each page
 */
struct vmrepl_region {
	unsigned long start;
	unsigned long nr_pages;
	unsigned long *dirty[2];
	unsigned long *held;
	struct vmrepl_cow cow;
	struct vmrepl_same same;
};

/**
 * struct vmrepl_regions - all of a session
 * @nr:		regions there are; hooks load it with acquire
 * @nr_pages:	pages in all of them
 * @tab:	not sorted; the index of a region never changes
 */
struct vmrepl_regions {
	unsigned int nr;
	unsigned long nr_pages;
	struct vmrepl_region tab[VMREPL_MAX_REGIONS];
};

/**
 * vmrepl_region_find() - the region of an address
 * @rs:		regions of a session
 * @hva:	any address in the VMM
 * @index:	set to the region's index
 *
 * Any context. Return: the region or NULL.
 */
struct vmrepl_region *vmrepl_region_find(struct vmrepl_regions *rs,
					 unsigned long hva, unsigned int *index);

/**
 * vmrepl_region_cover() - see to it that a range is in some region
 * @s:		session; caller holds its lock
 * @start:	first address, page aligned
 * @end:	behind the last one
 *
 * What was not there before is added, every page of it dirty. Sleeps.
 * Return: 0, -ENOMEM or -EOVERFLOW.
 */
int vmrepl_region_cover(struct vmrepl_session *s, unsigned long start,
			unsigned long end);

/* Free all; nobody looks at them any more. */
void vmrepl_regions_free(struct vmrepl_regions *rs);

#endif /* _VMREPL_REGION_H */
