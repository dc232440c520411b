// SPDX-License-Identifier: GPL-2.0
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "compat/compat.h"
#include "compat/ksym.h"
#include "hostpte.h"

/* The PMD of an address, or NULL where there is none. */
static pmd_t *pmd_of(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud) || pud_leaf(*pud))
		return NULL;
	return pmd_offset(pud, addr);
}

static bool pmd_is_table(pmd_t pmd)
{
	return !pmd_none(pmd) && pmd_present(pmd) && !pmd_leaf(pmd);
}

bool vmrepl_hostpte_fault_range(struct vm_area_struct *vma, unsigned long addr,
				unsigned int flags, bool ours,
				unsigned long *start, unsigned long *end)
{
	pmd_t *pmdp = pmd_of(vma->vm_mm, addr);
	pmd_t pmd = pmdp ? READ_ONCE(*pmdp) : __pmd(0);
	pte_t pte = __pte(0);

	/* Should a collapse take the table away: the hook's RCU section keeps it. */
	if (pmd_is_table(pmd))
		pte = READ_ONCE(*pte_offset_kernel(&pmd, addr));

	/*
	 * Our own reads of private memory map the zero page, or what was
	 * swapped out, read-only; but where there is no page table they may map
	 * a huge page of zeros that is writable (sysfs: use_zero_page). Shared
	 * memory they map writable.
	 */
	if (ours && vma_is_anonymous(vma) && !(flags & FAULT_FLAG_WRITE) &&
	    (!pmd_none(pmd) || vma->vm_flags & VM_NOHUGEPAGE) &&
	    compat_read_maps_readonly(pmd, pte))
		return false;

	if (pmd_is_table(pmd) && compat_fault_maps_one(vma, flags, pte)) {
		*start = addr & PAGE_MASK;
		*end = *start + PAGE_SIZE;
		return true;
	}

	/*
	 * A huge page becomes writable as a whole; where nothing is mapped yet it
	 * may become one; a read of a file, or a large folio, may map its
	 * neighbours along. Should there be a huge page or none by the time of
	 * the fault, the notifier has logged what was collapsed or unmapped.
	 */
	*start = max(addr & PMD_MASK, vma->vm_start);
	*end = min((addr & PMD_MASK) + PMD_SIZE, vma->vm_end);
	return true;
}

static void changed(struct vmrepl_hostpte *p, unsigned long start,
		    unsigned long end)
{
	if (p->start == p->end) {
		p->start = start;
		p->end = end;
	} else {
		p->start = min(p->start, start);
		p->end = max(p->end, end);
	}
}

/*
 * The lock-free pinning in mm/gup.c takes its reference and then looks whether
 * the entry is still the one it saw. Changing the entry and taking the reference
 * are both full barriers on x86: either that sees the change, or this sees the pin.
 */
static bool pfn_pinned(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);

	return page && folio_maybe_dma_pinned(page_folio(page));
}

/*
 * What protect_huge() and protect_pte() return: the page must be in the next set
 * too. Either a device may write it through its pin, or it is being migrated, and
 * the end of that gives it back as writable as it was, without a fault and without
 * a notifier.
 */
static bool protect_huge(struct vmrepl_hostpte *p, pmd_t *pmdp,
			 unsigned long addr)
{
	unsigned long base = addr & PMD_MASK;
	bool again = false;
	spinlock_t *ptl;	/* of the page table */

	ptl = pmd_lock(p->mm, pmdp);
	if (is_pmd_migration_entry(*pmdp)) {
		again = is_writable_migration_entry(pmd_to_swp_entry(*pmdp));
	} else if (pmd_present(*pmdp) && pmd_leaf(*pmdp)) {
		if (pmd_write(*pmdp)) {
			pmdp_set_wrprotect(p->mm, base, pmdp);
			changed(p, base, base + PMD_SIZE);
		}
		again = pfn_pinned(pmd_pfn(*pmdp) +
				   ((addr - base) >> PAGE_SHIFT));
	}
	/* Split meanwhile: the notifier logs the range when that has ended. */
	spin_unlock(ptl);
	return again;
}

/* Caller has the table locked. */
static bool protect_pte(struct vmrepl_hostpte *p, pte_t *ptep,
			unsigned long addr)
{
	bool again = false;

	if (is_swap_pte(*ptep)) {
		again = is_writable_migration_entry(pte_to_swp_entry(*ptep));
	} else if (pte_present(*ptep) && !pte_special(*ptep)) {
		if (pte_write(*ptep)) {
			ptep_set_wrprotect(p->mm, addr, ptep);
			changed(p, addr, addr + PAGE_SIZE);
		}
		again = pfn_pinned(pte_pfn(*ptep));
	}
	return again;
}

/*
 * As in pte_offset_map_lock(): the collapse of shared memory takes page tables
 * away under their lock, and frees them after an RCU grace period.
 * Return: the table is still there, and @again is what protect_pte() said.
 */
static bool protect_in_table(struct vmrepl_hostpte *p, pmd_t *pmdp, pmd_t pmd,
			     unsigned long addr, bool *again)
{
	spinlock_t *ptl;	/* of the page table */
	bool there;

	ptl = pte_lockptr(p->mm, &pmd);
	spin_lock(ptl);
	there = pmd_same(pmd, READ_ONCE(*pmdp));
	if (there)
		*again = protect_pte(p, pte_offset_kernel(&pmd, addr), addr);
	spin_unlock(ptl);
	return there;
}

static bool protect_page(struct vmrepl_hostpte *p, pmd_t *pmdp,
			 unsigned long addr)
{
	bool again = false, done;
	pmd_t pmd;

	do {
		rcu_read_lock();
		pmd = READ_ONCE(*pmdp);
		/* Changed also where the processor has marked it accessed. */
		done = !pmd_is_table(pmd) ||
		       protect_in_table(p, pmdp, pmd, addr, &again);
		rcu_read_unlock();
	} while (!done);

	if (!pmd_is_table(pmd) && !pmd_none(pmd))
		again = protect_huge(p, pmdp, addr);
	return again;
}

unsigned long vmrepl_hostpte_protect(struct vmrepl_hostpte *p, unsigned long hva,
				     unsigned long mask)
{
	unsigned long bit, again = 0;

	for_each_set_bit(bit, &mask, BITS_PER_LONG) {
		unsigned long addr = hva + (bit << PAGE_SHIFT);
		pmd_t *pmdp = pmd_of(p->mm, addr);

		if (pmdp && protect_page(p, pmdp, addr))
			again |= BIT(bit);
	}
	return again;
}

void vmrepl_hostpte_flush(struct vmrepl_hostpte *p)
{
	if (p->start != p->end)
		ksym(flush_tlb_mm_range)(p->mm, p->start, p->end, PAGE_SHIFT,
					 false);
	p->start = 0;
	p->end = 0;
}

