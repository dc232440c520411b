/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who tells the logs. All hooks are on while there is at least one session.
 *
 *	function traced			what it tells
 *	kvm_mmu_page_fault		a vCPU is about to write a guest page
 *	mark_page_dirty_in_slot		a vCPU or KVM itself writes a guest page
 *	handle_mm_fault			a fault in the VMM makes pages writable
 *	hugetlb_fault			the same in memory of hugetlbfs
 *	kvm_arch_commit_memory_region	a memslot came, changed or went
 *	COMPAT_SET_REGION		what the VMM itself wants of a memslot
 *
 * and, for each session, an mmu_notifier: changes of the VMM's mappings that
 * come without a fault (mprotect, madvise, collapse to a huge page, migration).
 *
 * What is held when a hook is entered differs: mark_page_dirty_in_slot may come
 * under rq->lock with IRQs off, and waits for nobody. The others wait for a page that
 * somebody else is copying (cow.h). Nothing here sleeps or allocates.
 */
#ifndef _VMREPL_HOOKS_H
#define _VMREPL_HOOKS_H

#include <linux/bits.h>

struct vmrepl_session;

/* VMREPL_BREAK_*: see docs/testing.md. */
#define VMREPL_BREAK_HOST_WRITES	BIT(0)
#define VMREPL_BREAK_KVM_WRITES		BIT(1)
#define VMREPL_BREAK_PROTECT		BIT(2)
#define VMREPL_BREAK_SAME		BIT(3)
#define VMREPL_BREAK_COW_VCPU		BIT(4)
#define VMREPL_BREAK_COW_HOST		BIT(5)
#define VMREPL_BREAK_COW_RANGE		BIT(6)
#define VMREPL_BREAK_TORN		BIT(7)
#define VMREPL_BREAK_TRACKING		BIT(8)
#define VMREPL_BREAK_FREE		BIT(9)
#define VMREPL_BREAK_WHOLE		BIT(10)
extern unsigned int debug_break;

/**
 * vmrepl_hooks_on(), vmrepl_hooks_off() - for all sessions at once
 * @why: room for a sentence, VMREPL_WHY_LEN
 *
 * Caller holds session_lock. Sleeps, off() for some grace periods. When it returns, no hook
 * is running. Return: 0, -ENOMEM or -EOPNOTSUPP, and no hook is on then.
 */
int vmrepl_hooks_on(char *why);
void vmrepl_hooks_off(void);

/**
 * vmrepl_notifier_on(), vmrepl_notifier_off() - watch a session's mappings
 * @s:	session; for on(), mm_users of s->mm is held
 *
 * Sleep. When off() returns, no callback is running.
 */
int vmrepl_notifier_on(struct vmrepl_session *s);
void vmrepl_notifier_off(struct vmrepl_session *s);

#endif /* _VMREPL_HOOKS_H */
