// SPDX-License-Identifier: GPL-2.0
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/shmem_fs.h>

#include "compat/compat.h"
#include "compat/ksym.h"
#include "hostpte.h"

static pud_t *pud_of(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgdp = pgd_offset(mm, addr), pgd = READ_ONCE(*pgdp);
	p4d_t *p4dp, p4d;

	/* Each once: the end of the VMM may clear them under a worker. */
	if (pgd_none(pgd))
		return NULL;
	p4dp = p4d_offset_lockless(pgdp, pgd, addr);
	p4d = READ_ONCE(*p4dp);
	return p4d_none(p4d) ? NULL : pud_offset_lockless(p4dp, p4d, addr);
}

/* A page of 1 GiB of hugetlbfs, or what is there while it is being migrated. */
static bool pud_is_page(pud_t pud)
{
	return !pud_none(pud) && (!pud_present(pud) || pud_leaf(pud));
}

/* The PMD of an address, or NULL where there is none. */
static pmd_t *pmd_of(struct mm_struct *mm, unsigned long addr)
{
	pud_t *pudp = pud_of(mm, addr), pud;

	if (!pudp)
		return NULL;
	pud = READ_ONCE(*pudp);
	if (pud_none(pud) || pud_is_page(pud))
		return NULL;
	return pmd_offset_lockless(pudp, pud, addr);
}

static bool pmd_is_table(pmd_t pmd)
{
	return !pmd_none(pmd) && pmd_present(pmd) && !pmd_leaf(pmd);
}

