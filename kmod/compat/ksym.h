/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions of the kernel and of KVM that are not exported to modules, or only
 * to kvm-amd and kvm-intel. They are looked up by name, and called only through
 * static calls: an indirect call to a function that the kernel sealed (IBT)
 * would panic.
 *
 * A function of KVM's stays valid only while a VM lives, because the VM pins
 * KVM's modules: vmrepl_ksym_bind() is called with a VM's file held, and what it
 * bound is called only between a session's attach and its detach.
 */
#ifndef _VMREPL_KSYM_H
#define _VMREPL_KSYM_H

#include <linux/kvm_host.h>
#include <linux/static_call.h>

#include "compat.h"

/* Not in any public header; arch/x86/kvm/mmu/mmu.c. */
void kvm_arch_mmu_enable_log_dirty_pt_masked(struct kvm *kvm,
					     struct kvm_memory_slot *slot,
					     gfn_t gfn_offset,
					     unsigned long mask);
bool kvm_mmu_slot_gfn_write_protect(struct kvm *kvm,
				    struct kvm_memory_slot *slot, u64 gfn,
				    int min_level);
/* Only where compat_tdp_mmu(); arch/x86/kvm/mmu/tdp_mmu.c. */
void kvm_tdp_mmu_clear_dirty_pt_masked(struct kvm *kvm,
				       struct kvm_memory_slot *slot, gfn_t gfn,
				       unsigned long mask, bool wrprot);

#ifdef COMPAT_7_2
/* Static; virt/kvm/kvm_main.c. Caller holds slots_lock. */
int kvm_set_memory_region(struct kvm *kvm,
			  const struct kvm_userspace_memory_region2 *mem);
#endif

/* Hidden from modules by its header; arch/x86/mm/tlb.c. */
void flush_tlb_mm_range(struct mm_struct *mm, unsigned long start,
			unsigned long end, unsigned int stride_shift,
			bool freed_tables);

#define VMREPL_KSYM(name) DECLARE_STATIC_CALL(vmrepl_##name, name)
#include "ksyms.h"

/* Call a looked-up function: ksym(kvm_put_kvm)(kvm) */
#define ksym(name) static_call(vmrepl_##name)

/**
 * vmrepl_ksym_init() - find the way to look symbols up
 *
 * Once, at load. Where KVM is there already, all that will be looked up must be.
 * Return: 0, or a negative errno after a line in the log.
 */
int vmrepl_ksym_init(void);

/**
 * vmrepl_ksym_bind() - look up the whole table
 * @missing: set to the name that was not found, where one was not
 *
 * Caller holds a reference that pins KVM's modules, and session_lock, which
 * protects the table. Sleeps. Return: 0 or -ENOENT.
 */
int vmrepl_ksym_bind(const char **missing);

/**
 * vmrepl_ksym_addr() - where a function is
 * @name:	of the kernel or of KVM
 * @last:	where it was when it was looked up last; 0: never. If it is there
 *		now the symbols need not be searched, which on 6.1 goes through
 *		all of them
 *
 * Caller holds what pins KVM's modules, if it is one of KVM's. Sleeps.
 * Return: its address, or 0.
 */
unsigned long vmrepl_ksym_addr(const char *name, unsigned long last);

/**
 * vmrepl_ksym_flag() - read a flag of KVM's that no function tells
 * @name:	a bool in KVM's modules
 * @otherwise:	what it is taken for where there is none of that name
 *
 * Caller holds what pins KVM's modules. For messages only. Sleeps.
 */
bool vmrepl_ksym_flag(const char *name, bool otherwise);

#endif /* _VMREPL_KSYM_H */
