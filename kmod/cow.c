// SPDX-License-Identifier: GPL-2.0
#include <linux/bitops.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "cow.h"
#include "hooks.h"
#include "hostpte.h"
#include "log.h"
#include "region.h"
#include "session.h"

#define SLOT_LOG_SHIFT	16

int vmrepl_cow_alloc(struct vmrepl_cow *cow, unsigned long nr_pages)
{
	unsigned long words = BITS_TO_LONGS(nr_pages);

	cow->pending = kvcalloc(words, sizeof(long), GFP_KERNEL_ACCOUNT);
	cow->busy = kvcalloc(words, sizeof(long), GFP_KERNEL_ACCOUNT);
	cow->slot = kvcalloc(nr_pages, sizeof(u32), GFP_KERNEL_ACCOUNT);
	if (cow->pending && cow->busy && cow->slot)
		return 0;
	vmrepl_cow_free(cow);
	return -ENOMEM;
}

void vmrepl_cow_free(struct vmrepl_cow *cow)
{
	kvfree(cow->slot);
	kvfree(cow->busy);
	kvfree(cow->pending);
	memset(cow, 0, sizeof(*cow));
}

static void *slot_data(struct vmrepl_log *log, u32 i)
{
	return vmrepl_ring_page_at(&log->ring, log->plan_head + i);
}

/* The pages of the plan are in the set again. */
static void put_back(struct vmrepl_session *s, struct vmrepl_log *log, u32 i)
{
	struct vmrepl_cow_page *p = &log->plan[i];
	struct vmrepl_region *r = &s->regions.tab[p->region];
	unsigned long hva = r->start + (p->index << PAGE_SHIFT);

	vmrepl_log_range(s, hva, hva + PAGE_SIZE, false);
}

int vmrepl_cow_begin(struct vmrepl_session *s)
{
	unsigned int l;
	u32 i;

	WRITE_ONCE(s->armed_cow, false);

	for (l = 0; l < s->nr_logs; l++) {
		struct vmrepl_log *log = &s->logs[l];
		long room = vmrepl_ring_room(&log->ring);

		if (room < 0)
			return room;
		for (i = 0; s->torn && i < log->planned; i++) {
			struct vmrepl_cow_page *p = &log->plan[i];

			vmrepl_same_forget(&s->regions.tab[p->region].same,
					   p->index);
			put_back(s, log, i);
		}
		log->planned = 0;
		log->plan_head = log->ring.head;
		/* One more for END. */
		log->plan_room = max(room - 1, 0L);
	}
	s->torn = 0;
	s->unplanned = 0;
	return 0;
}

static struct vmrepl_cow_page *entry_of(struct vmrepl_session *s,
					struct vmrepl_region *r,
					unsigned long index)
{
	u32 slot = r->cow.slot[index];

	return &s->logs[slot >> SLOT_LOG_SHIFT]
			.plan[slot & (BIT(SLOT_LOG_SHIFT) - 1)];
}

bool vmrepl_cow_plan(struct vmrepl_session *s, struct vmrepl_log *log,
		     struct vmrepl_region *r, unsigned long index,
		     struct page *page)
{
	unsigned int l;

	if (test_bit(index, r->cow.pending)) {
		struct vmrepl_cow_page *p = entry_of(s, r, index);

		if (p->page)
			put_page(p->page);
		p->page = page;
		return true;
	}

	for (l = 0; log->planned == log->plan_room; l++) {
		if (l == s->nr_logs)
			return false;
		log = &s->logs[l];
	}
	log->plan[log->planned] = (struct vmrepl_cow_page){
		.page = page,
		.index = index,
		.region = r - s->regions.tab,
	};
	r->cow.slot[index] = (log - s->logs) << SLOT_LOG_SHIFT | log->planned;
	log->planned++;
	/*
	 * Pairs with the barrier in vmrepl_cow_copy(): who sees the bit sees the above,
	 * and that no plan is armed.
	 */
	smp_mb__before_atomic();
	set_bit(index, r->cow.pending);
	return true;
}

void vmrepl_cow_unplan(struct vmrepl_session *s, struct vmrepl_region *r,
		       unsigned long index)
{
	struct vmrepl_cow_page *p;

	if (!test_and_clear_bit(index, r->cow.pending))
		return;
	p = entry_of(s, r, index);
	if (p->page)
		put_page(p->page);
	p->page = NULL;
	p->gone = true;
	s->unplanned++;
}

void vmrepl_cow_arm(struct vmrepl_session *s)
{
	/* Pairs with the acquire in vmrepl_cow_copy(). */
	smp_store_release(&s->armed_cow, true);
}

u64 vmrepl_cow_planned(struct vmrepl_session *s)
{
	unsigned int l;
	u64 pages = 0;

	for (l = 0; l < s->nr_logs; l++)
		pages += s->logs[l].planned;
	return pages - s->unplanned;
}

void vmrepl_cow_undo(struct vmrepl_session *s)
{
	unsigned int l;
	u32 i;

	for (l = 0; l < s->nr_logs; l++) {
		struct vmrepl_log *log = &s->logs[l];

		for (i = 0; i < log->planned; i++) {
			struct vmrepl_cow_page *p = &log->plan[i];

			clear_bit(p->index, s->regions.tab[p->region].cow.pending);
			put_back(s, log, i);
		}
	}
	vmrepl_cow_drop(s);
	s->prepared = false;
}

