// SPDX-License-Identifier: GPL-2.0
#include <linux/bitops.h>
#include <linux/mm.h>
#include <linux/preempt.h>
#include <linux/slab.h>

#include "compat/ksym.h"
#include "cow.h"
#include "log.h"
#include "session.h"

static void half_free(struct vmrepl_log_half *half)
{
	kvfree(half->entries);
	half->entries = NULL;
}

static int half_alloc(struct vmrepl_log_half *half)
{
	half->entries = kvcalloc(VMREPL_LOG_ENTRIES, sizeof(u64),
				 GFP_KERNEL_ACCOUNT);
	return half->entries ? 0 : -ENOMEM;
}

static void log_free(struct vmrepl_log *log)
{
	kvfree(log->plan);
	log->plan = NULL;
	vmrepl_ring_free(&log->ring);
	half_free(&log->half[1]);
	half_free(&log->half[0]);
}

void vmrepl_logs_free(struct vmrepl_session *s)
{
	unsigned int i;

	for (i = s->nr_logs; i--; )
		log_free(&s->logs[i]);
	kvfree(s->logs);
	s->logs = NULL;
}

static int plan_alloc(struct vmrepl_log *log, u32 ring_slots)
{
	log->plan = kvcalloc(ring_slots, sizeof(*log->plan),
			     GFP_KERNEL_ACCOUNT);
	return log->plan ? 0 : -ENOMEM;
}

int vmrepl_logs_alloc(struct vmrepl_session *s, u32 ring_slots)
{
	unsigned int i;
	int err;

	s->logs = kvcalloc(s->nr_logs, sizeof(*s->logs), GFP_KERNEL_ACCOUNT);
	if (!s->logs)
		return -ENOMEM;

	for (i = 0; i < s->nr_logs; i++) {
		struct vmrepl_log *log = &s->logs[i];

		log->s = s;
		init_waitqueue_head(&log->wait);
		err = half_alloc(&log->half[0]);
		if (!err)
			err = half_alloc(&log->half[1]);
		if (!err)
			err = vmrepl_ring_alloc(&log->ring, ring_slots);
		if (!err)
			err = plan_alloc(log, ring_slots);
		if (err) {
			/* Freeing what was never allocated is harmless. */
			vmrepl_logs_free(s);
			return err;
		}
	}
	return 0;
}

/* The log of the vCPU that this runs for, or the one for everybody else. */
static struct vmrepl_log *log_of_current(struct vmrepl_session *s, bool *is_vcpu)
{
	struct kvm_vcpu *vcpu = ksym(kvm_get_running_vcpu)();

	*is_vcpu = vcpu && vcpu->kvm == s->kvm &&
		   vcpu->vcpu_idx < s->nr_logs - 1;
	return &s->logs[*is_vcpu ? vcpu->vcpu_idx : s->nr_logs - 1];
}

/* Preemption must be off from here to log_leave(): a freeze waits for us. */
static struct vmrepl_log_half *log_enter(struct vmrepl_session *s,
					 struct vmrepl_log *log, int *h)
{
	for (;;) {
		u32 gen = READ_ONCE(s->gen);
		struct vmrepl_log_half *half = &log->half[gen & 1];

		atomic_inc(&half->users);
		smp_mb__after_atomic();		/* (A) in log.h */
		if (READ_ONCE(s->gen) == gen) {
			*h = gen & 1;
			return half;
		}
		atomic_dec(&half->users);
	}
}

static void log_leave(struct vmrepl_log_half *half)
{
	/* Release: the freeze sees bit and entry when it sees zero users. */
	atomic_dec_return_release(&half->users);
}

static bool log_add(struct vmrepl_log_half *half, struct vmrepl_region *r,
		    unsigned int region, unsigned long page, int h)
{
	int i;

	if (test_and_set_bit(page, r->dirty[h]))
		return false;

	/* Atomic: a vCPU that is scheduled out nests here within itself. */
	i = atomic_fetch_inc(&half->nr);
	if (likely(i < VMREPL_LOG_ENTRIES)) {
		half->entries[i] = (u64)region << VMREPL_ENTRY_SHIFT | page;
	} else {
		/* Stay far from where the counter would wrap. */
		atomic_dec(&half->nr);
		WRITE_ONCE(half->scan, true);
	}
	return true;
}

