// SPDX-License-Identifier: GPL-2.0
/*
 * link: frames, heartbeats and loss, whatever the transport.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "link.h"

/* Room for several of the largest frames, so that receives stay large. */
#define LINK_RX_BYTES		(4u << 20)
#define LINK_CONNECT_NS		(5 * NSEC_PER_SEC)
/* How long link_close_soon() tries. */
#define LINK_FLUSH_NS		(2 * NSEC_PER_SEC)

struct link {
	struct loop *loop;
	const struct link_ops *ops;
	struct link_wire *wire;
	const struct link_handlers *handlers;
	void *arg;
	char peer[LINK_PEER_LEN];
	struct why indirect;	/* of link_keep_why() */

	uint8_t *rx;
	size_t rx_from;		/* first byte not parsed yet */
	size_t rx_to;		/* end of what has come */
	uint64_t rx_seq;
	uint64_t last_rx;
	bool rx_busy;
	bool rx_held;		/* the owner put a frame off */
	bool parsing;

	struct link_tx *tx_first;
	struct link_tx **tx_last;
	uint64_t tx_seq;
	uint64_t last_tx;
	bool tx_busy;

	struct loop_timer tick;
	uint64_t tick_due;
	uint64_t beat_ns;
	uint64_t timeout_ns;
	struct link_tx beat;
	struct iovec beat_iov[1];
	bool beat_queued;

	struct loop_timer flush;
	bool connecting;	/* nothing is sent or received yet */
	bool dialled;		/* we made the connection */
	bool keyless;		/* and have no key */
	bool flushing;
	bool dead;		/* shut; waits for what is under way */
	bool closed_called;
};

/* A frame of link_send_copy(). */
struct link_copy {
	struct link_tx tx;
	struct iovec iov[2];
	uint8_t payload[];
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
	return link->dead ? 0 : link->ops->rate(link->wire);
}

uint64_t link_last_rx(const struct link *link)
{
	return link->last_rx;
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
	if (link->wire)
		link->ops->close(link->wire);
	munmap(link->rx, LINK_RX_BYTES);
	free(link);
}

/* Frees once nothing is under way any more. */
static void link_reap(struct link *link)
{
	if (!link->dead || link->tx_busy || link->rx_busy || link->connecting ||
	    link->parsing || link->closed_called)
		return;
	link->closed_called = true;
	while (link->tx_first) {
		struct link_tx *tx = link->tx_first;

		link->tx_first = tx->next;
		tx->done(tx, false);
	}
	if (link->handlers->closed)
		link->handlers->closed(link->arg);
	link_free(link);
}

void link_close(struct link *link)
{
	if (!link->dead) {
		link->dead = true;
		loop_timer_cancel(link->loop, &link->tick);
		loop_timer_cancel(link->loop, &link->flush);
		if (link->wire)
			link->ops->shut(link->wire);
	}
	link_reap(link);
}

static void link_down(struct link *link, const char *why)
{
	if (link->dead) {
		link_reap(link);
		return;
	}
	if (link->handlers->down && !link->flushing)
		link->handlers->down(link->arg, why);
	link_close(link);
}

static void link_sent(void *arg, int res);

static void link_send_next(struct link *link)
{
	struct link_tx *tx = link->tx_first;

	if (link->tx_busy || link->connecting || link->dead || !tx)
		return;
	link->tx_busy = true;
	link->ops->send(link->wire, tx->iov, tx->n, link_sent, link);
}

static void link_sent(void *arg, int res)
{
	struct link *link = arg;
	struct link_tx *tx = link->tx_first;

	link->tx_busy = false;
	if (res < 0) {
		char why[WHY_LEN];

		snprintf(why, sizeof(why), "sending failed: %s", strerror(-res));
		link_down(link, why);
		return;
	}
	link->last_tx = loop_now();
	link->tx_first = tx->next;
	if (!link->tx_first)
		link->tx_last = &link->tx_first;
	/* The next one first: what @done does need not keep the wire idle. */
	link_send_next(link);
	tx->done(tx, true);
	if (link->dead)
		link_reap(link);
	else if (link->flushing && !link->tx_first)
		link->ops->finish(link->wire);
}

