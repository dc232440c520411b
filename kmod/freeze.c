// SPDX-License-Identifier: GPL-2.0
#include <linux/interval_tree.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>

#include "compat/compat.h"
#include "compat/ksym.h"
#include "cow.h"
#include "freeze.h"
#include "hooks.h"
#include "hostpte.h"
#include "log.h"
#include "session.h"
#include "trace.h"
#include "tracking.h"
#include "worker.h"

/*
 * The set is walked by words of its bitmaps: up to 64 neighbouring pages in one
 * region. Where every page has a log entry, only those words are looked at, and
 * a word may come up more than once. @log is the one that listed them, or whose
 * turn it is.
 */
typedef void (*set_fn)(struct vmrepl_log *log, struct vmrepl_region *r,
		       unsigned long word, unsigned long mask, void *data);

static void walk_bitmaps(struct vmrepl_session *s, int h, set_fn fn, void *data)
{
	unsigned int i;

	for (i = 0; i < s->regions.nr; i++) {
		struct vmrepl_region *r = &s->regions.tab[i];
		unsigned long word, mask;

		for (word = 0; word < BITS_TO_LONGS(r->nr_pages); word++) {
			mask = READ_ONCE(r->dirty[h][word]);
			if (mask)
				fn(&s->logs[word % s->nr_logs], r, word, mask,
				   data);
		}
	}
}

static void walk_log(struct vmrepl_log *log, int h, set_fn fn, void *data)
{
	struct vmrepl_log_half *half = &log->half[h];
	unsigned long word = 0, mask = 0;
	struct vmrepl_region *r = NULL;
	int i, nr = atomic_read(&half->nr);

	for (i = 0; i < nr; i++) {
		u64 entry = half->entries[i];
		struct vmrepl_region *er =
			&log->s->regions.tab[entry >> VMREPL_ENTRY_SHIFT];
		unsigned long page = entry & (BIT_ULL(VMREPL_ENTRY_SHIFT) - 1);

		if (er != r || BIT_WORD(page) != word) {
			if (mask)
				fn(log, r, word, mask, data);
			r = er;
			word = BIT_WORD(page);
			mask = 0;
		}
		mask |= BIT_MASK(page);
	}
	if (mask)
		fn(log, r, word, mask, data);
}

static void walk_set(struct vmrepl_session *s, int h, bool scan, set_fn fn,
		     void *data)
{
	unsigned int i;

	if (scan) {
		walk_bitmaps(s, h, fn, data);
		return;
	}
	for (i = 0; i < s->nr_logs; i++)
		walk_log(&s->logs[i], h, fn, data);
}

static unsigned long word_hva(struct vmrepl_region *r, unsigned long word)
{
	return r->start + (word * BITS_PER_LONG << PAGE_SHIFT);
}

/*
 * One hva may be seen through several memslots; each has its own mappings.
 * @before: a store is to be seen before it is done.
 * Return: the pages of @mask that some memslot shows.
 */
static unsigned long protect_in_slots(struct kvm *kvm,
				      struct kvm_memslots *slots,
				      unsigned long hva, unsigned long mask,
				      bool before)
{
	unsigned long stop = hva + (BITS_PER_LONG << PAGE_SHIFT);
	struct interval_tree_node *node;
	unsigned long seen = 0;

	for (node = interval_tree_iter_first(&slots->hva_tree, hva, stop - 1);
	     node; node = interval_tree_iter_next(node, hva, stop - 1)) {
		struct kvm_memory_slot *slot =
			container_of(node, struct kvm_memory_slot,
				     hva_node[slots->node_idx]);
		unsigned long start = slot->userspace_addr;
		unsigned long end = start + (slot->npages << PAGE_SHIFT);
		unsigned long first = max(start, hva);
		unsigned long last = min(end, stop) - 1;
		unsigned long bits;

		bits = mask & GENMASK((last - hva) >> PAGE_SHIFT,
				      (first - hva) >> PAGE_SHIFT);
		seen |= bits;
		bits >>= (first - hva) >> PAGE_SHIFT;
		if (bits && !(slot->flags & KVM_MEM_READONLY))
			vmrepl_tracking_protect(kvm, slot, (first - start) >>
						PAGE_SHIFT, bits, before);
	}
	return seen;
}

