// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kvm_host.h>
#include <linux/log2.h>
#include <linux/random.h>
#include <linux/rculist.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat/ksym.h"
#include "hooks.h"
#include "log.h"
#include "region.h"
#include "ring.h"
#include "session.h"
#include "tracking.h"
#include "vm.h"
#include "worker.h"

/* Protects the list, whether hooks are on, and the table of symbols. */
static DEFINE_MUTEX(session_lock);
static LIST_HEAD(sessions);

struct vmrepl_session *vmrepl_session_by_kvm(const struct kvm *kvm)
{
	struct vmrepl_session *s;

	list_for_each_entry_rcu(s, &sessions, list,
				lockdep_is_held(&session_lock))
		if (s->kvm == kvm)
			return s;
	return NULL;
}

struct vmrepl_session *vmrepl_session_by_mm(const struct mm_struct *mm)
{
	struct vmrepl_session *s;

	list_for_each_entry_rcu(s, &sessions, list)
		if (s->mm == mm)
			return s;
	return NULL;
}

struct vmrepl_session *vmrepl_session_create(void)
{
	struct vmrepl_session *s = kvzalloc(sizeof(*s), GFP_KERNEL_ACCOUNT);

	if (!s)
		return NULL;
	mutex_init(&s->lock);
	init_waitqueue_head(&s->poll_wait);
	return s;
}

void vmrepl_session_break(struct vmrepl_session *s, enum vmrepl_broken why)
{
	unsigned int i;

	/* The rings first: who learns of it by poll() finds their flags set. */
	for (i = 0; i < s->nr_logs; i++)
		vmrepl_ring_set_broken(&s->logs[i].ring);
	if (test_and_set_bit(why, &s->broken))
		return;
	pr_warn_ratelimited("VM %d: %s; the session is over, attach again\n",
			    s->kvm->userspace_pid, why == VMREPL_BROKEN_RING ?
			    "the agent moved a ring's tail out of range" :
			    "a guest page could not be read");
	vmrepl_workers_kick(s);
	wake_up_all(&s->poll_wait);
}

/* Hooks see the session from here on. */
static int publish(struct vmrepl_session *s, char *why)
{
	int err;

	if (list_empty(&sessions)) {
		err = vmrepl_hooks_on(why);
		if (err)
			return err;
	}
	list_add_tail_rcu(&s->list, &sessions);
	return 0;
}

/* When this returns, no hook knows the session. */
static void unpublish(struct vmrepl_session *s)
{
	list_del_rcu(&s->list);
	synchronize_rcu();
	if (list_empty(&sessions))
		vmrepl_hooks_off();
}

static int watch(struct vmrepl_session *s)
{
	int err;

	if (!mmget_not_zero(s->mm))
		return -ESRCH;
	err = vmrepl_notifier_on(s);
	mmput(s->mm);
	return err;
}