uint64_t link_send(struct link *link, struct link_tx *tx,
		   enum frame_type type, uint64_t epoch)
{
	uint64_t sum;

	sum = frame_seal(&tx->head, type, epoch, link->tx_seq, tx->iov + 1, tx->n - 1);
	if (link->dead || link->flushing) {
		tx->done(tx, false);
		return sum;
	}
	link->tx_seq++;
	tx->iov[0].iov_base = &tx->head;
	tx->iov[0].iov_len = sizeof(tx->head);
	tx->next = NULL;
	*link->tx_last = tx;
	link->tx_last = &tx->next;
	link_send_next(link);
	return sum;
}

static void link_copy_done(struct link_tx *tx, bool sent)
{
	(void)sent;
	/* @tx is the first member. */
	free(tx);
}

void link_send_copy(struct link *link, enum frame_type type, uint64_t epoch,
		    const void *payload, size_t len)
{
	struct link_copy *copy = calloc(1, sizeof(*copy) + len);

	if (!copy) {
		link_down(link, "out of memory");
		return;
	}
	if (len)
		memcpy(copy->payload, payload, len);
	copy->iov[1].iov_base = copy->payload;
	copy->iov[1].iov_len = len;
	copy->tx.iov = copy->iov;
	copy->tx.n = len ? 2 : 1;
	copy->tx.done = link_copy_done;
	link_send(link, &copy->tx, type, epoch);
}

/* Takes back all but the frame that is being sent: their numbers are free again. */
static void link_unqueue(struct link *link)
{
	struct link_tx **from = link->tx_busy ? &link->tx_first->next : &link->tx_first;
	struct link_tx *tx, *queued = *from;

	*from = NULL;
	link->tx_last = from;
	for (tx = queued; tx; tx = tx->next)
		link->tx_seq--;
	while (queued) {
		tx = queued;
		queued = tx->next;
		tx->done(tx, false);
	}
}

void link_send_bye(struct link *link, enum frame_bye_reason reason, const char *text)
{
	struct frame_bye bye = { .reason = reason };
	uint8_t payload[sizeof(bye) + FRAME_TEXT_MAX];
	size_t len = strnlen(text, FRAME_TEXT_MAX);

	if (link->dead || link->flushing)
		return;
	link_unqueue(link);
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

static void link_tick(void *arg)
{
	struct link *link = arg;
	uint64_t now = loop_now();
	/*
	 * A tick that comes late means that this process stood still itself,
	 * and what came meanwhile may not have been read: judge at the next.
	 */
	bool late = now - link->tick_due > link->beat_ns;

	if (link->timeout_ns && !late && !link->rx_held &&
	    now - link->last_rx > link->timeout_ns) {
		char why[WHY_LEN];

		snprintf(why, sizeof(why), "no sign of life for %llu ms",
			 (unsigned long long)((now - link->last_rx) / NSEC_PER_MSEC));
		link_down(link, why);
		return;
	}
	/* Whoever accepted says nothing to what may be no agent at all. */
	if ((link->rx_seq || link->dialled) && !link->beat_queued &&
	    now - link->last_tx >= link->beat_ns / 2) {
		link->beat_queued = true;
		link_send(link, &link->beat, FRAME_HEARTBEAT, 0);
	}
	link->tick_due = now + link->beat_ns;
	loop_timer_set(link->loop, &link->tick, link->beat_ns);
}

void link_watch(struct link *link, uint64_t beat_ns, uint64_t timeout_ns)
{
	if (link->dead)
		return;
	link->beat_ns = beat_ns;
	link->timeout_ns = timeout_ns;
	link->last_rx = loop_now();
	link->tick_due = link->last_rx;
	loop_timer_set(link->loop, &link->tick, 0);
}

/* Whatever the peer speaks, the header of our answer tells it what we do. */
static void link_other_version(struct link *link)
{
	static const char answer[] = "we speak another protocol version";

	link->handlers->down(link->arg, "it speaks another protocol version; "
			     "install the same vmrepl-agent on both hosts");
	link_send_copy(link, FRAME_REFUSE, 0, answer, sizeof(answer) - 1);
	link_close_soon(link);
}

static void link_parse(struct link *link)
{
	struct frame frame;
	const char *fault;
	ssize_t n;

	link->parsing = true;
	while (!link->dead && !link->flushing && link->rx_from < link->rx_to) {
		n = frame_parse(link->rx + link->rx_from, link->rx_to - link->rx_from,
				link->rx_seq, &frame, &fault);
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
			link->rx_held = !link->dead;
			break;
		}
		link->rx_seq++;
		link->rx_from += (size_t)n;
	}
	link->parsing = false;
	if (link->dead) {
		link_reap(link);
		return;
	}
	if (link->flushing || !link->rx_held)
		link_recv_more(link);
}

