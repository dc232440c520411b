/* SPDX-License-Identifier: GPL-2.0 */
/*
 * fence: runs the operator's fence command until it succeeds.
 *
 * The command's exit code 0 is the only proof that the other host is off. It is
 * run by the fencer (fencer.h); one that hangs is killed.
 */
#ifndef VMREPL_FENCE_H
#define VMREPL_FENCE_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

#include "fencer.h"
#include "loop.h"

/* Time for one run, and from the end of a failed one to the next. */
#define FENCE_RUN_NS	(30 * NSEC_PER_SEC)
#define FENCE_RETRY_NS	(2 * NSEC_PER_SEC)

/**
 * struct fence - the fence command of this side
 * @fencer:   what runs it; NULL where the user has given none
 * @peer:     address of the other side
 * @success:  called once when the command has succeeded
 * @arg:      given to it
 *
 * Set these; the rest is private and starts as zero.
 */
struct fence {
	struct fencer *fencer;
	char peer[FENCER_PEER_LEN];
	void (*success)(void *arg);
	void *arg;

	struct loop *loop;
	struct loop_timer timer;
	struct loop_op *op;
	struct loop_op *end;		/* of the fencer */
	struct fencer_answer answer;
	unsigned int runs;
	bool active;
	bool gone;
};

/* Begins to watch the fencer, where there is one: its end is told at once. */
void fence_open(struct fence *fence, struct loop *loop);
/* Begins to fence @delay_ns from now; nothing where it is active already. */
void fence_start(struct fence *fence, uint64_t delay_ns);
/*
 * Gives up. Returns false where the command is running at this moment: it may
 * still succeed, and it is not stopped.
 */
bool fence_stop(struct fence *fence);
/*
 * The program ends: a command that runs is killed, and @success is not called
 * any more.
 */
void fence_close(struct fence *fence);
/* Whether it is under way. */
bool fence_active(const struct fence *fence);
/* Adds fence (is there a command, and what runs it) and fence-runs to @o. */
void fence_status(const struct fence *fence, struct json_object *o);
/* Times the command was started. */
unsigned int fence_runs(const struct fence *fence);

#endif /* VMREPL_FENCE_H */