/*
 * Caller holds the page's busy bit. @look: the VMM's page tables are there: it is the
 * caller's mm, or mmap_lock or the rmap's locks keep them.
 */
static void copy_locked(struct vmrepl_session *s, struct vmrepl_region *r,
			unsigned long index, enum vmrepl_cow_who who, bool look)
{
	u32 slot = r->cow.slot[index];
	struct vmrepl_log *log = &s->logs[slot >> SLOT_LOG_SHIFT];
	u32 i = slot & (BIT(SLOT_LOG_SHIFT) - 1);
	struct vmrepl_cow_page *p = &log->plan[i];
	void *to = slot_data(log, i);
	bool exposed = false, whole;

	/* Of a hole nobody looks at what would be copied. */
	if (p->page) {
		void *from = kmap_local_page(p->page);

		if (copy_mc_to_kernel(to, from, PAGE_SIZE))
			vmrepl_session_break(s, VMREPL_BROKEN_COPY);
		kunmap_local(from);
		/*
		 * Whoever makes it writable for the VMM copies it first, and
		 * waits for us. So nobody can have, unless no hook saw it.
		 */
		exposed = look &&
			  vmrepl_hostpte_writable(s->mm, r->start +
						  (index << PAGE_SHIFT), p->page);
		if (exposed)
			atomic64_inc(&s->stats.exposed);
	}
	/* Full barrier: who sees it clear may write the page, we have read it. */
	whole = test_and_clear_bit(index, r->cow.pending) && !exposed;
	p->copied = whole || debug_break & VMREPL_BREAK_TORN;
	atomic64_inc(&log->copies[who]);
}

/* Return: the page's busy bit is ours, and preemption is off. */
static void busy_lock(struct vmrepl_region *r, unsigned long index)
{
	preempt_disable();
	while (test_and_set_bit_lock(index, r->cow.busy)) {
		/* For the time of one copy: the owner has preemption off too. */
		while (test_bit(index, r->cow.busy))
			cpu_relax();
	}
}

static void busy_unlock(struct vmrepl_region *r, unsigned long index)
{
	clear_bit_unlock(index, r->cow.busy);
	preempt_enable();
}

void vmrepl_cow_copy(struct vmrepl_session *s, struct vmrepl_region *r,
		     unsigned long index, enum vmrepl_cow_who who)
{
	if (!test_bit(index, r->cow.pending))
		return;
	busy_lock(r, index);
	/*
	 * A hook may be late, and the plan another. So in here, and in this order:
	 * while the page is pending in an armed plan that plan does not end, its
	 * worker waits for us; where it is pending in the next one, that one is seen
	 * not to be armed.
	 */
	if (test_bit(index, r->cow.pending)) {
		/* Pairs with the barrier in vmrepl_cow_plan(). */
		smp_rmb();
		/* Pairs with the release in vmrepl_cow_arm(). */
		if (who == VMREPL_COW_PAUSE || smp_load_acquire(&s->armed_cow))
			copy_locked(s, r, index, who, true);
	}
	busy_unlock(r, index);
}

void vmrepl_cow_range(struct vmrepl_session *s, unsigned long start,
		      unsigned long end, enum vmrepl_cow_who who)
{
	/* Pairs with the release in region_add(). */
	unsigned int i, nr = smp_load_acquire(&s->regions.nr);

	for (i = 0; i < nr; i++) {
		struct vmrepl_region *r = &s->regions.tab[i];
		unsigned long stop = r->start + (r->nr_pages << PAGE_SHIFT);
		unsigned long page, last;

		if (end <= r->start || start >= stop)
			continue;
		page = (max(start, r->start) - r->start) >> PAGE_SHIFT;
		last = (min(end, stop) - r->start) >> PAGE_SHIFT;
		for (page = find_next_bit(r->cow.pending, last, page);
		     page < last;
		     page = find_next_bit(r->cow.pending, last, page + 1))
			vmrepl_cow_copy(s, r, page, who);
	}
}

void vmrepl_cow_written(struct vmrepl_session *s, struct vmrepl_region *r,
			unsigned long index)
{
	if (!READ_ONCE(s->armed_cow) || !test_bit(index, r->cow.pending) ||
	    debug_break & VMREPL_BREAK_TORN)
		return;
	if (test_and_clear_bit(index, r->cow.pending))
		atomic64_inc(&s->stats.slipped);
}

bool vmrepl_cow_take(struct vmrepl_log *log, u32 i, bool look)
{
	struct vmrepl_cow_page *p = &log->plan[i];
	struct vmrepl_session *s = log->s;
	struct vmrepl_region *r = &s->regions.tab[p->region];
	bool copied;

	/* Also where it is not pending: its copier may not be through. */
	busy_lock(r, p->index);
	if (test_bit(p->index, r->cow.pending))
		copy_locked(s, r, p->index, VMREPL_COW_WORKER, look);
	copied = p->copied;
	busy_unlock(r, p->index);
	if (p->page)
		put_page(p->page);
	p->page = NULL;
	return copied;
}

void vmrepl_cow_drop(struct vmrepl_session *s)
{
	unsigned int l;
	u32 i;

	for (l = 0; l < s->nr_logs; l++) {
		struct vmrepl_log *log = &s->logs[l];

		for (i = 0; i < log->planned; i++)
			if (log->plan[i].page)
				put_page(log->plan[i].page);
		log->planned = 0;
	}
}