void link_resume(struct link *link)
{
	if (!link->rx_held || link->dead)
		return;
	link->rx_held = false;
	link->last_rx = loop_now();
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
		else if (res == 0 || (res == -ECONNRESET && !link->rx_seq))
			snprintf(why, sizeof(why), "it closed the connection%s",
				 link->keyless && !link->rx_seq ? ": does it want a --key?" : "");
		else if (res == -EBADMSG)
			snprintf(why, sizeof(why), "what it sent was changed on the way");
		else
			snprintf(why, sizeof(why), "receiving failed: %s", strerror(-res));
		link_down(link, why);
		return;
	}
	link->last_rx = loop_now();
	link->rx_to += (size_t)res;
	link_parse(link);
}

static void link_recv_more(struct link *link)
{
	if (link->rx_busy)
		return;
	/*
	 * What comes then is of no interest, but has to be read: a socket that is closed with
	 * something unread takes back what was sent last, a refusal, say (RFC 1122, 4.2.2.13;
	 * and the kernel's TLS tells the reset before it shows what came before).
	 */
	if (link->flushing)
		link->rx_from = link->rx_to;
	if (link->rx_from == link->rx_to) {
		link->rx_from = 0;
		link->rx_to = 0;
	} else if (link->rx_from && LINK_RX_BYTES - link->rx_from < FRAME_MAX) {
		memmove(link->rx, link->rx + link->rx_from, link->rx_to - link->rx_from);
		link->rx_to -= link->rx_from;
		link->rx_from = 0;
	}
	link->rx_busy = true;
	link->ops->recv(link->wire, link->rx + link->rx_to, LINK_RX_BYTES - link->rx_to,
			link_received, link);
}

static struct link *link_new(struct loop *loop, const struct link_ops *ops,
			     const struct link_handlers *handlers, void *arg)
{
	struct link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	link->rx = mmap(NULL, LINK_RX_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (link->rx == MAP_FAILED) {
		free(link);
		return NULL;
	}
	link->loop = loop;
	link->ops = ops;
	link->handlers = handlers;
	link->arg = arg;
	link->tx_last = &link->tx_first;
	link->tick.fn = link_tick;
	link->tick.arg = link;
	link->beat.iov = link->beat_iov;
	link->beat.n = 1;
	link->beat.done = link_beat_done;
	link->flush.arg = link;
	link->last_rx = loop_now();
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
	link->last_rx = loop_now();
	link_recv_more(link);
	if (link->dialled)
		link->handlers->up(link->arg);
	else
		link_send_next(link);
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
	snprintf(link->peer, sizeof(link->peer), "%s", peer);
	link->connecting = true;
	if (!ops->secure(wire, false, link_secured, link)) {
		link_free(link);
		return NULL;
	}
	return link;
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
	loop_timer_cancel(link->loop, &link->tick);
	link->flush.fn = link_flush_late;
	loop_timer_set(link->loop, &link->flush, LINK_FLUSH_NS);
	if (!link->tx_first)
		link->ops->finish(link->wire);
	if (!link->parsing)	/* else the parser does, when it is done */
		link_recv_more(link);
}