struct guest_pass {
	int half;
	bool cow;
	u64 pages;
};

static void protect_guest(struct vmrepl_log *log, struct vmrepl_region *r,
			  unsigned long word, unsigned long mask, void *data)
{
	struct guest_pass *pass = data;
	struct kvm *kvm = log->s->kvm;
	unsigned long seen = 0;
	int as;

	for (as = 0; as < compat_address_spaces(kvm); as++)
		seen |= protect_in_slots(kvm, __kvm_memslots(kvm, as),
					 word_hva(r, word), mask, pass->cow);
	/*
	 * What no memslot shows is not the guest's now, and the VMM may have put
	 * something of its own there. Should a memslot show it again, that alone
	 * puts all of it into the set.
	 */
	if (mask & ~seen)
		atomic_long_andnot(mask & ~seen, (atomic_long_t *)
				   &r->dirty[pass->half][word]);
	pass->pages += hweight_long(seen);
	cond_resched_rwlock_write(&kvm->mmu_lock);
}

/*
 * What is done with a set.
 * @live:	the guest runs
 * @plan:	its pages get places in the rings, to be copied on write
 * @early:	it is not frozen yet: what gets no place stays in the set
 * @go_on:	the guest goes on when all of them have one
 */
struct purpose {
	bool live;
	bool plan;
	bool early;
	bool go_on;
};

/*
 * @half:	of the set
 * @rest:	pages that found no place in a ring
 */
struct host_pass {
	struct vmrepl_hostpte pte;
	struct purpose is;
	int half;
	u64 rest;
};

static void log_page(struct vmrepl_session *s, unsigned long hva, bool host)
{
	vmrepl_log_range(s, hva, hva + PAGE_SIZE, host);
}

/* What has a place in a ring is not in the bitmap any more. */
static void plan_word(struct vmrepl_log *log, struct vmrepl_region *r,
		      unsigned long word, unsigned long mask,
		      unsigned long again, struct host_pass *pass)
{
	struct vmrepl_session *s = log->s;
	unsigned long bit, planned = 0;

	for_each_set_bit(bit, &mask, BITS_PER_LONG) {
		unsigned long index = word * BITS_PER_LONG + bit;
		struct page *page = pass->pte.page[bit];

		if ((page || pass->pte.zeros & BIT(bit)) &&
		    vmrepl_cow_plan(s, log, r, index, page))
			planned |= BIT(bit);
		else if (page)
			put_page(page);
	}
	again &= planned;
	if (!pass->is.live)
		for_each_set_bit(bit, &again, BITS_PER_LONG)
			vmrepl_cow_copy(s, r, word * BITS_PER_LONG + bit,
					VMREPL_COW_PAUSE);
	pass->rest += hweight_long(mask & ~planned);
	atomic_long_andnot(pass->is.early ? mask : planned,
			   (atomic_long_t *)&r->dirty[pass->half][word]);
	mask &= ~planned;
	/* What PREPARE took hold of is not what is there now. */
	for_each_set_bit(bit, &mask, BITS_PER_LONG)
		vmrepl_cow_unplan(s, r, word * BITS_PER_LONG + bit);
	if (pass->is.early)
		for_each_set_bit(bit, &mask, BITS_PER_LONG)
			log_page(s, word_hva(r, word) + (bit << PAGE_SHIFT), false);
}

/*
 * Pages that may be written unseen stay in the set: those pinned or migrated now,
 * and over live rounds everything that the host side touched, because not every
 * kernel marks the pages of an O_DIRECT read as pinned. In a quiet freeze there
 * is no such I/O.
 */
