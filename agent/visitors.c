// SPDX-License-Identifier: GPL-2.0
/*
 * visitors: whoever has not been taken is nothing but a link and a timer.
 */
#include <errno.h>
#include <string.h>

#include "report.h"
#include "visitors.h"

static void visitors_turned_away(struct visitor *v, const char *why)
{
	v->refused = true;
	loop_timer_cancel(v->visitors->loop, &v->greet);
	report_warn("closed a connection from %s: %s", link_peer(v->link), why);
	report_event("refused", "peer:s why:s", link_peer(v->link), why);
}

void visitors_refuse(struct visitor *v, const char *sentence)
{
	v->refused = true;
	report_warn("refused the primary at %s: %s", link_peer(v->link), sentence);
	report_event("refused", "peer:s why:s", link_peer(v->link), sentence);
	link_send_copy(v->link, FRAME_REFUSE, 0, sentence, strlen(sentence));
	link_close_soon(v->link);
}

static bool visitors_frame(void *arg, const struct frame *frame)
{
	struct visitor *v = arg;

	if (v->greeted)
		return v->visitors->frame(v->visitors->arg, v, frame);
	loop_timer_cancel(v->visitors->loop, &v->greet);
	if (frame->type == FRAME_JOIN) {
		if (v->visitors->join(v->visitors->arg, v, frame))
			memset(v, 0, sizeof(*v));
		else
			visitors_refuse(v, "it is no stream of any connection that is here");
		return true;
	}
	if (frame->type != FRAME_HELLO) {
		visitors_refuse(v, "it does not begin with HELLO");
		return true;
	}
	/* A connection that is lost from within was the owner's. */
	v->greeted = true;
	if (!v->visitors->hello(v->visitors->arg, v, frame))
		v->greeted = false;
	return true;
}

static void visitors_down(void *arg, const char *why)
{
	struct visitor *v = arg;

	if (v->greeted)
		v->visitors->down(v->visitors->arg, v, why);
	else if (!v->refused)
		visitors_turned_away(v, why);
}

static void visitors_closed(void *arg)
{
	struct visitor *v = arg;

	if (v->greeted)
		v->visitors->closed(v->visitors->arg, v);
	loop_timer_cancel(v->visitors->loop, &v->greet);
	memset(v, 0, sizeof(*v));
}

static void visitors_lanes_lost(void *arg, const char *why)
{
	struct visitor *v = arg;

	if (v->greeted)
		v->visitors->lanes_lost(v->visitors->arg, v, why);
}

static const struct link_handlers visitors_handlers = {
	.frame		= visitors_frame,
	.down		= visitors_down,
	.closed		= visitors_closed,
	.lanes_lost	= visitors_lanes_lost,
};

static void visitors_end(struct visitor *v, const char *why)
{
	struct link *link = v->link;

	if (!v->refused)
		visitors_turned_away(v, why);
	link_close(link);
}

/* Whatever it sent meanwhile, byte by byte: it must not keep a place. */
static void visitors_late(void *arg)
{
	visitors_end(arg, "it has not said HELLO");
}

/* Also for the other side to read that it was refused. */
static bool visitors_waits(const struct visitor *v)
{
	return v->visitors && !v->greeted;
}

/* "ADDR:PORT" of both, without the port. */
static bool visitors_same_address(const struct visitor *a, const struct visitor *b)
{
	const char *one = link_peer(a->link), *other = link_peer(b->link);
	const char *end = strrchr(one, ':');
	size_t len = end ? (size_t)(end - one) : strlen(one);

	return !strncmp(one, other, len) && (!end || other[len] == ':');
}

/* Where as many wait as may: who goes. */
static struct visitor *visitors_too_many(struct visitors *visitors)
{
	unsigned int waiting = 0, most = 0, i, j;
	struct visitor *goes = NULL;

	for (i = 0; i < VISITORS_PLACES; i++) {
		struct visitor *v = &visitors->places[i];
		unsigned int of_it = 0;

		if (!visitors_waits(v))
			continue;
		waiting++;
		for (j = 0; j < VISITORS_PLACES; j++)
			of_it += visitors_waits(&visitors->places[j]) &&
				 visitors_same_address(v, &visitors->places[j]);
		if (of_it < most || (of_it == most && v->since >= goes->since))
			continue;
		most = of_it;
		goes = v;
	}
	return waiting >= VISITORS_WAITING ? goes : NULL;
}

static void visitors_accepted(void *arg, struct link_wire *wire, const char *peer)
{
	struct visitors *visitors = arg;
	struct visitor *v = visitors_too_many(visitors);
	unsigned int i;

	if (v)
		visitors_end(v, "too many connections wait to say HELLO, most of them from there");
	for (i = 0; i < VISITORS_PLACES; i++)
		if (!visitors->places[i].visitors)
			break;
	if (i == VISITORS_PLACES) {
		report_warn("closed a connection from %s: too many connections", peer);
		visitors->ops->close(wire);
		return;
	}
	v = &visitors->places[i];
	v->visitors = visitors;
	v->since = loop_now();
	v->greet.fn = visitors_late;
	v->greet.arg = v;
	v->link = link_adopt(visitors->loop, visitors->ops, wire, peer, &visitors_handlers, v);
	if (!v->link)
		v->visitors = NULL;
	else
		loop_timer_set(visitors->loop, &v->greet, VISITORS_GREET_NS);
}

int visitors_open(struct visitors *visitors, struct loop *loop, const struct link_ops *ops,
		  const struct link_addr *addr, struct why *why)
{
	visitors->loop = loop;
	visitors->ops = ops;
	visitors->door = ops->listen(loop, addr, visitors_accepted, visitors, why);
	return visitors->door ? 0 : -EIO;
}

void visitors_close(struct visitors *visitors)
{
	unsigned int i;

	if (visitors->door)
		visitors->ops->unlisten(visitors->door);
	visitors->door = NULL;
	for (i = 0; i < VISITORS_PLACES; i++)
		if (visitors->places[i].link)
			link_close(visitors->places[i].link);
	/* What is under way on the connections ends within a moment. */
	for (i = 0; i < VISITORS_PLACES; i++)
		while (visitors->places[i].visitors)
			loop_turn(visitors->loop, NSEC_PER_SEC);
}
