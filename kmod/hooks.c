// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ftrace.h>
#include <linux/kvm.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "compat/compat.h"
#include "compat/ksym.h"
#include "cow.h"
#include "hooks.h"
#include "hostpte.h"
#include "log.h"
#include "session.h"
#include "vm.h"
#include "worker.h"

unsigned int debug_break;
module_param(debug_break, uint, 0600);
MODULE_PARM_DESC(debug_break,
		 "For tests only: break an invariant (1 host writes, 2 KVM writes, 4 protection, 8 unchanged pages, 16 copy before a vCPU's write, 32 before the host's, 64 before a mapping changes, 128 torn epochs, 256 stores are seen only afterwards, 512 leaks memory, 1024 every fourth epoch is torn)");

/*
 * ftrace calls a hook with nothing held: the RCU section that keeps the session,
 * and preemption (log.c), are each hook's own business.
 */
static void notrace hook_dirty(unsigned long ip, unsigned long parent_ip,
			       struct ftrace_ops *op, struct ftrace_regs *fregs)
{
	const struct kvm *kvm = (void *)compat_ftrace_arg(fregs, 0);
	const struct kvm_memory_slot *slot = (void *)compat_ftrace_arg(fregs, 1);
	gfn_t gfn = compat_ftrace_arg(fregs, 2);
	struct vmrepl_session *s;

	if (!slot || unlikely(debug_break & VMREPL_BREAK_KVM_WRITES))
		return;
	rcu_read_lock();
	s = vmrepl_session_by_kvm(kvm);
	if (s)
		vmrepl_log_dirty(s, slot->userspace_addr +
				    ((gfn - slot->base_gfn) << PAGE_SHIFT));
	rcu_read_unlock();
}

/*
 * Before anything of the fault is handled. Also where it is a read: it may map the
 * page writable. Of a nested guest the address is not one of the VM's; what that
 * writes is found out afterwards, and the epoch is torn.
 */
static void notrace hook_guest_fault(unsigned long ip, unsigned long parent_ip,
				     struct ftrace_ops *op,
				     struct ftrace_regs *fregs)
{
	struct kvm_vcpu *vcpu = (void *)compat_ftrace_arg(fregs, 0);
	gfn_t gfn = compat_ftrace_arg(fregs, 1) >> PAGE_SHIFT;
	struct vmrepl_session *s;
	int as;

	rcu_read_lock();
	s = vmrepl_session_by_kvm(vcpu->kvm);
	/* The caller is in kvm->srcu: its memslots stay. */
	for (as = 0; s && as < compat_address_spaces(vcpu->kvm); as++) {
		struct kvm_memory_slot *slot =
			__gfn_to_memslot(__kvm_memslots(vcpu->kvm, as), gfn);
		unsigned long hva;

		if (!slot || debug_break & VMREPL_BREAK_COW_VCPU)
			continue;
		hva = slot->userspace_addr +
		      ((gfn - slot->base_gfn) << PAGE_SHIFT);
		vmrepl_cow_range(s, hva, hva + PAGE_SIZE, VMREPL_COW_VCPU);
	}
	rcu_read_unlock();
}

/* A fault in the VMM's memory is about to be handled. */
static void notrace log_fault(struct vm_area_struct *vma, unsigned long addr,
			      unsigned int flags)
{
	unsigned long start, end, added;
	struct vmrepl_session *s;

	rcu_read_lock();
	s = vmrepl_session_by_mm(vma->vm_mm);
	if (s && !(debug_break & VMREPL_BREAK_HOST_WRITES) &&
	    vmrepl_hostpte_fault_range(vma, addr, flags,
				       vmrepl_worker_is_current(s),
				       &start, &end)) {
		added = vmrepl_log_range(s, start, end, true);
		atomic64_add(added, &s->stats.host_faults);
		if (!(debug_break & VMREPL_BREAK_COW_HOST))
			vmrepl_cow_range(s, start, end, VMREPL_COW_HOST);
	}
	rcu_read_unlock();
}

static void notrace hook_fault(unsigned long ip, unsigned long parent_ip,
			       struct ftrace_ops *op, struct ftrace_regs *fregs)
{
	log_fault((void *)compat_ftrace_arg(fregs, 0),
		  compat_ftrace_arg(fregs, 1), compat_ftrace_arg(fregs, 2));
}

/*
 * hugetlbfs has its own, which 6.1 calls from get_user_pages() too, beside
 * handle_mm_fault().
 */
static void notrace hook_hugetlb(unsigned long ip, unsigned long parent_ip,
				 struct ftrace_ops *op,
				 struct ftrace_regs *fregs)
{
	log_fault((void *)compat_ftrace_arg(fregs, 1),
		  compat_ftrace_arg(fregs, 2), compat_ftrace_arg(fregs, 3));
}

static void notrace hook_slot(unsigned long ip, unsigned long parent_ip,
			      struct ftrace_ops *op, struct ftrace_regs *fregs)
{
	const struct kvm *kvm = (void *)compat_ftrace_arg(fregs, 0);
	enum kvm_mr_change change = compat_ftrace_arg(fregs, 3);
	/* What goes has no new slot; the old one is freed after this. */
	const struct kvm_memory_slot *slot = (void *)
		compat_ftrace_arg(fregs, change == KVM_MR_DELETE ? 1 : 2);
	struct vmrepl_session *s;
	unsigned long start;

