// SPDX-License-Identifier: GPL-2.0
/*
 * link: frames, heartbeats and loss, whatever the transport.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inbox.h"
#include "lanes.h"
#include "link.h"
#include "outbox.h"
#include "pulse.h"

#define LINK_CONNECT_NS		(5 * NSEC_PER_SEC)
/* How long link_close_soon() tries, and how long what is lent is waited for. */
#define LINK_FLUSH_NS		(2 * NSEC_PER_SEC)

struct link {
	struct loop *loop;
	const struct link_ops *ops;
	struct link_wire *wire;
	const struct link_handlers *handlers;
	void *arg;
	char peer[LINK_PEER_LEN];
	struct why indirect;	/* of link_keep_why() */

	struct inbox in;
	bool rx_busy;
	bool parsing;

	struct outbox out;
	struct lanes *lanes;	/* what carries its pages, or NULL */

	struct pulse pulse;
	struct link_tx beat;
	struct iovec beat_iov[1];
	bool beat_queued;

	struct loop_timer flush;
	bool connecting;	/* nothing is sent or received yet */
	bool dialled;		/* we made the connection */
	bool keyless;		/* and have no key */
	bool flushing;
	bool dead;		/* shut; waits for what is under way */
	bool telling;		/* that it is down */
	bool closed_called;
};

static void link_recv_more(struct link *link);

const struct link_ops *link_named(const char *name)
{
	static const struct link_ops *const all[] = { &link_tcp, &link_rdma };

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (!strcmp(all[i]->name, name))
			return all[i];
	return NULL;
}

const char *link_peer(const struct link *link)
{
	return link->peer;
}

uint64_t link_rate(const struct link *link)
{
	if (link->dead)
		return 0;
	return lanes_open(link->lanes) ? lanes_rate(link->lanes) : link->ops->rate(link->wire);
}

uint64_t link_last_rx(const struct link *link)
{
	return link->pulse.heard;
}

int link_offer(struct link *link, uint64_t timeout_ns, struct fabric_offer *offer,
	       struct why *why)
{
	if (link->dead || !link->ops->offer)
		return why_set(why, EOPNOTSUPP, "this link has no other way for pages");
	return link->ops->offer(link->wire, timeout_ns, offer, why);
}

int link_join(struct link *link, uint64_t timeout_ns, const struct fabric_offer *offer,
	      void (*done)(void *arg, const char *why), void *arg, struct why *why)
{
	if (link->dead || !link->ops->join)
		return why_set(why, EOPNOTSUPP, "this link has no other way for pages");
	return link->ops->join(link->wire, timeout_ns, offer, done, arg, why);
}

int link_lend(struct link *link, void *mem, size_t bytes, struct why *why)
{
	uint64_t sent;

	return link_direct(link, &sent) ? link->ops->lend(link->wire, mem, bytes, why) : 0;
}

bool link_direct(const struct link *link, uint64_t *bytes)
{
	return !link->dead && link->ops->direct && link->ops->direct(link->wire, bytes);
}

void link_keep_why(struct link *link, const char *why)
{
	why_set(&link->indirect, 0, "%s", why);
}

const char *link_why(const struct link *link)
{
	const char *lost = link->ops->lost && !link->dead ? link->ops->lost(link->wire) : NULL;

	return link->indirect.text[0] ? link->indirect.text : lost;
}

static void link_free(struct link *link)
{
	lanes_free(link->lanes);
	if (link->wire)
		link->ops->close(link->wire);
	inbox_free(&link->in);
	free(link);
}

/* Frees once nothing is under way any more. */
static void link_reap(struct link *link)
{
	if (!link->dead || link->out.busy || link->out.lent || link->rx_busy ||
	    link->connecting || link->parsing || link->telling || link->closed_called ||
	    lanes_busy(link->lanes))
		return;
	link->closed_called = true;
	loop_timer_cancel(link->loop, &link->flush);
	outbox_unqueue(&link->out);
	if (link->handlers->closed)
		link->handlers->closed(link->arg);
	link_free(link);
}

/* A device that stands does not hold us up: what the kernel reads there, nobody gets any more. */
static void link_abandon(void *arg)
{
	struct link *link = arg;

	if (link->out.busy || link->rx_busy || link->connecting) {
		loop_timer_set(link->loop, &link->flush, LINK_FLUSH_NS);
		return;
	}
	outbox_abandon(&link->out);
	link_reap(link);
}

