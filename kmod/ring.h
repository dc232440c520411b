/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A ring as its producer sees it. The layout and the order of loads and stores
 * are in uapi/vmrepl.h. What the agent could have changed is never trusted: the
 * tail is checked, and a page that is read back decides about that page only.
 */
#ifndef _VMREPL_RING_KERNEL_H
#define _VMREPL_RING_KERNEL_H

#include <linux/types.h>

#include "vmrepl.h"

struct vm_area_struct;

/**
 * struct vmrepl_ring_mem - one ring
 * @mem:	what the agent maps
 * @recs:	records in @mem
 * @data:	data pages in @mem
 * @nr_slots:	records, a power of two
 * @head:	records produced, some of them not published yet
 * @shown:	records published
 * @tail:	last good tail seen
 */
struct vmrepl_ring_mem {
	struct vmrepl_ring *mem;
	struct vmrepl_rec *recs;
	void *data;
	u32 nr_slots;
	u64 head;
	u64 shown;
	u64 tail;
};

/* Bytes of memory that a ring of so many records takes; page aligned. */
size_t vmrepl_ring_bytes(u32 nr_slots);

/* Return: 0 or -ENOMEM. Sleeps. */
int vmrepl_ring_alloc(struct vmrepl_ring_mem *r, u32 nr_slots);
void vmrepl_ring_free(struct vmrepl_ring_mem *r);

/**
 * vmrepl_ring_room() - records that fit before the agent has to move its tail
 *
 * Producer only. Return: how many, or -EPROTO if the agent wrote a wild tail.
 */
long vmrepl_ring_room(struct vmrepl_ring_mem *r);

/* The data page of the record that comes next; there is room for it. */
void *vmrepl_ring_page(struct vmrepl_ring_mem *r);

/* The data page of record @i; it is not shown yet. */
void *vmrepl_ring_page_at(struct vmrepl_ring_mem *r, u64 i);

/* Append a record. There is room for it, and its page is in place. */
void vmrepl_ring_put(struct vmrepl_ring_mem *r, const struct vmrepl_rec *rec);

/* Show the agent everything appended so far. */
void vmrepl_ring_publish(struct vmrepl_ring_mem *r);

/* Ask for a kick, or not any more. Set it before the last look at the tail. */
void vmrepl_ring_want_kick(struct vmrepl_ring_mem *r, bool want);

/* Tell the agent that the session is broken. */
void vmrepl_ring_set_broken(struct vmrepl_ring_mem *r);

/* Are there records that the agent has neither seen nor passed with its tail? Any context. */
bool vmrepl_ring_readable(struct vmrepl_ring_mem *r);

/* Map all of it into @vma. Return: 0, -EINVAL or -ENOMEM. */
int vmrepl_ring_mmap(struct vmrepl_ring_mem *r, struct vm_area_struct *vma);

#endif /* _VMREPL_RING_KERNEL_H */
