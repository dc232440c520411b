/* SPDX-License-Identifier: GPL-2.0 */
/*
 * store: what the standby holds of a VM: the epoch that arrives, the ones that
 * are being applied, and the checkpoint that could be run.
 *
 * Two buffers: one collects while the other is applied from the loop, a slice at
 * a time. A checkpoint exists from the moment a paused epoch is whole and
 * verified, until store_forget() or until the first epoch of a new connection,
 * whose live rounds overwrite the memory that it needs.
 */
#ifndef VMREPL_STORE_H
#define VMREPL_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "epoch.h"
#include "hello.h"
#include "loop.h"
#include "target.h"
#include "why.h"

/**
 * struct store - of one standby
 * @room:   there is room again for an epoch that store_frame() put off
 * @broken: the VM's memory cannot be written; nothing can be promoted any more
 * @arg:    given to both
 *
 * Set these before store_open(). @valid: there is a checkpoint; @number: its
 * epoch; @state: its device state; @stands: its guest had been stopped by somebody.
 * @theirs: the VM that it is of. The rest is private.
 */
struct store {
	void (*room)(void *arg);
	void (*broken)(void *arg, const struct why *why);
	void *arg;

	bool valid;
	bool stands;
	uint64_t number;
	struct epoch_state state;
	struct hello theirs;

	struct loop *loop;
	struct target target;
	uint64_t block_pages[RAMBLOCK_MAX];
	struct epoch_shape shape;
	uint64_t max_bytes;
	struct epoch *epochs[2];
	struct epoch *collecting;	/* NULL: both are full */
	struct epoch *applying;
	struct epoch *queued;		/* whole, waits for @applying */
	struct loop_timer timer;
	uint64_t last;			/* epoch of this connection */
	bool synced;			/* a whole live round on this connection */
	bool begun;			/* an epoch on this connection */
};

/*
 * @vm:        pid of the standby's QEMU
 * @max_bytes: largest epoch; 0: a little over the VM's RAM
 * @early:     VMREPL_DEBUG_BREAK=apply-early
 *
 * Returns 0 or -ENOMEM with a sentence; store_close() afterwards in any case.
 */
int store_open(struct store *store, struct loop *loop, pid_t vm, uint64_t max_bytes,
	       bool early, struct why *why);
void store_close(struct store *store);

/* A new connection: its epochs count anew. What is held stays until its first. */
void store_connected(struct store *store);

enum store_verdict {
	STORE_LATER,		/* no room: show it again after @room */
	STORE_MORE,		/* taken */
	STORE_SYNCED,		/* a live round is whole and applied: acknowledge */
	STORE_COMMITTED,	/* a checkpoint is whole: acknowledge */
	STORE_DROPPED,		/* one that was torn: acknowledge */
	/*
	 * It broke the rules or did not fit, @why says how. A checkpoint's pages
	 * have changed nothing; rounds of a first sync may have, and a
	 * connection's first epoch has ended what was held before.
	 */
	STORE_REFUSED,
};

/**
 * store_frame() - the next frame of an epoch
 * @frame: EPOCH_BEGIN, PAGES, STATE or EPOCH_END
 * @next:  the VM of this connection; taken over (and emptied) at its first epoch
 */
enum store_verdict store_frame(struct store *store, const struct frame *frame,
			       struct hello *next, struct why *why);

/* The connection is gone: what is not whole is dropped. */
void store_disconnected(struct store *store);

/* Gives up the right to run the checkpoint. */
void store_forget(struct store *store);

/* Applies all that is committed, now. Returns 0 or -errno with a sentence. */
int store_finish(struct store *store, struct why *why);

/* Whether all that is committed is in the VM's memory. */
bool store_applied(const struct store *store);

#endif /* VMREPL_STORE_H */