void vmrepl_log_dirty(struct vmrepl_session *s, unsigned long hva)
{
	struct vmrepl_log_half *half;
	struct vmrepl_region *r;
	unsigned int region;
	bool is_vcpu;
	int h;

	/* Memory that is not known yet is wholly dirty when it becomes known. */
	r = vmrepl_region_find(&s->regions, hva, &region);
	if (!r)
		return;

	preempt_disable();
	half = log_enter(s, log_of_current(s, &is_vcpu), &h);
	if (log_add(half, r, region, (hva - r->start) >> PAGE_SHIFT, h))
		atomic64_inc(is_vcpu ? &s->stats.vcpu_events :
				       &s->stats.kvm_events);
	/* In here: a plan begins before the flip, which waits for us. */
	vmrepl_cow_written(s, r, (hva - r->start) >> PAGE_SHIFT);
	log_leave(half);
	preempt_enable();
}

/* Many pages at once: bits by the word, and no entries. */
static unsigned long log_words(struct vmrepl_log_half *half,
			       struct vmrepl_region *r, unsigned long first,
			       unsigned long last, int h, bool host)
{
	unsigned long added = 0, i = first;

	while (i < last) {
		unsigned long *word = &r->dirty[h][BIT_WORD(i)];
		unsigned long next = min(last, round_down(i, BITS_PER_LONG) +
						 BITS_PER_LONG);
		unsigned long mask = GENMASK((next - 1) % BITS_PER_LONG,
					     i % BITS_PER_LONG);
		unsigned long old;

		old = atomic_long_fetch_or(mask, (atomic_long_t *)word);
		added += hweight_long(mask & ~old);
		if (host)
			atomic_long_or(mask,
				       (atomic_long_t *)&r->held[BIT_WORD(i)]);
		i = next;
	}
	if (added)
		WRITE_ONCE(half->scan, true);
	return added;
}

static unsigned long log_pages(struct vmrepl_log_half *half,
			       struct vmrepl_region *r, unsigned int region,
			       unsigned long first, unsigned long last, int h,
			       bool host)
{
	unsigned long added = 0, i;

	if (last - first > 2 * BITS_PER_LONG)
		return log_words(half, r, first, last, h, host);
	for (i = first; i < last; i++) {
		added += log_add(half, r, region, i, h);
		if (host)
			set_bit(i, r->held);
	}
	return added;
}

/* Preemption is off for at most this many pages at a time. */
#define RANGE_CHUNK	(64 * 1024UL)

unsigned long vmrepl_log_range(struct vmrepl_session *s, unsigned long start,
			       unsigned long end, bool host)
{
	/* Pairs with the release in region_add(). */
	unsigned int i, nr = smp_load_acquire(&s->regions.nr);
	struct vmrepl_log *log = &s->logs[s->nr_logs - 1];
	unsigned long added = 0;

	for (i = 0; i < nr; i++) {
		struct vmrepl_region *r = &s->regions.tab[i];
		unsigned long stop = r->start + (r->nr_pages << PAGE_SHIFT);
		unsigned long first, last, next;

		if (end <= r->start || start >= stop)
			continue;
		first = (max(start, r->start) - r->start) >> PAGE_SHIFT;
		last = (min(end, stop) - r->start) >> PAGE_SHIFT;
		for (; first < last; first = next) {
			struct vmrepl_log_half *half;
			int h;

			next = min(last, first + RANGE_CHUNK);
			preempt_disable();
			half = log_enter(s, log, &h);
			added += log_pages(half, r, i, first, next, h, host);
			log_leave(half);
			preempt_enable();
		}
	}
	return added;
}

int vmrepl_log_flip(struct vmrepl_session *s)
{
	int old = s->gen & 1;
	unsigned int i;

	WRITE_ONCE(s->gen, s->gen + 1);
	smp_mb();				/* (B) in log.h */
	for (i = 0; i < s->nr_logs; i++) {
		/* Bounded: users have preemption off. Acquire: their bits. */
		while (atomic_read_acquire(&s->logs[i].half[old].users))
			cpu_relax();
	}
	return old;
}

bool vmrepl_log_needs_scan(struct vmrepl_session *s, int h)
{
	unsigned int i;

	for (i = 0; i < s->nr_logs; i++)
		if (READ_ONCE(s->logs[i].half[h].scan))
			return true;
	return false;
}

void vmrepl_log_reset(struct vmrepl_log *log, int h)
{
	struct vmrepl_log_half *half = &log->half[h];

	/* Somebody may read it meanwhile. */
	WRITE_ONCE(log->stats.events, log->stats.events + atomic_read(&half->nr));
	atomic_set(&half->nr, 0);
	WRITE_ONCE(half->scan, false);
}
