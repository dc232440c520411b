// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/utsname.h>
#include <generated/utsrelease.h>

#include "compat.h"
#include "ksym.h"

bool compat_kernel_ok(void)
{
	const char *release = init_utsname()->release;
	const char *built_for = UTS_RELEASE;

	/* Not folded into the comparison: load_test changes it in the file. */
	OPTIMIZER_HIDE_VAR(built_for);
	if (!strcmp(release, built_for))
		return true;
	pr_err("built for Linux %s, and this is %s: build it again with this kernel's headers\n",
	       built_for, release);
	return false;
}

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

bool compat_has_assigned_device(struct kvm *kvm)
{
#ifdef COMPAT_7_2
	/* KVM does not count them any more; to tell it of them the VMM makes this. */
	struct kvm_device *dev;
	bool found = false;

	rcu_read_lock();
	list_for_each_entry_rcu(dev, &kvm->devices, vm_node)
		if (!strcmp(dev->ops->name, "kvm-vfio"))
			found = true;
	rcu_read_unlock();
	return found;
#else
	return atomic_read(&kvm->arch.assigned_device_count);
#endif
}

int compat_cpu_dirty_log_size(struct kvm *kvm)
{
#ifdef COMPAT_7_2
	return ksym(kvm_cpu_dirty_log_size)(kvm);
#else
	return ksym(kvm_cpu_dirty_log_size)();
#endif
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
#ifdef COMPAT_7_2
	return ksym(kvm_set_memory_region)(kvm, &region);
#else
	return ksym(__kvm_set_memory_region)(kvm, &region);
#endif
}