bool vmrepl_hostpte_fault_range(struct vm_area_struct *vma, unsigned long addr,
				unsigned int flags, bool ours,
				unsigned long *start, unsigned long *end)
{
	pmd_t *pmdp, pmd;
	pte_t pte = __pte(0);

	if (is_vm_hugetlb_page(vma)) {
		*start = addr & huge_page_mask(hstate_vma(vma));
		*end = *start + huge_page_size(hstate_vma(vma));
		return true;
	}
	pmdp = pmd_of(vma->vm_mm, addr);
	pmd = pmdp ? READ_ONCE(*pmdp) : __pmd(0);

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

static void hold(struct vmrepl_hostpte *p, unsigned long bit, struct page *page)
{
	/* Fails only where its count would overflow. */
	if (p->hold && folio_try_get(page_folio(page)))
		p->page[bit] = page;
}

/*
 * Shared memory may be there although this VMM has not mapped it.
 * Return: it is pinned for DMA.
 */
static bool hold_unmapped(struct vmrepl_hostpte *p, unsigned long addr,
			  unsigned long bit)
{
	struct address_space *mapping;
	struct page *page;
	pgoff_t index;
	bool pinned;

	if (!p->vma || addr < p->vma->vm_start || addr >= p->vma->vm_end)
		p->vma = vma_lookup(p->mm, addr);
	if (!p->vma)
		return false;
	if (vma_is_anonymous(p->vma)) {
		p->zeros |= BIT(bit);
		return false;
	}
	mapping = p->vma->vm_file ? p->vma->vm_file->f_mapping : NULL;
	if (!mapping || !shmem_mapping(mapping) ||
	    !(p->vma->vm_flags & VM_SHARED))
		return false;
	index = linear_page_index(p->vma, addr);
	page = find_get_page(mapping, index);
	if (!page) {
		if (!xa_load(&mapping->i_pages, index))
			p->zeros |= BIT(bit);
		return false;
	}
	pinned = folio_maybe_dma_pinned(page_folio(page));
	if (p->hold && PageUptodate(page))
		p->page[bit] = page;
	else
		put_page(page);
	return pinned;
}

/*
 * What protect_huge() and protect_pte() return: the page must be in the next set
 * too. Either a device may write it through its pin, or it is being migrated, and
 * the end of that gives it back as writable as it was, without a fault and without
 * a notifier.
 */
static bool protect_huge(struct vmrepl_hostpte *p, pmd_t *pmdp,
			 unsigned long addr, unsigned long bit)
{
	unsigned long base = addr & PMD_MASK;
	spinlock_t *ptl;	/* of the page table */
	bool again;

	ptl = pmd_lock(p->mm, pmdp);
	again = compat_pmd_migrates_writable(*pmdp);
	if (pmd_present(*pmdp) && pmd_leaf(*pmdp)) {
		hold(p, bit, pmd_page(*pmdp) + ((addr - base) >> PAGE_SHIFT));
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

/*
 * A page of 1 GiB has the lock that hugetlbfs takes for it. Memory that several
 * processes map may share the tables of its pages of 2 MiB: migration can take
 * our share of one away, which frees it after an RCU grace period at the earliest.
 */
static bool protect_giant(struct vmrepl_hostpte *p, unsigned long addr,
			  unsigned long bit)
{
	pud_t *pudp = pud_of(p->mm, addr);
	unsigned long base = addr & PUD_MASK;
	bool again;
	pte_t pte;

	if (!pudp || !pud_is_page(READ_ONCE(*pudp)))
		return hold_unmapped(p, addr, bit);
	spin_lock(&p->mm->page_table_lock);
	pte = READ_ONCE(*(pte_t *)pudp);
	again = compat_pte_migrates_writable(pte);
	if (pte_present(pte) && pud_leaf(*pudp)) {
		hold(p, bit, pte_page(pte) + ((addr - base) >> PAGE_SHIFT));
		if (pte_write(pte)) {
			ptep_set_wrprotect(p->mm, base, (pte_t *)pudp);
			changed(p, base, base + PUD_SIZE);
		}
		again = pfn_pinned(pte_pfn(pte) +
				   ((addr - base) >> PAGE_SHIFT));
	}
	spin_unlock(&p->mm->page_table_lock);
	return again;
}

/* Caller has the table locked. */
static bool protect_pte(struct vmrepl_hostpte *p, pte_t *ptep,
			unsigned long addr, unsigned long bit)
{
	bool again = compat_pte_migrates_writable(*ptep);

	if (pte_none(*ptep)) {
		again = hold_unmapped(p, addr, bit);
	} else if (!pte_present(*ptep)) {
		return again;
	} else if (is_zero_pfn(pte_pfn(*ptep))) {
		p->zeros |= BIT(bit);
	} else if (!pte_special(*ptep)) {
		hold(p, bit, pte_page(*ptep));
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
			     unsigned long addr, unsigned long bit, bool *again)
{
	spinlock_t *ptl;	/* of the page table */
	bool there;

	ptl = pte_lockptr(p->mm, &pmd);
	spin_lock(ptl);
	there = pmd_same(pmd, READ_ONCE(*pmdp));
	if (there)
		*again = protect_pte(p, pte_offset_kernel(&pmd, addr), addr,
				     bit);
	spin_unlock(ptl);
	return there;
}

static bool protect_page(struct vmrepl_hostpte *p, pmd_t *pmdp,
			 unsigned long addr, unsigned long bit)
{
	bool again = false, done;
	pmd_t pmd;

	do {
		rcu_read_lock();
		pmd = READ_ONCE(*pmdp);
		/* Changed also where the processor has marked it accessed. */
		done = !pmd_is_table(pmd) ||
		       protect_in_table(p, pmdp, pmd, addr, bit, &again);
		rcu_read_unlock();
	} while (!done);

	if (pmd_none(pmd))
		again = hold_unmapped(p, addr, bit);
	else if (!pmd_is_table(pmd))
		again = protect_huge(p, pmdp, addr, bit);
	return again;
}

unsigned long vmrepl_hostpte_protect(struct vmrepl_hostpte *p, unsigned long hva,
				     unsigned long mask)
{
	unsigned long bit, again = 0;

	p->zeros = 0;
	rcu_read_lock();
	for_each_set_bit(bit, &mask, BITS_PER_LONG) {
		unsigned long addr = hva + (bit << PAGE_SHIFT);
		pmd_t *pmdp = pmd_of(p->mm, addr);

		p->page[bit] = NULL;
		if (pmdp ? protect_page(p, pmdp, addr, bit) :
			   protect_giant(p, addr, bit))
			again |= BIT(bit);
	}
	rcu_read_unlock();
	return again;
}

bool vmrepl_hostpte_huge_none(struct mm_struct *mm, unsigned long addr)
{
	pud_t *pud;
	pmd_t *pmd;
	bool none;

	rcu_read_lock();
	pud = pud_of(mm, addr);
	pmd = pud && !pud_none(*pud) && !pud_is_page(*pud) ?
	      pmd_offset(pud, addr) : NULL;
	none = !pud || pud_none(*pud) || (pmd && pmd_none(READ_ONCE(*pmd)));
	rcu_read_unlock();
	return none;
}

bool vmrepl_hostpte_writable(struct mm_struct *mm, unsigned long addr,
			     const struct page *page)
{
	bool writable = false;
	unsigned long flags;
	pmd_t *pmdp, pmd;
	pud_t *pudp;
	pte_t pte;

	/* As in lockless_pages_from_mm(): who frees a page table waits for this CPU. */
	local_irq_save(flags);
	pudp = pud_of(mm, addr);
	pmdp = pmd_of(mm, addr);
	pmd = pmdp ? READ_ONCE(*pmdp) : __pmd(0);
	if (pudp && pud_is_page(READ_ONCE(*pudp))) {
		pte = READ_ONCE(*(pte_t *)pudp);
		writable = pte_present(pte) && pte_write(pte) &&
			   pte_pfn(pte) + ((addr & ~PUD_MASK) >> PAGE_SHIFT) ==
			   page_to_pfn(page);
	} else if (pmd_is_table(pmd)) {
		pte = READ_ONCE(*pte_offset_kernel(&pmd, addr));
		writable = pte_present(pte) && pte_write(pte) &&
			   pte_pfn(pte) == page_to_pfn(page);
	} else if (pmd_present(pmd) && pmd_leaf(pmd)) {
		writable = pmd_write(pmd) &&
			   pmd_pfn(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT) ==
			   page_to_pfn(page);
	}
	local_irq_restore(flags);
	return writable;
}

void vmrepl_hostpte_flush(struct vmrepl_hostpte *p)
{
	if (p->start != p->end)
		ksym(flush_tlb_mm_range)(p->mm, p->start, p->end, PAGE_SHIFT,
					 false);
	p->start = 0;
	p->end = 0;
}