void link_close(struct link *link)
{
	if (!link->dead) {
		lanes_close(link->lanes);
		link->dead = true;
		pulse_stop(&link->pulse);
		outbox_close(&link->out);
		if (link->wire)
			link->ops->shut(link->wire);
		link->flush.fn = link_abandon;
		loop_timer_set(link->loop, &link->flush, LINK_FLUSH_NS);
	}
	link_reap(link);
}

static void link_down(struct link *link, const char *why)
{
	if (link->dead) {
		link_reap(link);
		return;
	}
	/* Who is told may close it from within. */
	link->telling = true;
	if (link->handlers->down && !link->flushing)
		link->handlers->down(link->arg, why);
	link->telling = false;
	link_close(link);
}

/* Of the outbox. */
static void link_sent(void *arg, int res)
{
	struct link *link = arg;

	if (res < 0) {
		char why[WHY_LEN];

		snprintf(why, sizeof(why), "sending failed: %s", strerror(-res));
		link_down(link, why);
		return;
	}
	link->pulse.said = loop_now();
	if (link->flushing && outbox_empty(&link->out) && !link->dead)
		link->ops->finish(link->wire);
}

/* Something that a dead link has waited for, of the outbox or of a lane. */
static void link_back(void *arg)
{
	link_reap(arg);
}

uint64_t link_send(struct link *link, struct link_tx *tx,
		   enum frame_type type, uint64_t epoch)
{
	uint64_t sum;

	if (type == FRAME_PAGES && lanes_open(link->lanes))
		return lanes_send(link->lanes, tx, epoch);
	if (link->dead || link->flushing) {
		sum = frame_seal(&tx->head, type, epoch, 0, tx->iov + 1, tx->n - 1);
		tx->done(tx, false);
		return sum;
	}
	sum = outbox_add(&link->out, tx, type, epoch);
	if (!link->connecting)
		outbox_send(&link->out);
	return sum;
}

uint64_t link_waiting(const struct link *link)
{
	return outbox_bytes(&link->out);
}

bool link_full(const struct link *link)
{
	return lanes_open(link->lanes) ? lanes_full(link->lanes) : !outbox_empty(&link->out);
}

void link_unqueue(struct link *link)
{
	outbox_unqueue(&link->out);
}

void link_send_copy(struct link *link, enum frame_type type, uint64_t epoch,
		    const void *payload, size_t len)
{
	struct link_tx *tx = outbox_copy(payload, len);

	if (tx)
		link_send(link, tx, type, epoch);
	else
		link_down(link, "out of memory");
}

void link_send_bye(struct link *link, enum frame_bye_reason reason, const char *text)
{
	struct frame_bye bye = { .reason = reason };
	uint8_t payload[sizeof(bye) + FRAME_TEXT_MAX];
	size_t len = strnlen(text, FRAME_TEXT_MAX);

	if (link->dead || link->flushing)
		return;
	outbox_unqueue(&link->out);
	lanes_unqueue(link->lanes);
	memcpy(payload, &bye, sizeof(bye));
	memcpy(payload + sizeof(bye), text, len);
	link_send_copy(link, FRAME_BYE, 0, payload, sizeof(bye) + len);
}

static void link_beat_done(struct link_tx *tx, bool sent)
{
	struct link *link = (struct link *)((char *)tx - offsetof(struct link, beat));

	(void)sent;
	link->beat_queued = false;
}

static void link_beat(void *arg)
{
	struct link *link = arg;

	/* Whoever accepted says nothing to what may be no agent at all. */
	if ((!link->in.seq && !link->dialled) || link->beat_queued)
		return;
	link->beat_queued = true;
	link_send(link, &link->beat, FRAME_HEARTBEAT, 0);
}

static void link_silent(void *arg, uint64_t ns)
{
	char why[WHY_LEN];

	snprintf(why, sizeof(why), "no sign of life for %llu ms",
		 (unsigned long long)(ns / NSEC_PER_MSEC));
	link_down(arg, why);
}

void link_watch(struct link *link, uint64_t beat_ns, uint64_t timeout_ns)
{
	if (!link->dead)
		pulse_start(&link->pulse, link->loop, beat_ns, timeout_ns);
}