static void protect_host(struct vmrepl_log *log, struct vmrepl_region *r,
			 unsigned long word, unsigned long mask, void *data)
{
	struct vmrepl_session *s = log->s;
	struct host_pass *pass = data;
	atomic_long_t *held = (atomic_long_t *)&r->held[word];
	unsigned long hva = word_hva(r, word);
	unsigned long again, bit;

	/* Without those that no memslot shows, or that were planned already. */
	if (pass->is.plan)
		mask &= READ_ONCE(r->dirty[pass->half][word]);
	again = vmrepl_hostpte_protect(&pass->pte, hva, mask);
	if (pass->is.plan)
		plan_word(log, r, word, mask, again, pass);
	atomic64_add(hweight_long(again), &s->stats.pinned);
	if (pass->is.live)
		again |= atomic_long_read(held) & mask;
	else
		atomic_long_andnot(mask, held);
	for_each_set_bit(bit, &again, BITS_PER_LONG)
		log_page(s, hva + (bit << PAGE_SHIFT), true);
	cond_resched();
}

/*
 * KVM writes these through mappings of its own, and marks them afterwards: the
 * clock page at the next entry, the steal time whenever a vCPU is scheduled out.
 */
static void copy_unseen(struct vmrepl_session *s)
{
	struct kvm_vcpu *vcpu;
	unsigned long i, hva;

	kvm_for_each_vcpu(i, vcpu, s->kvm) {
		hva = READ_ONCE(vcpu->arch.pv_time.uhva) & PAGE_MASK;
		vmrepl_cow_range(s, hva, hva + PAGE_SIZE, VMREPL_COW_PAUSE);
		hva = READ_ONCE(vcpu->arch.st.cache.hva) & PAGE_MASK;
		vmrepl_cow_range(s, hva, hva + PAGE_SIZE, VMREPL_COW_PAUSE);
	}
}

/*
 * While a vCPU runs a guest of its guest, the processor writes pages of the VM by
 * their physical addresses (VMX: the virtual APIC page, the posted-interrupt
 * descriptor), and KVM marks them only when that guest exits.
 */
static u64 nested_guests(struct vmrepl_session *s)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;
	u64 nr = 0;

	kvm_for_each_vcpu(i, vcpu, s->kvm)
		nr += !!(READ_ONCE(vcpu->arch.hflags) & HF_GUEST_MASK);
	return nr;
}

/*
 * @pages: pages of the set that some memslot shows; with a plan only those that have
 * no place in a ring
 * Return: why the guest cannot go on: pages that have no place in a ring, and vCPUs
 * that run a nested guest.
 */
static u64 protect_set(struct vmrepl_session *s, struct purpose is, int h,
		       bool scan, u64 *pages)
{
	u64 nested = 0;
	struct host_pass host = {
		.pte = { .mm = s->mm, .hold = is.plan },
		.is = is,
		.half = h,
	};
	struct guest_pass guest = {
		.half = h,
		.cow = is.plan && !(debug_break & VMREPL_BREAK_TRACKING),
	};
	struct kvm *kvm = s->kvm;

	mutex_lock(&kvm->slots_lock);
	write_lock(&kvm->mmu_lock);
	walk_set(s, h, scan, protect_guest, &guest);
	write_unlock(&kvm->mmu_lock);
	mutex_unlock(&kvm->slots_lock);
	if (guest.pages)
		ksym(kvm_flush_remote_tlbs)(kvm);

	/*
	 * A fault that was logged before the flip may make its page writable only
	 * now: this waits for it, so that the protection comes after it.
	 */
	compat_lock_faults(s->mm, is.live);
	walk_set(s, h, scan, protect_host, &host);
	vmrepl_hostpte_flush(&host.pte);
	if (is.plan && !is.early)
		copy_unseen(s);
	if (is.go_on) {
		nested = nested_guests(s);
		if (!host.rest && !nested)
			vmrepl_cow_arm(s);
	}
	compat_unlock_faults(s->mm, is.live);
	/* What is planned is counted there. */
	*pages = is.plan ? host.rest : guest.pages;
	return host.rest + nested;
}

