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

bool vmrepl_tracking_tdp(void)
{
	return vmrepl_ksym_flag("tdp_enabled", true);
}

/* Why KVM has no log of the processor's. */
static const char *why_no_log(void)
{
	if (!vmrepl_tracking_tdp())
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

void vmrepl_tracking_begin(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int as, bkt;

	for (as = 0; as < compat_address_spaces(kvm); as++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, as)) {
			if (!(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
				continue;
			/* What cannot be split now is when it is written first. */
			ksym(kvm_mmu_slot_try_split_huge_pages)(kvm, slot,
								PG_LEVEL_4K);
			ksym(kvm_mmu_slot_remove_write_access)(kvm, slot,
							       PG_LEVEL_2M);
		}
	}
	ksym(kvm_flush_remote_tlbs)(kvm);
}

void vmrepl_tracking_protect(struct kvm *kvm, struct kvm_memory_slot *slot,
			     gfn_t offset, unsigned long mask, bool before)
{
	bool log = compat_cpu_dirty_log_size(kvm);
	gfn_t gfn = slot->base_gfn + offset;
	unsigned long bit;

	/* This one leaves the fault its fast path, but knows no shadow pages. */
	if (compat_tdp_mmu(kvm) && !kvm->arch.shadow_root_allocated) {
		ksym(kvm_tdp_mmu_clear_dirty_pt_masked)(kvm, slot, gfn, mask,
							before || !log);
		return;
	}
	if (!before || !log) {
		ksym(kvm_arch_mmu_enable_log_dirty_pt_masked)(kvm, slot, offset,
							      mask);
		return;
	}
	for_each_set_bit(bit, &mask, BITS_PER_LONG)
		ksym(kvm_mmu_slot_gfn_write_protect)(kvm, slot, gfn + bit,
						     PG_LEVEL_4K);
}