	/* Our own arming, or a VMM that turns logging on: nothing is lost. */
	if (!slot || (change == KVM_MR_FLAGS_ONLY &&
		      slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return;
	rcu_read_lock();
	s = vmrepl_session_by_kvm(kvm);
	if (s) {
		/* No freeze until VMREPL_LAYOUT: the set stays open till then. */
		WRITE_ONCE(s->stale, true);
		/* Logging that ends may make pages writable that wait to be copied. */
		WRITE_ONCE(s->moved, true);
		start = slot->userspace_addr;
		vmrepl_log_range(s, start, start + (slot->npages << PAGE_SHIFT),
				 false);
	}
	rcu_read_unlock();
}

/*
 * In KVM, under slots_lock: between our own arming of a slot and its disarming the
 * VMM's wish is heard either before or after, never lost. Our own calls come by too.
 */
static void notrace hook_region(unsigned long ip, unsigned long parent_ip,
				struct ftrace_ops *op,
				struct ftrace_regs *fregs)
{
	const struct kvm *kvm = (void *)compat_ftrace_arg(fregs, 0);
	/* KVM's copy. Both versions of the region begin so. */
	const struct { u32 slot, flags; } *region =
		(void *)compat_ftrace_arg(fregs, 1);
	struct vmrepl_session *s;

	rcu_read_lock();
	s = vmrepl_session_by_kvm(kvm);
	if (s)
		vmrepl_vm_asked(s, region->slot,
				region->flags & KVM_MEM_LOG_DIRTY_PAGES);
	rcu_read_unlock();
}

/* Permanent: the sysctl kernel.ftrace_enabled cannot turn them off unnoticed. */
#define HOOK(function_, hook) {						\
	.function = function_,						\
	.ops = { .func = hook, .flags = FTRACE_OPS_FL_PERMANENT },	\
}

static struct hook {
	const char *function;
	unsigned long addr;	/* when it was looked up last */
	struct ftrace_ops ops;
} hooks[] = {
	HOOK("kvm_mmu_page_fault", hook_guest_fault),
	HOOK("mark_page_dirty_in_slot", hook_dirty),
	HOOK("handle_mm_fault", hook_fault),
#ifdef CONFIG_HUGETLB_PAGE
	HOOK("hugetlb_fault", hook_hugetlb),
#endif
	HOOK("kvm_arch_commit_memory_region", hook_slot),
	HOOK(COMPAT_SET_REGION, hook_region),
};

static void hook_off(struct hook *h)
{
	unregister_ftrace_function(&h->ops);
	/* Not ftrace_free_filter(): its reuse frees twice on 6.1. */
	ftrace_set_filter(&h->ops, NULL, 0, 1);
}

/* By its address: by name, ftrace would compare all functions that can be traced. */
static int hook_on(struct hook *h)
{
	int err;

	h->addr = vmrepl_ksym_addr(h->function, h->addr);
	if (!h->addr)
		return -ENOENT;
	err = ftrace_set_filter_ip(&h->ops, h->addr, 0, 1);
	if (err)
		return err;
	err = register_ftrace_function(&h->ops);
	if (err)
		ftrace_set_filter(&h->ops, NULL, 0, 1);
	return err;
}

int vmrepl_hooks_on(char *why)
{
	int i, err;

	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		err = hook_on(&hooks[i]);
		if (err)
			goto undo;
	}
	return 0;

undo:
	if (err != -ENOMEM) {
		snprintf(why, VMREPL_WHY_LEN,
			 "%s cannot be traced (%d): see the sysctl kernel.ftrace_enabled",
			 hooks[i].function, err);
		err = -EOPNOTSUPP;
	}
	while (i--)
		hook_off(&hooks[i]);
	return err;
}

void vmrepl_hooks_off(void)
{
	int i = ARRAY_SIZE(hooks);

	while (i--)
		hook_off(&hooks[i]);
}

static void notifier_log(struct mmu_notifier *mn,
			 const struct mmu_notifier_range *range)
{
	struct vmrepl_session *s = container_of(mn, struct vmrepl_session,
						notifier);

	if (debug_break & VMREPL_BREAK_HOST_WRITES)
		return;
	atomic64_add(vmrepl_log_range(s, range->start, range->end, true),
		     &s->stats.host_ranges);
}

static int notifier_start(struct mmu_notifier *mn,
			  const struct mmu_notifier_range *range)
{
	notifier_log(mn, range);
	if (!(debug_break & VMREPL_BREAK_COW_RANGE))
		vmrepl_cow_range(container_of(mn, struct vmrepl_session, notifier),
				 range->start, range->end, VMREPL_COW_RANGE);
	return 0;
}

/*
 * Once more at the end: a freeze between the two copies what was there before,
 * and the change must be in the epoch after it.
 */
static void notifier_end(struct mmu_notifier *mn,
			 const struct mmu_notifier_range *range)
{
	notifier_log(mn, range);
}

static void notifier_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct vmrepl_session *s = container_of(mn, struct vmrepl_session,
						notifier);

	WRITE_ONCE(s->gone, true);
	wake_up_all(&s->poll_wait);
}

static const struct mmu_notifier_ops notifier_ops = {
	.invalidate_range_start = notifier_start,
	.invalidate_range_end = notifier_end,
	.release = notifier_release,
};

int vmrepl_notifier_on(struct vmrepl_session *s)
{
	s->notifier.ops = &notifier_ops;
	return mmu_notifier_register(&s->notifier, s->mm);
}

void vmrepl_notifier_off(struct vmrepl_session *s)
{
	mmu_notifier_unregister(&s->notifier, s->mm);
}
