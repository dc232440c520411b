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

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0) || \
	LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
#error "vmrepl supports Linux 6.1; see the table in README.md"
#endif

/* Argument number @n of a traced function. */
static inline unsigned long compat_ftrace_arg(struct ftrace_regs *fregs, int n)
{
	return regs_get_kernel_argument(&fregs->regs, n);
}

/* Address spaces of a VM's memslots; 1 is SMM. */
static inline int compat_address_spaces(struct kvm *kvm)
{
	return KVM_ADDRESS_SPACE_NUM;
}

static inline unsigned int compat_assigned_devices(struct kvm *kvm)
{
	return atomic_read(&kvm->arch.assigned_device_count);
}

/* Flags of a memory region, as its VMM gave them to a VM's ioctl. */
#define COMPAT_SET_REGION_CMD(cmd)	((cmd) == KVM_SET_USER_MEMORY_REGION)

/* A fault with a page table in place: does it map only the page at its address? */
static inline bool compat_fault_maps_one(struct vm_area_struct *vma,
					 unsigned int flags)
{
	/* do_anonymous_page(), do_swap_page(); fault-around is read-only. */
	return vma_is_anonymous(vma) || flags & FAULT_FLAG_WRITE;
}

/* A child that the agent forks does not inherit this mapping. */
static inline void compat_vma_dontcopy(struct vm_area_struct *vma)
{
	vma->vm_flags |= VM_DONTCOPY;
}

/**
 * compat_lock_faults() - no fault in @mm that began before is under way, and page
 *			  tables cannot go away, until compat_unlock_faults()
 * @mm:		mm_users is held
 * @shared:	new faults may begin meanwhile
 *
 * A fault holds mmap_lock for read from before its handle_mm_fault() until its
 * page-table entry is set. So does the end of a munmap() while it frees page
 * tables: having held the lock for write once, nobody is in there. Sleeps.
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
