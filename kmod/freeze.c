// SPDX-License-Identifier: GPL-2.0
#include <linux/interval_tree.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>

#include "compat/compat.h"
#include "compat/ksym.h"
#include "freeze.h"
#include "hooks.h"
#include "hostpte.h"
#include "log.h"
#include "session.h"
#include "trace.h"
#include "worker.h"

/*
 * The set is walked by words of its bitmaps: up to 64 neighbouring pages in one
 * region. Where every page has a log entry, only those words are looked at, and
 * a word may come up more than once.
 */
typedef void (*set_fn)(struct vmrepl_session *s, struct vmrepl_region *r,
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
				fn(s, r, word, mask, data);
		}
	}
}

static void walk_log(struct vmrepl_session *s, struct vmrepl_log_half *half,
		     set_fn fn, void *data)
{
	unsigned long word = 0, mask = 0;
	struct vmrepl_region *r = NULL;
	int i, nr = atomic_read(&half->nr);

	for (i = 0; i < nr; i++) {
		u64 entry = half->entries[i];
		struct vmrepl_region *er =
			&s->regions.tab[entry >> VMREPL_ENTRY_SHIFT];
		unsigned long page = entry & (BIT_ULL(VMREPL_ENTRY_SHIFT) - 1);

		if (er != r || BIT_WORD(page) != word) {
			if (mask)
				fn(s, r, word, mask, data);
			r = er;
			word = BIT_WORD(page);
			mask = 0;
		}
		mask |= BIT_MASK(page);
	}
	if (mask)
		fn(s, r, word, mask, data);
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
		walk_log(s, &s->logs[i].half[h], fn, data);
}

static unsigned long word_hva(struct vmrepl_region *r, unsigned long word)
{
	return r->start + (word * BITS_PER_LONG << PAGE_SHIFT);
}

/*
 * One hva may be seen through several memslots; each has its own mappings.
 * Return: the pages of @mask that some memslot shows.
 */
static unsigned long protect_in_slots(struct kvm *kvm,
				      struct kvm_memslots *slots,
				      unsigned long hva, unsigned long mask)
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
			ksym(kvm_arch_mmu_enable_log_dirty_pt_masked)
				(kvm, slot, (first - start) >> PAGE_SHIFT, bits);
	}
	return seen;
}

struct guest_pass {
	int half;
	u64 pages;
};

static void protect_guest(struct vmrepl_session *s, struct vmrepl_region *r,
			  unsigned long word, unsigned long mask, void *data)
{
	struct guest_pass *pass = data;
	struct kvm *kvm = s->kvm;
	unsigned long seen = 0;
	int as;

	for (as = 0; as < compat_address_spaces(kvm); as++)
		seen |= protect_in_slots(kvm, __kvm_memslots(kvm, as),
					 word_hva(r, word), mask);
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

struct host_pass {
	struct vmrepl_hostpte pte;
	bool live;
};

/*
 * Pages that may be written unseen stay in the set: those pinned or migrated now,
 * and over live rounds everything that the host side touched, because not every
 * kernel marks the pages of an O_DIRECT read as pinned. In a quiet freeze there
 * is no such I/O.
 */
static void protect_host(struct vmrepl_session *s, struct vmrepl_region *r,
			 unsigned long word, unsigned long mask, void *data)
{
	struct host_pass *pass = data;
	atomic_long_t *held = (atomic_long_t *)&r->held[word];
	unsigned long hva = word_hva(r, word);
	unsigned long again, bit;

	again = vmrepl_hostpte_protect(&pass->pte, hva, mask);
	atomic64_add(hweight_long(again), &s->stats.pinned);
	if (pass->live)
		again |= atomic_long_read(held) & mask;
	else
		atomic_long_andnot(mask, held);
	for_each_set_bit(bit, &again, BITS_PER_LONG)
		vmrepl_log_range(s, hva + (bit << PAGE_SHIFT),
				 hva + ((bit + 1) << PAGE_SHIFT), true);
	cond_resched();
}

static u64 protect_set(struct vmrepl_session *s, int h, bool live, bool scan)
{
	struct host_pass host = { .pte.mm = s->mm, .live = live };
	struct guest_pass guest = { .half = h };
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
	compat_lock_faults(s->mm, live);
	walk_set(s, h, scan, protect_host, &host);
	vmrepl_hostpte_flush(&host.pte);
	compat_unlock_faults(s->mm, live);
	return guest.pages;
}

static int may_freeze(struct vmrepl_session *s, struct vmrepl_freeze *f)
{
	if (!s->attached)
		return -ENOTCONN;
	if (f->flags & ~VMREPL_FREEZE_LIVE || f->pad || f->epoch <= s->epoch)
		return -EINVAL;
	if (READ_ONCE(s->broken))
		return -EIO;
	if (READ_ONCE(s->gone))
		return -ESRCH;
	if (vmrepl_workers_busy(s))
		return -EBUSY;
	if (READ_ONCE(s->stale))
		return -ESTALE;
	return 0;
}

int vmrepl_freeze(struct vmrepl_session *s, struct vmrepl_freeze *f)
{
	bool live = f->flags & VMREPL_FREEZE_LIVE;
	u64 start = ktime_get_ns();
	bool scan;
	int err, h;

	err = may_freeze(s, f);
	if (err)
		return err;
	if (!mmget_not_zero(s->mm))
		return -ESRCH;

	h = vmrepl_log_flip(s);
	scan = vmrepl_log_needs_scan(s, h);
	if (scan)
		atomic64_inc(&s->stats.log_overflows);

	f->pages = 0;
	if (likely(!(debug_break & VMREPL_BREAK_PROTECT)))
		f->pages = protect_set(s, h, live, scan);

	s->epoch = f->epoch;
	s->stats.freezes++;
	vmrepl_workers_start(s, h, scan);
	mmput(s->mm);
	f->ns = ktime_get_ns() - start;
	trace_vmrepl_freeze(s->kvm->userspace_pid, f, scan);
	return 0;
}
