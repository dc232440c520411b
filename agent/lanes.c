// SPDX-License-Identifier: GPL-2.0
/*
 * lanes: dialled one after the other, so that at the other side's door one place is taken
 * by them at a time.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lanes.h"

/* How long the answer to JOIN may take. */
#define LANES_ANSWER_NS	(5 * NSEC_PER_SEC)
/* What keeps an idle lane from being forgotten on the way; nobody judges its silence. */
#define LANES_BEAT_NS	NSEC_PER_SEC

struct lane {
	struct lanes *lanes;
	struct link *link;	/* NULL: none */
	bool held;		/* a frame waits for its epoch */
};

struct lanes {
	struct loop *loop;
	const struct lanes_handlers *handlers;
	void *arg;
	struct frame_join join;
	bool open;		/* those that were wanted have joined */
	bool closed;
	unsigned int nr;	/* of lane[] that were in use */
	unsigned int wanted;	/* that there are to be */
	struct lane lane[LINK_LANES_MAX];

	uint64_t epoch;		/* accepting side: what has begun */

	/* Connecting side. */
	const struct link_ops *ops;
	const struct link_addr *addr;
	void (*done)(void *arg, const char *why);
	void *done_arg;
};

struct lanes *lanes_new(struct loop *loop, const struct lanes_handlers *handlers, void *arg)
{
	struct lanes *lanes = calloc(1, sizeof(*lanes));
	unsigned int i;

	if (!lanes)
		return NULL;
	lanes->loop = loop;
	lanes->handlers = handlers;
	lanes->arg = arg;
	for (i = 0; i < LINK_LANES_MAX; i++)
		lanes->lane[i].lanes = lanes;
	return lanes;
}

void lanes_free(struct lanes *lanes)
{
	free(lanes);
}

/* One of them is of no more use, and so are all. */
static void lanes_lost(struct lanes *lanes, const char *why)
{
	void (*done)(void *arg, const char *why) = lanes->done;
	bool closed = lanes->closed;

	lanes_close(lanes);
	if (closed)
		return;
	lanes->done = NULL;
	if (done)
		done(lanes->done_arg, why);
	else
		lanes->handlers->lost(lanes->arg, why);
}

static void lane_down(void *arg, const char *why)
{
	struct lane *lane = arg;

	lanes_lost(lane->lanes, why);
}

static void lane_closed(void *arg)
{
	struct lane *lane = arg;

	lane->link = NULL;
	lane->lanes->handlers->closed(lane->lanes->arg);
}

/* ---- accepting side ---- */

static bool lane_frame(void *arg, const struct frame *frame)
{
	struct lane *lane = arg;
	struct lanes *lanes = lane->lanes;

	if (lanes->closed)
		return true;
	if (frame->type != FRAME_PAGES) {
		char why[WHY_LEN];

		snprintf(why, sizeof(why), "it sent %s on a stream of pages",
			 frame_name(frame->type));
		lanes_lost(lanes, why);
		return true;
	}
	lane->held = frame->epoch > lanes->epoch;
	if (lane->held)
		return false;
	lanes->handlers->frame(lanes->arg, frame);
	return true;
}

static const struct link_handlers lane_accepted = {
	.frame	= lane_frame,
	.down	= lane_down,
	.closed	= lane_closed,
};

int lanes_offer(struct lanes *lanes, unsigned int nr, uint8_t *token)
{
	if (getrandom(lanes->join.token, FRAME_TOKEN_BYTES, 0) != FRAME_TOKEN_BYTES)
		return -EIO;
	lanes->wanted = nr;
	memcpy(token, lanes->join.token, FRAME_TOKEN_BYTES);
	return 0;
}

bool lanes_adopt(struct lanes *lanes, struct link *link, const struct frame *frame)
{
	struct frame_join join = frame_get_join(frame);
	unsigned int i, differs = 0;
	struct lane *lane;

	if (!lanes || lanes->closed || lanes->nr == lanes->wanted)
		return false;
	/* All of it, so that the time it takes tells nothing. */
	for (i = 0; i < FRAME_TOKEN_BYTES; i++)
		differs |= join.token[i] ^ lanes->join.token[i];
	if (differs)
		return false;
	lane = &lanes->lane[lanes->nr++];
	lane->link = link;
	lanes->open = true;
	link_give_to(link, &lane_accepted, lane);
	link_send_copy(link, FRAME_JOIN, 0, &join, sizeof(join));
	return true;
}

