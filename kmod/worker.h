/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Workers: one kthread for each log. Between a freeze and its END the frozen
 * half of logs and bitmaps is theirs alone. A worker copies the pages of its own
 * log; where bits were set without an entry, all of them share the rest of the
 * bitmaps in pieces. Whoever clears a page's bit copies it, so each page is
 * copied once.
 *
 * What a copy-on-write freeze has planned (cow.h) comes first, in the order of the
 * plan, which is that of the ring: a page that is left out leaves a SKIP. All else
 * is copied through the VMM's own mapping: what is not there is faulted in.
 */
#ifndef _VMREPL_WORKER_H
#define _VMREPL_WORKER_H

#include <linux/types.h>

struct cpumask;
struct vmrepl_session;

/* Start the kthreads. Return: 0 or a negative errno, and none is left then. */
int vmrepl_workers_create(struct vmrepl_session *s);

/* Stop them, wherever they are. What was not copied is dropped. */
void vmrepl_workers_destroy(struct vmrepl_session *s);

/**
 * vmrepl_workers_place() - the CPUs that they may run on from now on
 * @s:		session with workers; caller holds its lock
 * @cpus:	all of them online
 *
 * Sleeps. Return: 0, or -EINVAL where @cpus has none or one that is not online;
 * -ENOMEM.
 */
int vmrepl_workers_place(struct vmrepl_session *s, const struct cpumask *cpus);

/**
 * vmrepl_workers_start() - let them copy the set
 * @s:		session; caller holds its lock
 * @h:		the frozen half
 * @scan:	look through the bitmaps too
 * @cow:	the guest goes on meanwhile
 */
void vmrepl_workers_start(struct vmrepl_session *s, int h, bool scan, bool cow);

/* Is there a worker that has not written END yet? */
bool vmrepl_workers_busy(struct vmrepl_session *s);

/* The agent has moved a tail, or the session ends: look again. */
void vmrepl_workers_kick(struct vmrepl_session *s);

/* Is the current task one of this session's workers? Any context. */
bool vmrepl_worker_is_current(struct vmrepl_session *s);

#endif /* _VMREPL_WORKER_H */