static int attach_locked(struct vmrepl_session *s, struct vmrepl_attach *a)
{
	struct kvm *kvm;
	int err;

	kvm = vmrepl_vm_get(a->pid, a->why);
	if (IS_ERR(kvm))
		return PTR_ERR(kvm);

	err = -EBUSY;
	if (vmrepl_session_by_kvm(kvm))
		goto put_kvm;
	err = vmrepl_vm_refused(kvm, a->why);
	if (err)
		goto put_kvm;

	/* An attach that failed before may have left these. */
	s->gone = false;
	s->broken = 0;
	s->kvm = kvm;
	s->mm = kvm->mm;
	mmgrab(s->mm);
	s->tdp = vmrepl_tracking_tdp();
	s->nr_logs = atomic_read(&kvm->online_vcpus) + 1;
	s->same_mode = a->flags & VMREPL_ATTACH_EXACT ? VMREPL_SAME_EXACT :
		       a->flags & VMREPL_ATTACH_HASH ? VMREPL_SAME_HASH :
		       VMREPL_SAME_OFF;
	s->same_seed = get_random_u64();
	s->armed = kvcalloc(VMREPL_MAX_ARMED, sizeof(*s->armed),
			    GFP_KERNEL_ACCOUNT);
	err = -ENOMEM;
	if (!s->armed)
		goto drop_mm;
	err = vmrepl_logs_alloc(s, a->ring_slots);
	if (err)
		goto free_armed;
	err = vmrepl_workers_create(s);
	if (err)
		goto free_logs;
	err = publish(s, a->why);
	if (err)
		goto stop_workers;
	err = watch(s);
	if (err)
		goto hide;
	/* Last: from here on nothing is written unseen. */
	err = vmrepl_vm_take_layout(s, NULL, a->why);
	if (err)
		goto disarm;
	return 0;

disarm:
	vmrepl_vm_disarm(s);
	vmrepl_notifier_off(s);
hide:
	unpublish(s);
stop_workers:
	vmrepl_workers_destroy(s);
free_logs:
	vmrepl_regions_free(&s->regions);
	vmrepl_logs_free(s);
free_armed:
	kvfree(s->armed);
drop_mm:
	mmdrop(s->mm);
	s->kvm = NULL;
	s->mm = NULL;
put_kvm:
	ksym(kvm_put_kvm)(kvm);
	return err;
}

static int check_request(struct vmrepl_attach *a)
{
	if (a->abi != VMREPL_ABI) {
		snprintf(a->why, sizeof(a->why),
			 "the module speaks ABI %d and the agent %u: install both from one version",
			 VMREPL_ABI, a->abi);
		return -EPROTO;
	}
	if (!a->ring_slots)
		a->ring_slots = VMREPL_RING_DEFAULT;
	if (a->flags & ~(VMREPL_ATTACH_HASH | VMREPL_ATTACH_EXACT) ||
	    hweight32(a->flags) > 1 || a->pid <= 0 || !is_power_of_2(a->ring_slots) ||
	    a->ring_slots < VMREPL_RING_MIN || a->ring_slots > VMREPL_RING_MAX)
		return -EINVAL;
	return 0;
}

int vmrepl_session_attach(struct vmrepl_session *s, struct vmrepl_attach *a)
{
	int err;

	a->why[0] = '\0';
	err = check_request(a);
	if (err)
		return err;

	mutex_lock(&session_lock);
	mutex_lock(&s->lock);
	err = -EBUSY;
	if (!s->attached)
		err = attach_locked(s, a);
	if (!err) {
		/* Pairs with the acquires in device.c. */
		smp_store_release(&s->attached, true);
		a->nr_vcpus = s->nr_logs - 1;
		a->nr_rings = s->nr_logs;
		a->ring_bytes = vmrepl_ring_bytes(a->ring_slots);
		a->ram_bytes = (u64)s->regions.nr_pages << PAGE_SHIFT;
		vmrepl_tracking_describe(s->kvm, a->why);
		pr_info("VM %d attached: %u vCPUs, %llu MiB; %s\n",
			s->kvm->userspace_pid, a->nr_vcpus, a->ram_bytes >> 20,
			a->why);
	}
	mutex_unlock(&s->lock);
	mutex_unlock(&session_lock);
	return err;
}

static void detach(struct vmrepl_session *s)
{
	pid_t pid = s->kvm->userspace_pid;

	s->attached = false;
	vmrepl_vm_disarm(s);
	vmrepl_notifier_off(s);
	unpublish(s);
	vmrepl_workers_destroy(s);
	vmrepl_cow_drop(s);
	vmrepl_regions_free(&s->regions);
	vmrepl_logs_free(s);
	kvfree(s->armed);
	mmdrop(s->mm);
	ksym(kvm_put_kvm)(s->kvm);
	pr_info("VM %d detached\n", pid);
}

void vmrepl_session_destroy(struct vmrepl_session *s)
{
	mutex_lock(&session_lock);
	mutex_lock(&s->lock);
	if (s->attached)
		detach(s);
	mutex_unlock(&s->lock);
	mutex_unlock(&session_lock);
	kvfree(s);
}
