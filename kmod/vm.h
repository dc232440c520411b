/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The VM of a process: finding it, its memslots, its dirty logging.
 */
#ifndef _VMREPL_VM_H
#define _VMREPL_VM_H

#include <linux/kvm_host.h>

struct vmrepl_session;
struct vmrepl_layout;

/* Memslots that one session arms. */
#define VMREPL_MAX_ARMED	1024
/* Memslots told in one VMREPL_LAYOUT. */
#define VMREPL_MAX_TOLD		4096u

/**
 * struct vmrepl_armed - a memslot whose dirty logging is on because of us
 * @as_id, @id:	which
 * @vmm_wants:	the VMM asked for it too, since; it stays on when we leave
 */
struct vmrepl_armed {
	u16 as_id;
	u16 id;
	bool vmm_wants;
};

/**
 * vmrepl_vm_get() - the VM of a process, with a reference
 * @pid:	in the caller's pid namespace
 * @why:	room for a sentence, VMREPL_WHY_LEN
 *
 * Binds the looked-up symbols; caller holds session_lock. Sleeps.
 * Return: the VM, or an ERR_PTR as VMREPL_ATTACH has them.
 */
struct kvm *vmrepl_vm_get(pid_t pid, char *why);

/**
 * vmrepl_vm_refused() - can this VM be protected at all?
 * @kvm:	VM, a reference is held
 * @why:	set to a sentence where it cannot
 *
 * Return: 0, -EOPNOTSUPP, or -ESRCH if the VMM is going away.
 */
int vmrepl_vm_refused(struct kvm *kvm, char *why);

/**
 * vmrepl_vm_take_layout() - make guest RAM known and turn its dirty logging on
 * @s:		session; caller holds its lock
 * @layout:	where the slots are told to, or NULL
 * @why:	room for a sentence, VMREPL_WHY_LEN; for -EOPNOTSUPP
 *
 * What was not logged until now is wholly in the set afterwards. Sleeps.
 * Return: 0, -ENOSPC (taken over, but @layout was too small), -EFAULT, -ENOMEM,
 * -EOVERFLOW, -ESRCH, -EOPNOTSUPP (there is memory that cannot be protected).
 */
int vmrepl_vm_take_layout(struct vmrepl_session *s,
			  struct vmrepl_layout *layout, char *why);

/**
 * vmrepl_vm_disarm() - turn off the dirty logging that we turned on
 * @s:	session; caller holds its lock
 */
void vmrepl_vm_disarm(struct vmrepl_session *s);

/**
 * vmrepl_vm_asked() - the VMM asked for a memslot; does it want it logged?
 * @s:		session; caller is in a hook, in KVM and under kvm->slots_lock
 * @slot:	as_id << 16 | id
 * @log:	it does
 */
void vmrepl_vm_asked(struct vmrepl_session *s, u32 slot, bool log);

#endif /* _VMREPL_VM_H */
