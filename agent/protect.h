/* SPDX-License-Identifier: GPL-2.0 */
/*
 * protect: epoch after epoch on one connection, from the first live round to the
 * loss of it. When to begin and what the end means is the owner's.
 *
 *	rounds while the guest runs, until little is left
 *	--> checkpoints, output held --> the first one acknowledged: protected
 */
#ifndef VMREPL_PROTECT_H
#define VMREPL_PROTECT_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpoint.h"
#include "encoder.h"
#include "flight.h"
#include "guard.h"
#include "link.h"
#include "options.h"
#include "pagesums.h"
#include "stream.h"

enum protect_phase {
	PROTECT_OFF,
	PROTECT_SYNCING,	/* live rounds */
	PROTECT_SECURING,	/* checkpoints, none acknowledged yet */
	PROTECT_ON,
};

/**
 * struct protect - of one VM
 * @phased:  @phase has changed
 * @again:   this connection's epochs cannot go on, a new sync can: a sentence
 * @stalled: output has been held for as long as it may: a sentence
 * @failed:  protection cannot go on at all: a sentence
 * @gone:    the VM seems to have ended
 * @idle:    after protect_halt(): the guest runs, nothing is under way
 * @arg:     given to all
 *
 * Set these before protect_open(). @phase is for reading, and @can_promote: the
 * standby may hold a checkpoint of ours (the owner clears it when that is over),
 * and @acked. The rest is private.
 */
struct protect {
	void (*phased)(void *arg);
	void (*again)(void *arg, const char *why);
	void (*stalled)(void *arg, const char *why);
	void (*failed)(void *arg, const char *why);
	void (*gone)(void *arg, const char *why);
	void (*idle)(void *arg);
	void *arg;

	enum protect_phase phase;
	bool can_promote;
	struct acked acked;

	const struct options *options;
	struct loop *loop;
	struct guard *guard;
	struct link *link;
	struct encoder *encoder;
	struct stream *stream;
	struct pagesums *sums;		/* until the first round is over */
	struct checkpoint cp;
	struct flight epoch;
	unsigned int round;
	uint64_t round_pages;
	uint64_t last_hold;
	bool relayout;
	bool held;			/* a segment of output is closed and waits */
	bool retake;			/* the epoch before was torn */
	bool stands;			/* somebody else stopped the guest */
	uint64_t sections;		/* devstate_sections() of devices that are known */
	struct loop_timer stall;	/* the oldest output that is held may be no older */
	struct loop_timer next;
	struct loop_timer line;
};

/* Errors: with a sentence; protect_close() afterwards in any case. */
int protect_open(struct protect *protect, const struct options *options, struct loop *loop,
		 struct qmp *qmp, struct guard *guard, struct why *why);
/* Halted before; the QMP connection is closed. */
void protect_close(struct protect *protect);

/**
 * protect_due() - when the next checkpoint may be taken
 * @started:  when the last one was; loop_now() times
 * @resumed:  when the guest ran again
 * @interval: from one to the next, nanoseconds
 * @pause:    how long the guest stood for the last one
 *
 * Not before the guest has run for as long as it stood: long pauses one after the
 * other would leave it no time of its own.
 */
static inline uint64_t protect_due(uint64_t started, uint64_t resumed, uint64_t interval,
				   uint64_t pause)
{
	return started + interval > resumed + pause ? started + interval : resumed + pause;
}

/*
 * Begins with a first sync. The guard is attached, the standby has agreed. @sums: what it
 * holds, which is left out then; taken over; NULL: everything is sent.
 */
void protect_start(struct protect *protect, struct link *link, struct pagesums *sums);
/*
 * An ACK. False where it does not belong to the epoch in flight.
 */
bool protect_acked(struct protect *protect, uint64_t epoch);
/*
 * No more epochs on this connection: a guest that stands is let go, what was
 * collected is forgotten. The link may be dead. @idle comes later where
 * protect_busy().
 */
void protect_halt(struct protect *protect);
/* Whether a checkpoint is under way in QEMU. */
bool protect_busy(const struct protect *protect);
/* QEMU is gone: what is under way will not end. */
void protect_forget(struct protect *protect);
/* Frees the QMP connection for other commands. Errors: with a sentence. */
int protect_disarm(struct protect *protect, struct why *why);
/* Adds acked_status() and encoder_status() to @o, and while it is protected guest. */
void protect_status(const struct protect *protect, struct json_object *o);
/* What QEMU said. */
void protect_message(struct protect *protect, const struct qmp_msg *msg);

#endif /* VMREPL_PROTECT_H */
