// SPDX-License-Identifier: GPL-2.0
#include <linux/bitops.h>
#include <linux/kvm_host.h>
#include <asm/processor.h>
#include <asm/vmxfeatures.h>

#include "compat/compat.h"
#include "compat/ksym.h"
#include "tracking.h"
#include "vmrepl.h"

static bool cpu_has_pml(void)
{
	return boot_cpu_data.vmx_capability[VMX_FEATURE_PAGE_MOD_LOGGING / 32] &
	       BIT(VMX_FEATURE_PAGE_MOD_LOGGING % 32);
}

/* Why KVM has no log of the processor's. */
static const char *why_no_log(void)
{
	if (!vmrepl_ksym_flag("tdp_enabled", true))
		return "KVM uses shadow page tables, without EPT or NPT";
	if (!boot_cpu_has(X86_FEATURE_VMX))
		return "KVM knows no log of stores on this processor";
	if (!cpu_has_pml())
		return "this processor keeps no log of stores (PML)";
	if (!vmrepl_ksym_flag("enable_ept_ad_bits", true))
		return "PML needs kvm_intel's eptad, which is off";
	return "kvm_intel has its parameter pml off";
}

void vmrepl_tracking_describe(struct kvm *kvm, char *text)
{
	if (compat_cpu_dirty_log_size(kvm))
		snprintf(text, VMREPL_WHY_LEN,
			 "the processor logs the guest's stores (PML); write protection for copy-on-write and nested guests");
	else
		snprintf(text, VMREPL_WHY_LEN,
			 "write protection shows the guest's stores: %s",
			 why_no_log());
}

/*
 * As KVM does it where it has no log. The entries of huge pages stay as they are
 * when logging begins, for a VMM that asked for it so.
 */
static void write_protect(struct kvm *kvm, struct kvm_memory_slot *slot,
			  gfn_t offset, unsigned long mask)
{
	gfn_t gfn = slot->base_gfn + offset;
	gfn_t first = gfn + __ffs(mask), last = gfn + __fls(mask);
	unsigned long bit;

	ksym(kvm_mmu_slot_gfn_write_protect)(kvm, slot, first, PG_LEVEL_2M);
	if (first >> (PMD_SHIFT - PAGE_SHIFT) != last >> (PMD_SHIFT - PAGE_SHIFT))
		ksym(kvm_mmu_slot_gfn_write_protect)(kvm, slot, last,
						     PG_LEVEL_2M);
	/* This one leaves the fault its fast path, but knows no shadow pages. */
	if (compat_tdp_mmu(kvm) && !kvm->arch.shadow_root_allocated) {
		ksym(kvm_tdp_mmu_clear_dirty_pt_masked)(kvm, slot, gfn, mask,
							true);
		return;
	}
	for_each_set_bit(bit, &mask, BITS_PER_LONG)
		ksym(kvm_mmu_slot_gfn_write_protect)(kvm, slot, gfn + bit,
						     PG_LEVEL_4K);
}

void vmrepl_tracking_protect(struct kvm *kvm, struct kvm_memory_slot *slot,
			     gfn_t offset, unsigned long mask, bool before)
{
	if (before && compat_cpu_dirty_log_size(kvm))
		write_protect(kvm, slot, offset, mask);
	else
		ksym(kvm_arch_mmu_enable_log_dirty_pt_masked)(kvm, slot, offset,
							      mask);
}
