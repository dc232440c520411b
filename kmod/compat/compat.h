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
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/version.h>
#include <asm/ibt.h>

#if !defined(CONFIG_X86_64) || !defined(CONFIG_KPROBES) || \
	!defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS) || \
	!defined(CONFIG_MMU_NOTIFIER)
#error "vmrepl needs a kernel for x86-64 with KVM, kprobes and function tracing"
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 0) && \
	LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define COMPAT_6_1
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0) && \
	LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
#define COMPAT_6_12
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(7, 2, 0) && \
	LINUX_VERSION_CODE < KERNEL_VERSION(7, 3, 0)
#define COMPAT_7_2
#include <linux/leafops.h>
#else
#error "vmrepl supports Linux 6.1, 6.12 and 7.2; see the table in README.md"
#endif

/**
 * compat_kernel_ok() - is this the kernel that the module was built for?
 *
 * The kernel compares releases too, but where it has CONFIG_MODVERSIONS only the
 * functions that it exports; what is looked up by name is not among them.
 * Return: it is; otherwise there is a line in the log.
 */
bool compat_kernel_ok(void);

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

/**
 * compat_has_assigned_device() - has the VM a device of the host (VFIO)?
 *
 * On 7.2 also where it had one once. Context: any that may take RCU's read lock.
 */
bool compat_has_assigned_device(struct kvm *kvm);

/* What KVM does under slots_lock where its VMM sets a memory region: (kvm, region). */
#ifdef COMPAT_7_2
#define COMPAT_SET_REGION	"kvm_set_memory_region"
#else
#define COMPAT_SET_REGION	"__kvm_set_memory_region"
#endif

/* Is there memory in the slot that its VMM does not map (guest_memfd)? */
static inline bool compat_slot_private(const struct kvm_memory_slot *slot)
{
#ifdef COMPAT_6_1
	return false;
#elif defined(COMPAT_6_12)
	return kvm_slot_can_be_private(slot);
#else
	/* Since 6.18 the VMM may map it too, but the guest's mapping is not that. */
	return kvm_slot_has_gmem(slot);
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
	/* Fault-around is of reads. */
	if (!(flags & FAULT_FLAG_WRITE) || !vma->vm_file)
		return false;
#ifdef COMPAT_6_12
	/*
	 * Of shared memory without a file that anybody could open, finish_fault()
	 * maps large folios.
	 */
	return !IS_PRIVATE(file_inode(vma->vm_file));
#else
	/* Of any file it does; what a private mapping copies is one page. */
	return !(vma->vm_flags & VM_SHARED);
#endif
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

/* Under migration, and writable again when that ends? */
static inline bool compat_pte_migrates_writable(pte_t pte)
{
#ifdef COMPAT_7_2
	return softleaf_is_migration_write(softleaf_from_pte(pte));
#else
	return is_swap_pte(pte) &&
	       is_writable_migration_entry(pte_to_swp_entry(pte));
#endif
}

static inline bool compat_pmd_migrates_writable(pmd_t pmd)
{
#ifdef COMPAT_7_2
	return softleaf_is_migration_write(softleaf_from_pmd(pmd));
#else
	return is_pmd_migration_entry(pmd) &&
	       is_writable_migration_entry(pmd_to_swp_entry(pmd));
#endif
}

/* Is this instruction an endbr64, or was it one before it was sealed? */
static inline bool compat_is_endbr(u32 insn)
{
#ifdef COMPAT_7_2
	return __is_endbr(insn);
#else
	return is_endbr(insn);
#endif
}

/* Does KVM's TDP MMU map this VM's memory (kvm.tdp_mmu, and EPT or NPT)? */
static inline bool compat_tdp_mmu(struct kvm *kvm)
{
	/* Only one kernel keeps the parameter in the VM; all of them this. */
	return kvm->arch.tdp_mmu_roots.next;
}

/* In mmap(), before anybody else sees @vma. */
static inline void compat_vma_set(struct vm_area_struct *vma, unsigned long flags)
{
#ifdef COMPAT_6_1
	vma->vm_flags |= flags;
#else
	vm_flags_set(vma, flags);
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
 * compat_cpu_dirty_log_size() - what the processor itself logs of a VM's stores
 *
 * Symbols are bound. Return: entries in a vCPU's log, or 0 where there is none.
 */
int compat_cpu_dirty_log_size(struct kvm *kvm);

/**
 * compat_set_log_dirty() - turn the dirty logging of one memslot on or off
 *
 * Caller holds kvm->slots_lock, so that the slot cannot change between the look
 * at it and the call. @slot is stale afterwards. Sleeps.
 * Return: 0 or what KVM said.
 */
int compat_set_log_dirty(struct kvm *kvm, struct kvm_memory_slot *slot, bool on);

#endif /* _VMREPL_COMPAT_H */
