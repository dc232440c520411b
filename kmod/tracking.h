/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How KVM sees the stores of a VM's vCPUs: by write protection, or from a log that
 * the processor writes (Intel's page-modification log, PML).
 *
 * With PML a page of the set has its dirty bit cleared and stays writable: the next
 * store sets the bit, the processor notes the page in a buffer of the vCPU, and KVM
 * empties it first thing at every exit. A vCPU that has left the guest has nothing
 * in there, so a freeze while the guest stands sees all of it. In a live round what
 * is in a buffer yet is in the next set.
 *
 * That tells of a store when it is done. Who has to copy the page before needs
 * write protection, whatever the processor has. Both may change from epoch to
 * epoch, since of every page outside the set one holds: it is not writable, and the
 * fault marks it when it becomes so, or its dirty bit is clear, and the processor
 * notes it.
 */
#ifndef _VMREPL_TRACKING_H
#define _VMREPL_TRACKING_H

#include <linux/kvm_host.h>

/**
 * vmrepl_tracking_describe() - say how stores of this VM's vCPUs are seen, and why so
 * @kvm:	VM, a reference is held; symbols are bound
 * @text:	room for the sentence, VMREPL_WHY_LEN
 */
void vmrepl_tracking_describe(struct kvm *kvm, char *text);

/**
 * vmrepl_tracking_tdp() - has KVM page tables of its own beside the guest's (EPT, NPT)?
 *
 * Without them a vCPU's fault tells the address that the guest used, and which page
 * that is KVM finds out later: nobody can copy it before. Sleeps, not for a hot path.
 */
bool vmrepl_tracking_tdp(void);

/**
 * vmrepl_tracking_begin() - no huge page is writable for the guest from here on
 * @kvm:	VM; caller holds slots_lock; every slot that is to be tracked is logged
 *
 * KVM itself may have left this to the first protection of each page, where the VMM
 * asked for it so (KVM_DIRTY_LOG_INITIALLY_SET). As long as a slot is logged KVM
 * makes no new one (kvm_mmu_hugepage_adjust()). Costs as much as there are huge
 * pages. Allocates page tables, and sleeps.
 */
void vmrepl_tracking_begin(struct kvm *kvm);

/**
 * vmrepl_tracking_protect() - the next store to a page will be seen
 * @kvm:	VM
 * @slot:	memslot of the pages, not read-only
 * @offset:	of the first page in the slot
 * @mask:	which of the 64 pages from there on; not 0
 * @before:	seen before it is done, by a fault
 *
 * vmrepl_tracking_begin() came before. Caller holds slots_lock and mmu_lock for
 * write, and flushes the TLBs later.
 */
void vmrepl_tracking_protect(struct kvm *kvm, struct kvm_memory_slot *slot,
			     gfn_t offset, unsigned long mask, bool before);

#endif /* _VMREPL_TRACKING_H */
