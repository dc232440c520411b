/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A session: one open file, one protected VM, from VMREPL_ATTACH to close().
 *
 * Who may touch what
 *
 *	session_lock	the list of sessions, hooks on or off, symbols bound
 *	s->lock		one ioctl at a time on a session; freeze, layout, detach
 *	hooks		find a session under RCU, and touch only
 *			its regions' bitmaps and its logs (see log.h), and, by the
 *			busy bit of a page, its place in a ring (see cow.h)
 *	workers		the set of the epoch that is being copied: the halves of the
 *			logs and bitmaps that the freeze took away from the hooks
 *
 * Order: session_lock, s->lock, kvm->slots_lock, mmap_lock, mmu_lock. No hook
 * takes any of them.
 */
#ifndef _VMREPL_SESSION_H
#define _VMREPL_SESSION_H

#include <linux/kvm_host.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/wait.h>

#include "cow.h"
#include "log.h"
#include "region.h"
#include "vmrepl.h"

/* What went wrong for good; the session only waits to be closed. */
enum vmrepl_broken {
	VMREPL_BROKEN_RING,		/* the agent wrote a wild tail */
	VMREPL_BROKEN_COPY,		/* a guest page could not be read */
};

/**
 * struct vmrepl_session - one protected VM
 * @list:	in the list that hooks walk under RCU; session_lock
 * @lock:	one caller at a time
 * @kvm:	the VM; a reference is held
 * @mm:		the VMM's memory; mm_count is held, mm_users only where needed
 * @regions:	guest RAM by hva
 * @gen:	which half of bitmaps and logs the hooks fill: @gen & 1
 * @logs:	one for each vCPU, then one for what no vCPU wrote
 * @nr_logs:	vCPUs at attach, plus one
 * @attached:	@kvm is valid; set last at attach, cleared first at detach
 * @stale:	the memory layout changed: a freeze must wait for VMREPL_LAYOUT
 * @gone:	the VMM's memory is gone
 * @broken:	a bit for each enum vmrepl_broken
 * @tdp:	KVM has page tables of its own beside the guest's; set at attach
 * @layouts:	how often the layout was taken over
 * @same_mode:	which pages are left out; @same_seed: for their hashes
 * @notifier:	on @mm
 * @armed:	slots whose dirty logging is on because of us; kvm->slots_lock
 * @epoch:	number of the epoch frozen last
 * @epoch_half:	which half of bitmaps and logs it is
 * @epoch_scan:	some of its pages have no log entry
 * @epoch_cow:	the guest went on before it was copied
 * @prepared:	the plan of the next epoch is begun; @lock
 * @unplanned:	pages that were taken out of it again; @lock
 * @armed_cow:	the plan is that of a frozen set: hooks copy what is pending
 * @moved:	memslots have changed since its freeze began
 * @torn:	it was torn: 0 or 1
 * @epoch_started: number of the epoch the workers are to copy
 * @busy:	workers that have not written this epoch's END yet
 * @scan:	next piece of the bitmaps to look through, for all workers
 * @poll_wait:	the agent waits here for records
 * @stats:	counters, see uapi; each written without a lock by whoever counts
 */
struct vmrepl_session {
	struct list_head list;
	struct mutex lock;	/* one caller at a time, see above */
	struct kvm *kvm;
	struct mm_struct *mm;
	struct vmrepl_regions regions;
	u32 gen;
	struct vmrepl_log *logs;
	unsigned int nr_logs;
	bool attached;
	bool stale;
	bool gone;
	unsigned long broken;
	bool tdp;
	u32 layouts;
	enum vmrepl_same_mode same_mode;
	u64 same_seed;
	struct mmu_notifier notifier;
	struct vmrepl_armed *armed;
	unsigned int nr_armed;
	u64 epoch;
	int epoch_half;
	bool epoch_scan;
	bool epoch_cow;
	bool prepared;
	u64 unplanned;
	bool armed_cow;
	bool moved;
	int torn;
	u64 epoch_started;
	atomic_t busy;
	atomic64_t scan;
	wait_queue_head_t poll_wait;
	struct {
		atomic64_t vcpu_events;
		atomic64_t kvm_events;
		atomic64_t host_faults;
		atomic64_t host_ranges;
		atomic64_t pinned;
		atomic64_t log_overflows;
		atomic64_t copy_errors;
		atomic64_t ring_full;
		atomic64_t slipped;
		atomic64_t exposed;
		atomic64_t torn;
		u64 freezes;
		u64 planned;
		u64 cow_refused;
		u64 freeze_ns;
		u64 prepare_ns;
	} stats;
};

/**
 * vmrepl_session_create() - a session without a VM, for a newly opened file
 *
 * Return: the session or NULL.
 */
struct vmrepl_session *vmrepl_session_create(void);

/**
 * vmrepl_session_attach() - VMREPL_ATTACH
 * @s:	from vmrepl_session_create(); caller holds nothing
 * @a:	in and out, see uapi
 *
 * Return: 0 or a negative errno, see uapi. Nothing has changed on an error.
 */
int vmrepl_session_attach(struct vmrepl_session *s, struct vmrepl_attach *a);

/**
 * vmrepl_session_destroy() - detach, where there is a VM, and free
 *
 * Called at the last close() of the file: no ioctl, poll or mapping is left.
 */
void vmrepl_session_destroy(struct vmrepl_session *s);

/**
 * vmrepl_session_by_kvm(), vmrepl_session_by_mm() - for hooks
 *
 * Caller is in an RCU read-side section and stays in it while it uses the
 * session, or holds session_lock. Return: the session or NULL.
 */
struct vmrepl_session *vmrepl_session_by_kvm(const struct kvm *kvm);
struct vmrepl_session *vmrepl_session_by_mm(const struct mm_struct *mm);

/* A session has broken for good; anyone may call. */
void vmrepl_session_break(struct vmrepl_session *s, enum vmrepl_broken why);

#endif /* _VMREPL_SESSION_H */
