/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What was written since the last freeze.
 *
 * The truth is one bit for each page in the regions' bitmaps. A log is the index
 * that makes finding the bits cost as much as there are: whoever sets a bit
 * that was clear appends the page to the log of the vCPU it runs for. A full log
 * loses nothing; it only says that the bitmaps have to be looked through.
 *
 * Every log and every bitmap has two halves. Hooks fill the half that
 * s->gen & 1 names, after they have announced themselves in its @users:
 *
 *	hook				freeze
 *	gen = s->gen			s->gen = gen + 1
 *	half[gen & 1].users++		full barrier            (B)
 *	full barrier          (A)	wait until half[gen & 1].users == 0
 *	s->gen still gen? else undo	the half is the workers' alone
 *	set bit, append
 *	users-- (release)
 *
 * (A) pairs with (B): either the hook sees the new generation, or the freeze
 * sees the hook.
 *
 * Context of everything that appends: any, down to rq->lock held with IRQs off
 * (a vCPU that is scheduled out writes its steal time). No lock, no wake-up, no
 * allocation.
 */
#ifndef _VMREPL_LOG_H
#define _VMREPL_LOG_H

#include <linux/atomic.h>
#include <linux/types.h>

#include "cow.h"
#include "ring.h"

struct vmrepl_session;
struct task_struct;
struct kvm;

/* Entries in each half of a log: 128 KiB. */
#define VMREPL_LOG_ENTRIES	16384

/* A log entry: region index above, page index in the region below. */
#define VMREPL_ENTRY_SHIFT	48

/**
 * struct vmrepl_log_half - what one generation wrote
 * @users:	hooks that are in here now
 * @nr:		entries asked for; more than VMREPL_LOG_ENTRIES means full
 * @scan:	bits were set without an entry
 * @entries:	pages, see VMREPL_ENTRY_SHIFT
 */
struct vmrepl_log_half {
	atomic_t users;
	atomic_t nr;
	bool scan;
	u64 *entries;
};

/**
 * struct vmrepl_log - a log, its worker and its ring
 * @s:		the session
 * @half:	see above
 * @ring:	where the worker puts what it copied
 * @plan:	pages that have a place in the ring, see cow.h; @planned of them, in the
 *		ring from record @plan_head on, where there is room for @plan_room
 * @worker:	the kthread
 * @wait:	the worker sleeps here between epochs and when the ring is full
 * @done:	last epoch that the worker has closed
 * @copies:	pages of its plans, by who copied them
 * @stats:	see uapi; written by the worker, and by who empties a half while it sleeps
 */
struct vmrepl_log {
	struct vmrepl_session *s;
	struct vmrepl_log_half half[2];
	struct vmrepl_ring_mem ring;
	struct vmrepl_cow_page *plan;
	u32 planned;
	u32 plan_room;
	u64 plan_head;
	struct task_struct *worker;
	wait_queue_head_t wait;
	u64 done;
	atomic64_t copies[VMREPL_COW_NR];
	struct {
		u64 events;
		u64 pages;
		u64 zero_pages;
		u64 same_pages;
		u64 copy_ns;
	} stats;
} ____cacheline_aligned_in_smp;

/**
 * vmrepl_logs_alloc() - the logs and rings of a session
 * @s:		session; @s->nr_logs is set
 * @ring_slots:	records a ring
 *
 * Return: 0 or -ENOMEM, and nothing is left then.
 */
int vmrepl_logs_alloc(struct vmrepl_session *s, u32 ring_slots);
void vmrepl_logs_free(struct vmrepl_session *s);

/**
 * vmrepl_log_dirty() - KVM says that a guest page is about to be, or was, written
 * @s:		session, see vmrepl_session_by_kvm()
 * @hva:	the page's address in the VMM
 */
void vmrepl_log_dirty(struct vmrepl_session *s, unsigned long hva);

/**
 * vmrepl_log_range() - pages may change, or have changed
 * @s:		session
 * @start:	first address, page aligned
 * @end:	behind the last; what lies outside the regions is left out
 * @host:	the host side did it: hold them over live rounds
 *
 * Return: pages that were not in the set yet.
 */
unsigned long vmrepl_log_range(struct vmrepl_session *s, unsigned long start,
			       unsigned long end, bool host);

/**
 * vmrepl_log_flip() - take what was written so far away from the hooks
 * @s:	session; caller holds its lock; every worker has closed the last epoch
 *
 * Return: the half (0 or 1) that is the workers' now.
 */
int vmrepl_log_flip(struct vmrepl_session *s);

/* Does half @h have bits that no log lists? */
bool vmrepl_log_needs_scan(struct vmrepl_session *s, int h);

/* Empty half @h of one log, after its pages were copied or planned; count its entries. */
void vmrepl_log_reset(struct vmrepl_log *log, int h);

#endif /* _VMREPL_LOG_H */
