/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copy-on-write: the set of an epoch, while the guest goes on before it is copied.
 *
 * A freeze plans each page of the set: it takes hold of the very page that the VMM
 * maps, and gives it a record and a data slot in one of the rings. From then on the
 * page is pending. Whoever comes first copies it into its slot: the worker of that
 * ring, or a hook, before the write it stands in front of goes on.
 *
 *	 plan		    copied: by whoever holds the page's busy bit, once armed
 *	 -----> pending -----------------------------------------------> done
 *		   |
 *		   +-------> slipped: written first by somebody no hook saw
 *
 * The bit in @pending is the state; it is left by one atomic operation, so that
 * either the copier or the one who saw the write too late has it. Who reaches a page
 * that is being copied waits: its owner has preemption off and copies 4 KiB.
 *
 * The page itself is held, not its address: should the VMM discard, unmap, move or
 * duplicate it meanwhile, what is held keeps the content it had.
 */
#ifndef _VMREPL_COW_H
#define _VMREPL_COW_H

#include <linux/types.h>

struct page;
struct vmrepl_log;
struct vmrepl_region;
struct vmrepl_session;

/* Who copied a page. */
enum vmrepl_cow_who {
	VMREPL_COW_WORKER,	/* nobody was faster */
	VMREPL_COW_PAUSE,	/* the freeze: it could be written unseen */
	VMREPL_COW_VCPU,	/* a vCPU was about to write it */
	VMREPL_COW_HOST,	/* a fault in the VMM's mapping */
	VMREPL_COW_RANGE,	/* a change of the VMM's mapping */
	VMREPL_COW_NR,
};

/**
 * struct vmrepl_cow_page - a page of the set
 * @page:	held until its worker is done with it; NULL: zeros
 * @index:	in its region
 * @region:	its region's index
 * @copied:	its slot holds what it held at the freeze; the busy bit protects it
 * @gone:	it was taken out of the plan again; its record is a SKIP
 *
 * Written by the freeze before the page is pending.
 */
struct vmrepl_cow_page {
	struct page *page;
	unsigned long index;
	u32 region;
	bool copied;
	bool gone;
};

/**
 * struct vmrepl_cow - of one region
 * @pending:	a bit for each page of the set that was not copied yet
 * @busy:	a lock bit for each page: held while it is copied, preemption off
 * @slot:	where it goes while it is pending: log << 16 | entry in its plan
 */
struct vmrepl_cow {
	unsigned long *pending;
	unsigned long *busy;
	u32 *slot;
};

/* Return: 0 or -ENOMEM, and nothing is kept then. Sleeps. */
int vmrepl_cow_alloc(struct vmrepl_cow *cow, unsigned long nr_pages);
void vmrepl_cow_free(struct vmrepl_cow *cow);

/*
 * Planning may begin before the freeze (VMREPL_PREPARE), while the guest still runs.
 * Hooks copy nothing then: what is written is in the set again, and the freeze looks at
 * the page anew. It arms the plan when the guest stands and all of the set is in it.
 */

/**
 * vmrepl_cow_begin() - an empty plan
 * @s:	session; caller holds its lock, no worker is busy
 *
 * What the plan before was torn at goes back into the set, to be given whatever
 * it holds. Return: 0, or -EPROTO where the agent moved a tail out of range.
 */
int vmrepl_cow_begin(struct vmrepl_session *s);

/**
 * vmrepl_cow_plan() - take a page into the plan
 * @s:		session; caller is in a freeze
 * @log:	whose ring is to take it; another does where that is full
 * @r:		region
 * @index:	page in it; where it is pending, it has been planned before
 * @page:	what the VMM maps there, with a reference that is handed over; or NULL
 *		for a page of zeros
 *
 * Return: false if no ring has room; the reference stays with the caller.
 */
bool vmrepl_cow_plan(struct vmrepl_session *s, struct vmrepl_log *log,
		     struct vmrepl_region *r, unsigned long index,
		     struct page *page);

/**
 * vmrepl_cow_unplan() - a page that may have been planned before is not in the plan
 * @s:		session; caller is in a freeze, the plan is not armed
 * @r:		region
 * @index:	page in it
 */
void vmrepl_cow_unplan(struct vmrepl_session *s, struct vmrepl_region *r,
		       unsigned long index);

/* All of a frozen set is planned: from here on hooks copy. */
void vmrepl_cow_arm(struct vmrepl_session *s);

/* Pages in the plan. */
u64 vmrepl_cow_planned(struct vmrepl_session *s);

/* What was planned goes back into the set; not armed, no worker is busy. */
void vmrepl_cow_undo(struct vmrepl_session *s);

/**
 * vmrepl_cow_copy() - copy a page now, if it is pending and the plan is armed
 * @s:		session
 * @r:		region
 * @index:	page in it
 * @who:	calls; VMREPL_COW_PAUSE does not wait for the plan to be armed
 *
 * Any context in which preemption may be off, except with rq->lock held.
 * When it returns the page may be written.
 */
void vmrepl_cow_copy(struct vmrepl_session *s, struct vmrepl_region *r,
		     unsigned long index, enum vmrepl_cow_who who);

/* The same for what is pending in a range of addresses, page aligned. */
void vmrepl_cow_range(struct vmrepl_session *s, unsigned long start,
		      unsigned long end, enum vmrepl_cow_who who);

/**
 * vmrepl_cow_written() - a page was written; was it copied before?
 * @s:		session; any context, see log.h
 * @r:		region
 * @index:	page in it
 *
 * If not, the epoch is torn.
 */
void vmrepl_cow_written(struct vmrepl_session *s, struct vmrepl_region *r,
			unsigned long index);

/**
 * vmrepl_cow_take() - the worker takes the next page of its plan
 * @log:	its log
 * @i:		entry
 * @look:	the worker uses the VMM's mm, so the VMM's page tables can be looked at
 *
 * Copies it where nobody has. The page is let go.
 * Return: its slot holds what it held at the freeze; false: the epoch is torn.
 */
bool vmrepl_cow_take(struct vmrepl_log *log, u32 i, bool look);

/* Let go of all pages that no worker took. Nobody is in a hook or a worker. */
void vmrepl_cow_drop(struct vmrepl_session *s);

#endif /* _VMREPL_COW_H */