void lanes_begin(struct lanes *lanes, uint64_t epoch)
{
	unsigned int i;

	if (!lanes)
		return;
	lanes->epoch = epoch;
	for (i = 0; i < lanes->nr && !lanes->closed; i++) {
		struct lane *lane = &lanes->lane[i];

		if (lane->held && lane->link) {
			lane->held = false;
			link_resume(lane->link);
		}
	}
}

/* ---- connecting side ---- */

static void lane_up(void *arg)
{
	struct lane *lane = arg;
	struct lanes *lanes = lane->lanes;

	link_watch(lane->link, LANES_BEAT_NS, LANES_ANSWER_NS);
	link_send_copy(lane->link, FRAME_JOIN, 0, &lanes->join, sizeof(lanes->join));
}

static void lanes_dial_next(struct lanes *lanes);

static bool lane_answered(void *arg, const struct frame *frame)
{
	struct lane *lane = arg;
	struct lanes *lanes = lane->lanes;
	char text[FRAME_TEXT_MAX + 1];

	if (lanes->closed)
		return true;
	if (frame->type == FRAME_JOIN && lanes->done && lane == &lanes->lane[lanes->nr - 1]) {
		link_watch(lane->link, LANES_BEAT_NS, 0);
		lanes_dial_next(lanes);
		return true;
	}
	if (frame->type == FRAME_REFUSE)
		frame_get_text(frame, text, sizeof(text));
	else
		snprintf(text, sizeof(text), "it sent %s on a stream of pages",
			 frame_name(frame->type));
	lanes_lost(lanes, text);
	return true;
}

static const struct link_handlers lane_dialled = {
	.up	= lane_up,
	.frame	= lane_answered,
	.down	= lane_down,
	.closed	= lane_closed,
};

static void lanes_dial_next(struct lanes *lanes)
{
	void (*done)(void *arg, const char *why) = lanes->done;
	struct lane *lane = &lanes->lane[lanes->nr];
	struct why why;

	if (lanes->nr == lanes->wanted) {
		lanes->open = true;
		lanes->done = NULL;
		done(lanes->done_arg, NULL);
		return;
	}
	lane->link = link_connect(lanes->loop, lanes->ops, lanes->addr, &lane_dialled, lane, &why);
	if (lane->link)
		lanes->nr++;
	else
		lanes_lost(lanes, why.text);
}

void lanes_dial(struct lanes *lanes, const struct link_ops *ops, const struct link_addr *addr,
		unsigned int nr, const uint8_t *token,
		void (*done)(void *arg, const char *why), void *arg)
{
	lanes->ops = ops;
	lanes->addr = addr;
	lanes->wanted = nr;
	lanes->done = done;
	lanes->done_arg = arg;
	memcpy(lanes->join.token, token, FRAME_TOKEN_BYTES);
	lanes_dial_next(lanes);
}

uint64_t lanes_send(struct lanes *lanes, struct link_tx *tx, uint64_t epoch)
{
	struct lane *best = &lanes->lane[0];
	unsigned int i;

	/* The one that is done first with what it has, as far as can be told. */
	for (i = 1; i < lanes->nr; i++)
		if (link_waiting(lanes->lane[i].link) < link_waiting(best->link))
			best = &lanes->lane[i];
	return link_send(best->link, tx, FRAME_PAGES, epoch);
}

/* ---- both ---- */

unsigned int lanes_open(const struct lanes *lanes)
{
	return lanes && lanes->open && !lanes->closed ? lanes->nr : 0;
}

uint64_t lanes_rate(const struct lanes *lanes)
{
	uint64_t rate = 0;
	unsigned int i;

	for (i = 0; i < lanes->nr; i++)
		rate += link_rate(lanes->lane[i].link);
	return rate;
}

bool lanes_full(const struct lanes *lanes)
{
	unsigned int i;

	for (i = 0; i < lanes->nr; i++)
		if (!link_waiting(lanes->lane[i].link))
			return false;
	return true;
}

void lanes_unqueue(struct lanes *lanes)
{
	unsigned int i;

	if (!lanes)
		return;
	lanes->open = false;
	for (i = 0; i < lanes->nr && !lanes->closed; i++)
		if (lanes->lane[i].link)
			link_unqueue(lanes->lane[i].link);
}

void lanes_close(struct lanes *lanes)
{
	unsigned int i;

	if (!lanes || lanes->closed)
		return;
	lanes->closed = true;
	for (i = 0; i < lanes->nr; i++)
		if (lanes->lane[i].link)
			link_close(lanes->lane[i].link);
}

bool lanes_busy(const struct lanes *lanes)
{
	unsigned int i;

	for (i = 0; lanes && i < lanes->nr; i++)
		if (lanes->lane[i].link)
			return true;
	return false;
}
