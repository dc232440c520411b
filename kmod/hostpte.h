/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The VMM's own page tables over guest RAM.
 *
 * Invariant: outside a fault, every page that the VMM could write without one is
 * in the set. It holds because the set's pages are made read-only at each
 * freeze, and because the hook on handle_mm_fault() (and hugetlb_fault()) takes into
 * the set, before the fault is handled, every page that the fault could make
 * writable.
 *
 * KVM is not told: it goes on mapping the same pages. A fault on such a page
 * finds that nobody else uses it and makes it writable again in place, so a
 * page's identity never changes. What KVM maps for the guest has a protection of
 * its own (freeze.c).
 */
#ifndef _VMREPL_HOSTPTE_H
#define _VMREPL_HOSTPTE_H

#include <linux/types.h>

struct mm_struct;
struct page;
struct vm_area_struct;
struct vmrepl_session;

/**
 * vmrepl_hostpte_fault_range() - which pages may a fault make writable?
 * @vma:	where it happens; its page tables cannot be freed now
 * @addr:	the address
 * @flags:	FAULT_FLAG_*
 * @ours:	one of our workers reads there
 * @start, @end: set to the range
 *
 * Context of handle_mm_fault()'s or hugetlb_fault()'s entry. Return: there are any.
 */
bool vmrepl_hostpte_fault_range(struct vm_area_struct *vma, unsigned long addr,
				unsigned int flags, bool ours,
				unsigned long *start, unsigned long *end);

/**
 * struct vmrepl_hostpte - one pass of protection over a set
 * @mm:		the VMM's; caller is between compat_lock_faults() and _unlock_
 * @start, @end: what has to be flushed
 * @hold:	take hold of the pages too
 * @page:	what is mapped at each, with a reference; or NULL
 * @zeros:	those where nothing is mapped, or what reads as zeros for ever
 * @vma:	looked at last
 *
 * @page and @zeros are of the last vmrepl_hostpte_protect(). What is in neither has
 * to be read through the mapping: it is in swap, or on its way.
 */
struct vmrepl_hostpte {
	struct mm_struct *mm;
	unsigned long start;
	unsigned long end;
	bool hold;
	struct page *page[BITS_PER_LONG];
	unsigned long zeros;
	struct vm_area_struct *vma;
};

/**
 * vmrepl_hostpte_protect() - make up to 64 pages read-only
 * @p:		the pass
 * @hva:	address of the first
 * @mask:	which of them
 *
 * The TLBs still have them writable until vmrepl_hostpte_flush().
 * Return: those of @mask that must be in the next set too, because they may be
 * written unseen: pinned for DMA, or under migration.
 */
unsigned long vmrepl_hostpte_protect(struct vmrepl_hostpte *p, unsigned long hva,
				     unsigned long mask);

/*
 * Is nothing mapped at @addr, in memory of hugetlbfs? Caller has mmap_lock, and finds
 * out otherwise whether the file has a page there.
 */
bool vmrepl_hostpte_huge_none(struct mm_struct *mm, unsigned long addr);

void vmrepl_hostpte_flush(struct vmrepl_hostpte *p);

/**
 * vmrepl_hostpte_writable() - could the VMM write a page without a fault?
 * @mm:		the VMM's; mm_count is held
 * @addr:	where
 * @page:	the page that is meant; what else may be mapped there does not count
 *
 * Context: any in which no page table at @addr is freed, but for what IRQs off on a CPU
 * that uses @mm keep: a task of it, a kthread in kthread_use_mm(); or with mmap_lock, or
 * the locks of a walk through its rmap.
 */
bool vmrepl_hostpte_writable(struct mm_struct *mm, unsigned long addr,
			     const struct page *page);

#endif /* _VMREPL_HOSTPTE_H */