static int may_freeze(struct vmrepl_session *s)
{
	if (!s->attached)
		return -ENOTCONN;
	if (READ_ONCE(s->broken))
		return -EIO;
	if (READ_ONCE(s->gone))
		return -ESRCH;
	if (vmrepl_workers_busy(s))
		return -EBUSY;
	/*
	 * No epoch is being copied. A change of memslots is stale from here on, or
	 * moved in the epoch that follows. Pairs with hook_slot(), which sets both in
	 * the other order.
	 */
	smp_store_mb(s->moved, false);
	if (READ_ONCE(s->stale))
		return -ESTALE;
	return 0;
}

/* From here on there is a plan, and mm_users of s->mm is held. */
static int begin(struct vmrepl_session *s)
{
	if (!s->prepared && vmrepl_cow_begin(s)) {
		vmrepl_session_break(s, VMREPL_BROKEN_RING);
		return -EIO;
	}
	return mmget_not_zero(s->mm) ? 0 : -ESRCH;
}

int vmrepl_prepare(struct vmrepl_session *s, struct vmrepl_prepare *p)
{
	struct purpose is = { .live = true, .plan = true, .early = true };
	u64 start = ktime_get_ns(), pages;
	unsigned int i;
	int err, h;

	err = may_freeze(s);
	if (!err)
		err = begin(s);
	if (err)
		return err;

	s->prepared = true;
	if (likely(!(debug_break & VMREPL_BREAK_PROTECT))) {
		h = vmrepl_log_flip(s);
		protect_set(s, is, h, vmrepl_log_needs_scan(s, h), &pages);
		/* Nothing is left in there. */
		for (i = 0; i < s->nr_logs; i++)
			vmrepl_log_reset(&s->logs[i], h);
	}
	mmput(s->mm);
	p->pages = vmrepl_cow_planned(s);
	p->ns = ktime_get_ns() - start;
	s->stats.prepare_ns += p->ns;
	return 0;
}

int vmrepl_freeze(struct vmrepl_session *s, struct vmrepl_freeze *f)
{
	bool asked = f->flags & VMREPL_FREEZE_COW;
	/* Without it hook_guest_fault() is not told which page it is. */
	bool cow = asked && s->tdp;
	struct purpose is = {
		.live = f->flags & VMREPL_FREEZE_LIVE,
		.plan = cow || s->prepared,
		.go_on = cow,
	};
	u64 start = ktime_get_ns();
	u64 rest = 1;
	bool scan;
	int err, h;

	if (f->flags & ~(VMREPL_FREEZE_LIVE | VMREPL_FREEZE_COW) ||
	    hweight32(f->flags) > 1 || f->pad)
		return -EINVAL;
	err = may_freeze(s);
	if (err)
		return err;
	if (f->epoch <= s->epoch)
		return -EINVAL;
	err = begin(s);
	if (err)
		return err;

	h = vmrepl_log_flip(s);
	scan = vmrepl_log_needs_scan(s, h);
	if (scan)
		atomic64_inc(&s->stats.log_overflows);

	f->pages = 0;
	if (likely(!(debug_break & VMREPL_BREAK_PROTECT)))
		rest = protect_set(s, is, h, scan, &f->pages);
	if (is.plan) {
		u64 planned = vmrepl_cow_planned(s);

		f->pages += planned;
		s->stats.planned += planned;
	}
	if (asked && (!cow || rest)) {
		f->flags &= ~VMREPL_FREEZE_COW;
		s->stats.cow_refused++;
	}

	s->prepared = false;
	s->epoch = f->epoch;
	s->stats.freezes++;
	vmrepl_workers_start(s, h, scan, cow && !rest);
	mmput(s->mm);
	f->ns = ktime_get_ns() - start;
	s->stats.freeze_ns += f->ns;
	trace_vmrepl_freeze(s->kvm->userspace_pid, f, scan);
	return 0;
}
