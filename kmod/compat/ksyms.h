/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The one table of everything that is looked up by name. No include guard: who
 * includes it says first what VMREPL_KSYM() does with a name.
 */
VMREPL_KSYM(file_is_kvm);
VMREPL_KSYM(kvm_get_kvm_safe);
VMREPL_KSYM(kvm_put_kvm);
VMREPL_KSYM(kvm_get_running_vcpu);
#ifdef COMPAT_7_2
VMREPL_KSYM(kvm_set_memory_region);
#else
VMREPL_KSYM(__kvm_set_memory_region);
#endif
VMREPL_KSYM(kvm_arch_mmu_enable_log_dirty_pt_masked);
VMREPL_KSYM(kvm_mmu_slot_try_split_huge_pages);
VMREPL_KSYM(kvm_mmu_slot_remove_write_access);
VMREPL_KSYM(kvm_mmu_slot_gfn_write_protect);
VMREPL_KSYM(kvm_tdp_mmu_clear_dirty_pt_masked);
VMREPL_KSYM(kvm_cpu_dirty_log_size);
VMREPL_KSYM(kvm_flush_remote_tlbs);
VMREPL_KSYM(flush_tlb_mm_range);

#undef VMREPL_KSYM
