/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between kernels, and nothing else. The rest of the module reads
 * as if it were written for one kernel.
 */
#ifndef _VMREPL_COMPAT_H
#define _VMREPL_COMPAT_H

#include <linux/ftrace.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 0) && \
	LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define COMPAT_6_1
#elif LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0) || \
	LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
#error "vmrepl supports Linux 6.1 and 6.12; see the table in README.md"
#endif

/* Argument number @n of a traced function. */
static inline unsigned long compat_ftrace_arg(struct ftrace_regs *fregs, int n)
{
#ifdef COMPAT_6_1
	return regs_get_kernel_argument(&fregs->regs, n);
#else
	return ftrace_regs_get_argument(fregs, n);
#endif
}

/* Address spaces of a VM's memslots; 1 is SMM. */
static inline int compat_address_spaces(struct kvm *kvm)
{
#ifdef COMPAT_6_1
	return KVM_ADDRESS_SPACE_NUM;
#else
	return kvm_arch_nr_memslot_as_ids(kvm);
#endif
}

static inline unsigned int compat_assigned_devices(struct kvm *kvm)
{
	return atomic_read(&kvm->arch.assigned_device_count);
}

/* Does this ioctl of a VM's file give it a memory region? */
static inline bool compat_sets_region(unsigned int cmd)
{
#ifndef COMPAT_6_1
	if (cmd == KVM_SET_USER_MEMORY_REGION2)
		return true;
#endif
	return cmd == KVM_SET_USER_MEMORY_REGION;
}

/* Is there memory in the slot that its VMM does not map (guest_memfd)? */
static inline bool compat_slot_private(const struct kvm_memory_slot *slot)
{
#ifdef COMPAT_6_1
	return false;
#else
	return kvm_slot_can_be_private(slot);
#endif
}

/**
 * compat_fault_maps_one() - does a fault make no page writable but its own?
 * @vma:	where it happens
 * @flags:	FAULT_FLAG_*
 * @pte:	the entry at its address; there is a page table
 *
 * Otherwise it stays within the page table.
 */
static inline bool compat_fault_maps_one(struct vm_area_struct *vma,
					 unsigned int flags, pte_t pte)
{
#ifdef COMPAT_6_1
	/* do_anonymous_page(), do_swap_page(); fault-around is of reads. */
	return vma_is_anonymous(vma) || flags & FAULT_FLAG_WRITE;
#else
	/* do_swap_page() and do_numa_page() map what there is of a large folio. */
	if (!pte_none(pte))
		return pte_present(pte) && !pte_protnone(pte);
	/* So does do_anonymous_page(), but for the zero page. */
	if (vma_is_anonymous(vma))
		return !(flags & FAULT_FLAG_WRITE);
	/*
	 * Fault-around is of reads. Of shared memory without a file that anybody
	 * could open, finish_fault() maps large folios.
	 */
	return flags & FAULT_FLAG_WRITE && vma->vm_file &&
	       !IS_PRIVATE(file_inode(vma->vm_file));
#endif
}

/**
 * compat_read_maps_readonly() - does a read of anonymous memory leave it so?
 * @pmd:	the entry at the fault's address
 * @pte:	the one below; none where there is no page table
 */
static inline bool compat_read_maps_readonly(pmd_t pmd, pte_t pte)
{
#ifdef COMPAT_6_1
	return true;
#else
	/*
	 * What is there already stays as it is, nothing becomes the zero page; but
	 * what comes from swap, and what do_numa_page() and
	 * do_huge_pmd_numa_page() find, is made writable at once if it is ours.
	 */
	if (pmd_none(pmd))
		return true;
	return pmd_present(pmd) && !pmd_leaf(pmd) &&
	       (pte_none(pte) || (pte_present(pte) && !pte_protnone(pte)));
#endif
}

/* A child that the agent forks does not inherit this mapping. */
static inline void compat_vma_dontcopy(struct vm_area_struct *vma)
{
#ifdef COMPAT_6_1
	vma->vm_flags |= VM_DONTCOPY;
#else
	vm_flags_set(vma, VM_DONTCOPY);
#endif
}

/**
 * compat_lock_faults() - no fault in @mm that began before is under way, and page
 *			  tables are not unmapped, until compat_unlock_faults()
 * @mm:		mm_users is held
 * @shared:	new faults may begin meanwhile
 *
 * A fault holds mmap_lock for read, or since 6.4 only the lock of its VMA, from
 * before its handle_mm_fault() until its page-table entry is set. The end of a
 * munmap() holds mmap_lock for read while it frees page tables. Having held all
 * of them for write once, nobody is in there. Since 6.6 the collapse of shared
 * memory takes a page table away with none of them. Sleeps.
 */
void compat_lock_faults(struct mm_struct *mm, bool shared);
void compat_unlock_faults(struct mm_struct *mm, bool shared);

/**
 * compat_set_log_dirty() - turn the dirty logging of one memslot on or off
 *
 * Caller holds kvm->slots_lock, so that the slot cannot change between the look
 * at it and the call. @slot is stale afterwards. Sleeps.
 * Return: 0 or what KVM said.
 */
int compat_set_log_dirty(struct kvm *kvm, struct kvm_memory_slot *slot, bool on);

#endif /* _VMREPL_COMPAT_H */