/* Whatever the peer speaks, the header of our answer tells it what we do. */
static void link_other_version(struct link *link)
{
	static const char answer[] = "we speak another protocol version";

	link->telling = true;
	link->handlers->down(link->arg, "it speaks another protocol version; "
			     "install the same vmrepl-agent on both hosts");
	link->telling = false;
	if (link->dead) {
		link_reap(link);
		return;
	}
	link_send_copy(link, FRAME_REFUSE, 0, answer, sizeof(answer) - 1);
	link_close_soon(link);
}

static void link_parse(struct link *link)
{
	struct frame frame;
	const char *fault;
	ssize_t n;

	link->parsing = true;
	while (!link->dead && !link->flushing && !inbox_empty(&link->in)) {
		n = inbox_look(&link->in, &frame, &fault);
		if (n == 0)
			break;
		if (n < 0) {
			char why[WHY_LEN];

			link->parsing = false;
			if (n == -EPROTONOSUPPORT) {
				link_other_version(link);
				return;
			}
			snprintf(why, sizeof(why), "it sent %s", fault);
			link_down(link, why);
			return;
		}
		if (frame.type != FRAME_HEARTBEAT && !link->handlers->frame(link->arg, &frame)) {
			link->pulse.patient = !link->dead;
			break;
		}
		inbox_pass(&link->in, (size_t)n);
		if (frame.type == FRAME_EPOCH_BEGIN)
			lanes_begin(link->lanes, frame.epoch);
	}
	link->parsing = false;
	if (link->dead) {
		link_reap(link);
		return;
	}
	if (link->flushing || !link->pulse.patient)
		link_recv_more(link);
}

void link_resume(struct link *link)
{
	if (!link->pulse.patient || link->dead)
		return;
	link->pulse.patient = false;
	link->pulse.heard = loop_now();
	link_parse(link);
}

static void link_received(void *arg, int res)
{
	struct link *link = arg;

	link->rx_busy = false;
	if (link->dead) {
		link_reap(link);
		return;
	}
	if (res <= 0) {
		const char *fault = link->ops->fault ? link->ops->fault(link->wire) : NULL;
		char why[WHY_LEN];

		if (fault)
			snprintf(why, sizeof(why), "%s", fault);
		else if (res == 0 || (res == -ECONNRESET && !link->in.seq))
			snprintf(why, sizeof(why), "it closed the connection%s",
				 link->keyless && !link->in.seq ? ": does it want a --key?" : "");
		else if (res == -EBADMSG)
			snprintf(why, sizeof(why), "what it sent was changed on the way");
		else
			snprintf(why, sizeof(why), "receiving failed: %s", strerror(-res));
		link_down(link, why);
		return;
	}
	link->pulse.heard = loop_now();
	inbox_add(&link->in, (size_t)res);
	link_parse(link);
}

static void link_recv_more(struct link *link)
{
	size_t len;
	void *room;

	if (link->rx_busy)
		return;
	/*
	 * What comes then is of no interest, but has to be read: a socket that is closed with
	 * something unread takes back what was sent last, a refusal, say (RFC 1122, 4.2.2.13;
	 * and the kernel's TLS tells the reset before it shows what came before).
	 */
	if (link->flushing)
		inbox_drop(&link->in);
	room = inbox_room(&link->in, &len);
	link->rx_busy = true;
	link->ops->recv(link->wire, room, len, link_received, link);
}

static struct link *link_new(struct loop *loop, const struct link_ops *ops,
			     const struct link_handlers *handlers, void *arg)
{
	struct link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	if (!inbox_open(&link->in)) {
		free(link);
		return NULL;
	}
	link->loop = loop;
	link->ops = ops;
	link->handlers = handlers;
	link->arg = arg;
	link->out.ops = ops;
	link->out.sent = link_sent;
	link->out.back = link_back;
	link->out.arg = link;
	link->pulse.beat = link_beat;
	link->pulse.silent = link_silent;
	link->pulse.arg = link;
	link->beat.iov = link->beat_iov;
	link->beat.n = 1;
	link->beat.done = link_beat_done;
	link->flush.arg = link;
	link->pulse.heard = loop_now();
	return link;
}

static void link_connect_late(void *arg)
{
	link_down(arg, "no answer to the connection request; is the standby's agent running there?");
}

static void link_secure_late(void *arg)
{
	link_down(arg, "it does not answer our TLS: is it a vmrepl-agent, and not --insecure?");
}

