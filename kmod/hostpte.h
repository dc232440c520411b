/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The VMM's own page tables over guest RAM.
 *
 * Invariant: outside a fault, every page that the VMM could write without one is
 * in the set. It holds because the set's pages are made read-only at each
 * freeze, and because the hook on handle_mm_fault() takes into the set, before
 * the fault is handled, every page that the fault could make writable.
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
 * Context of handle_mm_fault()'s entry. Return: there are any.
 */
bool vmrepl_hostpte_fault_range(struct vm_area_struct *vma, unsigned long addr,
				unsigned int flags, bool ours,
				unsigned long *start, unsigned long *end);

/**
 * struct vmrepl_hostpte - one pass of protection over a set
 * @mm:		the VMM's; caller is between compat_lock_faults() and _unlock_
 * @start, @end: what has to be flushed
 */
struct vmrepl_hostpte {
	struct mm_struct *mm;
	unsigned long start;
	unsigned long end;
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

void vmrepl_hostpte_flush(struct vmrepl_hostpte *p);

#endif /* _VMREPL_HOSTPTE_H */
