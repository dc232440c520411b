// SPDX-License-Identifier: GPL-2.0
/*
 * store: collect, commit, apply.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "landing.h"
#include "ramhash.h"
#include "report.h"
#include "store.h"

/* One slice of applying: a millisecond or two, so that heartbeats and frames go on. */
#define STORE_SLICE	512u
#define STORE_RESERVE	(64u << 20)
/* Descriptors, and what a VM with little RAM needs besides. */
#define STORE_MARGIN	(64u << 20)

static void store_drop(struct store *store)
{
	loop_timer_cancel(store->loop, &store->timer);
	epoch_reset(store->epochs[0]);
	epoch_reset(store->epochs[1]);
	store->collecting = store->epochs[0];
	store->applying = NULL;
	store->queued = NULL;
}

void store_forget(struct store *store)
{
	store->valid = false;
	store->number = 0;
}

bool store_applied(const struct store *store)
{
	return !store->applying;
}

static void store_apply_next(struct store *store)
{
	uint64_t number = epoch_number(store->applying);

	report_event("applied", "epoch:u", number);
	ramhash_report(store->target.vm, store->target.blocks, number);
	epoch_reset(store->applying);
	if (!store->collecting)
		store->collecting = store->applying;
	store->applying = store->queued;
	store->queued = NULL;
}

static void store_slice(void *arg)
{
	struct store *store = arg;
	struct why why;
	int more;

	if (!store->applying)
		return;
	more = epoch_apply(store->applying, STORE_SLICE, &why);
	if (more < 0) {
		store_forget(store);
		store->broken(store->arg, &why);
		return;
	}
	if (!more)
		store_apply_next(store);
	if (store->applying)
		loop_timer_set(store->loop, &store->timer, 0);
	if (!more)
		store->room(store->arg);
}

int store_finish(struct store *store, struct why *why)
{
	loop_timer_cancel(store->loop, &store->timer);
	while (store->applying) {
		int more = epoch_apply(store->applying, UINT32_MAX, why);

		if (more < 0)
			return more;
		store_apply_next(store);
	}
	return 0;
}

int store_open(struct store *store, struct loop *loop, pid_t vm, uint64_t max_bytes,
	       bool early, struct why *why)
{
	unsigned int i;

	store->loop = loop;
	store->max_bytes = max_bytes;
	store->target.vm = vm;
	store->shape.pages = store->block_pages;
	store->timer.fn = store_slice;
	store->timer.arg = store;
	ramblock_init(&store->theirs.blocks);
	if (landing_reserve(STORE_RESERVE))
		return why_set(why, ENOMEM, "no memory for the standby's buffers");
	for (i = 0; i < 2; i++) {
		store->epochs[i] = epoch_new(&store->shape, target_apply, target_read,
					     &store->target, early);
		if (!store->epochs[i])
			return why_set(why, ENOMEM, "no memory for the standby's buffers");
	}
	store->collecting = store->epochs[0];
	return 0;
}

void store_close(struct store *store)
{
	if (!store->loop)
		return;
	loop_timer_cancel(store->loop, &store->timer);
	epoch_free(store->epochs[0]);
	epoch_free(store->epochs[1]);
	landing_reserve(0);
	free(store->state.data);
	target_forget(&store->target);
	hello_free(&store->theirs);
}

void store_connected(struct store *store)
{
	store->last = 0;
	store->synced = false;
	store->begun = false;
}

void store_disconnected(struct store *store)
{
	if (store->collecting)
		epoch_reset(store->collecting);
}

static void store_compare_state(struct store *store, const struct epoch_state *base)
{
	epoch_compare_state(store->epochs[0], base);
	epoch_compare_state(store->epochs[1], base);
}

/* The first epoch of a connection: what was before gives way. */
static int store_adopt(struct store *store, struct hello *next, struct why *why)
{
	unsigned int i;

	if (store->valid)
		report_phase("the primary starts over: no complete checkpoint until its first sync is done");
	store_forget(store);
	store_drop(store);
	store_compare_state(store, NULL);
	hello_free(&store->theirs);
	store->theirs = *next;
	memset(next, 0, sizeof(*next));
	ramblock_init(&next->blocks);
	if (ramblock_alloc_copies(&store->theirs.blocks))
		return why_set(why, ENOMEM, "no memory for the VM's small RAM blocks");
	store->target.blocks = &store->theirs.blocks;
	if (target_look(&store->target))
		return why_set(why, ENOMEM, "no memory for a list of the VM's RAM blocks");
	for (i = 0; i < store->theirs.blocks.nr; i++)
		store->block_pages[i] = store->theirs.blocks.blocks[i].size / RAMBLOCK_PAGE;
	store->shape.nr_blocks = store->theirs.blocks.nr;
	store->shape.max_bytes = store->max_bytes;
	if (!store->max_bytes)
		store->shape.max_bytes = store->theirs.ram_bytes +
					 store->theirs.ram_bytes / 128 + STORE_MARGIN;
	store->begun = true;
	return 0;
}

static int store_begin(struct store *store, const struct frame *frame, struct hello *next,
		       struct why *why)
{
	bool live = frame_get_begin(frame).flags & FRAME_BEGIN_LIVE;

	if (frame->epoch <= store->last)
		return why_set(why, EPROTO, "it sent an epoch out of order");
	if (!live && !store->synced)
		return why_set(why, EPROTO, "it sent a checkpoint before its first sync");
	if (live && store->begun && store->valid)
		return why_set(why, EPROTO, "it went back to its first sync");
	store->last = frame->epoch;
	return store->begun ? 0 : store_adopt(store, next, why);
}

/* A whole, verified, paused epoch. From here on it is what we would run. */
static void store_commit(struct store *store)
{
	struct epoch *epoch = store->collecting;

	epoch_swap_state(epoch, &store->state);
	store_compare_state(store, &store->state);
	store->number = epoch_number(epoch);
	store->stands = epoch_stands(epoch);
	store->valid = true;
	report_event("committed", "epoch:u pages:u state_bytes:u", store->number,
		     epoch_pages(epoch), (uint64_t)store->state.len);
	store->collecting = NULL;
	if (store->applying) {
		store->queued = epoch;
	} else {
		store->applying = epoch;
		store->collecting = epoch == store->epochs[0] ? store->epochs[1] :
				    store->epochs[0];
		loop_timer_set(store->loop, &store->timer, 0);
	}
}

enum store_verdict store_frame(struct store *store, const struct frame *frame,
			       struct hello *next, struct why *why)
{
	int ret;

	if (frame->type == FRAME_EPOCH_BEGIN) {
		if (!store->collecting && store->begun)
			return STORE_LATER;
		if (store_begin(store, frame, next, why))
			return STORE_REFUSED;
	}
	if (!store->begun || !store->collecting) {
		why_set(why, EPROTO, "it sent %s outside any epoch", frame_name(frame->type));
		return STORE_REFUSED;
	}
	ret = epoch_add(store->collecting, frame, why);
	if (ret < 0)
		return STORE_REFUSED;
	if (!ret)
		return STORE_MORE;
	if (epoch_live(store->collecting)) {
		store->synced = true;
		epoch_reset(store->collecting);
		return STORE_SYNCED;
	}
	if (epoch_torn(store->collecting)) {
		report_event("dropped", "epoch:u", epoch_number(store->collecting));
		epoch_reset(store->collecting);
		return STORE_DROPPED;
	}
	store_commit(store);
	return STORE_COMMITTED;
}