static void link_secured(void *arg, const char *why)
{
	struct link *link = arg;

	link->connecting = false;
	if (link->dead) {
		link_reap(link);
		return;
	}
	loop_timer_cancel(link->loop, &link->flush);
	if (why) {
		link_down(link, why);
		return;
	}
	link->pulse.heard = loop_now();
	link_recv_more(link);
	if (link->dialled)
		link->handlers->up(link->arg);
	else
		outbox_send(&link->out);
}

static void link_connected(void *arg, int res)
{
	struct link *link = arg;
	char why[WHY_LEN];

	link->flush.fn = link_secure_late;
	if (link->dead || res < 0)
		snprintf(why, sizeof(why),
			 "cannot connect: %s; is the standby's agent running there?", strerror(-res));
	else if (link->ops->secure(link->wire, true, link_secured, link))
		return;
	else
		snprintf(why, sizeof(why), "out of memory");
	link->connecting = false;
	link_down(link, why);
}

struct link *link_connect(struct loop *loop, const struct link_ops *ops,
			  const struct link_addr *addr,
			  const struct link_handlers *handlers, void *arg, struct why *why)
{
	struct link *link = link_new(loop, ops, handlers, arg);

	if (!link) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	snprintf(link->peer, sizeof(link->peer), "%s", addr->text);
	link->connecting = true;
	link->dialled = true;
	link->keyless = !addr->key;
	link->wire = ops->connect(loop, addr, link_connected, link, why);
	if (!link->wire) {
		link_free(link);
		return NULL;
	}
	link->out.wire = link->wire;
	link->flush.fn = link_connect_late;
	loop_timer_set(loop, &link->flush, LINK_CONNECT_NS);
	return link;
}

struct link *link_adopt(struct loop *loop, const struct link_ops *ops,
			struct link_wire *wire, const char *peer,
			const struct link_handlers *handlers, void *arg)
{
	struct link *link = link_new(loop, ops, handlers, arg);

	if (!link) {
		ops->close(wire);
		return NULL;
	}
	link->wire = wire;
	link->out.wire = wire;
	snprintf(link->peer, sizeof(link->peer), "%s", peer);
	link->connecting = true;
	if (!ops->secure(wire, false, link_secured, link)) {
		link_free(link);
		return NULL;
	}
	return link;
}

/* ---- streams ---- */

static void link_lane_frame(void *arg, const struct frame *frame)
{
	struct link *link = arg;

	if (!link->flushing)
		link->handlers->frame(link->arg, frame);
}

static void link_lanes_lost(void *arg, const char *why)
{
	struct link *link = arg;

	if (link->handlers->lanes_lost)
		link->handlers->lanes_lost(link->arg, why);
}

static const struct lanes_handlers link_lanes_handlers = {
	.frame	= link_lane_frame,
	.lost	= link_lanes_lost,
	.closed	= link_back,
};

static bool link_make_lanes(struct link *link)
{
	if (link->dead || link->lanes)
		return false;
	link->lanes = lanes_new(link->loop, &link_lanes_handlers, link);
	return link->lanes;
}

int link_offer_lanes(struct link *link, unsigned int nr, uint8_t *token)
{
	return link_make_lanes(link) ? lanes_offer(link->lanes, nr, token) : -ENOMEM;
}

bool link_adopt_lane(struct link *link, struct link *lane, const struct frame *frame)
{
	return lanes_adopt(link->lanes, lane, frame);
}

bool link_dial_lanes(struct link *link, const struct link_addr *addr, unsigned int nr,
		     const uint8_t *token, void (*done)(void *arg, const char *why), void *arg)
{
	if (!link_make_lanes(link))
		return false;
	lanes_dial(link->lanes, link->ops, addr, nr, token, done, arg);
	return true;
}

unsigned int link_lanes(const struct link *link)
{
	return lanes_open(link->lanes);
}

void link_give_to(struct link *link, const struct link_handlers *handlers, void *arg)
{
	link->handlers = handlers;
	link->arg = arg;
}

static void link_flush_late(void *arg)
{
	link_close(arg);
}

void link_close_soon(struct link *link)
{
	if (link->connecting)
		link_close(link);
	if (link->dead || link->flushing)
		return;
	link->flushing = true;
	pulse_stop(&link->pulse);
	link->flush.fn = link_flush_late;
	loop_timer_set(link->loop, &link->flush, LINK_FLUSH_NS);
	lanes_close(link->lanes);
	if (outbox_empty(&link->out))
		link->ops->finish(link->wire);
	if (!link->parsing)	/* else the parser does, when it is done */
		link_recv_more(link);
}
