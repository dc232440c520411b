// SPDX-License-Identifier: GPL-2.0
#include "compat.h"
#include "ksym.h"

/*
 * mmap_lock alone lets faults go on that have locked their VMA, and new ones
 * begin. Taken so, a VMA's lock is held until mmap_lock is let go or downgraded.
 */
static void lock_vmas(struct mm_struct *mm)
{
#ifndef COMPAT_6_1
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;

	for_each_vma(vmi, vma)
		vma_start_write(vma);
#endif
}

void compat_lock_faults(struct mm_struct *mm, bool shared)
{
	mmap_write_lock(mm);
	lock_vmas(mm);
	if (shared)
		mmap_write_downgrade(mm);
}

void compat_unlock_faults(struct mm_struct *mm, bool shared)
{
	if (shared)
		mmap_read_unlock(mm);
	else
		mmap_write_unlock(mm);
}

int compat_set_log_dirty(struct kvm *kvm, struct kvm_memory_slot *slot, bool on)
{
#ifdef COMPAT_6_1
	struct kvm_userspace_memory_region region = {
#else
	struct kvm_userspace_memory_region2 region = {
#endif
		.slot = slot->id | (u32)slot->as_id << 16,
		.flags = slot->flags,
		.guest_phys_addr = slot->base_gfn << PAGE_SHIFT,
		.memory_size = (u64)slot->npages << PAGE_SHIFT,
		.userspace_addr = slot->userspace_addr,
	};

	if (on)
		region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
	else
		region.flags &= ~KVM_MEM_LOG_DIRTY_PAGES;
	return ksym(__kvm_set_memory_region)(kvm, &region);
}
