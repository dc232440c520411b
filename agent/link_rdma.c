// SPDX-License-Identifier: GPL-2.0
/*
 * link_rdma: link_tcp's connection, with TLS where there is a key, carries all frames;
 * only the data of pages goes past it, by RDMA. Where there is no fabric it is link_tcp.
 *
 * The connecting side writes, the accepting side reads. One frame is on its way at a time:
 * first its data by RDMA, and when that is there the rest over the connection. So a fabric that
 * breaks is never missed: the frame goes as a whole, and all that follow.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "link.h"
#include "placed.h"
#include "qpair.h"
#include "report.h"

/* What comes over the connection; of pages it is the descriptors. */
#define RDMA_IN_BYTES	(256u << 10)

/* @tcp is link_tcp's struct of the same name. */
struct link_wire {
	struct loop *loop;
	struct link_wire *tcp;
	bool dialled;
	struct fabric *fabric;
	struct why lost;	/* why the fabric is gone, where it is */
	struct qpair_rest rest;	/* what it left */
	struct loop_timer stuck;	/* a write that takes too long */
	uint64_t patience;
	void (*joined)(void *arg, const char *why);
	void *joined_arg;

	/* The frame that is being placed. */
	struct iovec *iov;
	int n;
	struct link_out *out;	/* NULL: none is */
	struct link_out rest_out;	/* of the rest of it, on the connection */
	int rest_res;
	bool on_tcp;		/* the rest is on its way */
	bool split;		/* its data is, or was */
	uint64_t number;	/* of its data */
	struct placed_out placed;

	/* What is received; only of a connection that was accepted. */
	struct placed_in in;
	uint8_t *in_buf;
	const uint8_t *in_at;
	size_t in_len;
	bool receiving;		/* on the connection */
	int end;		/* of it: 0 or -errno */
	bool ended;
	uint8_t *recv_buf;
	size_t recv_room;
	loop_fn recv_done;	/* NULL: nobody wants anything */
	void *recv_arg;

	struct loop_timer later;	/* what must not be told from within a call */
	bool closing;
	bool orphan;		/* nobody's any more; waits for what is under way on @tcp */
};

struct link_door {
	struct loop *loop;
	struct link_door *tcp;
	void (*accepted)(void *arg, struct link_wire *wire, const char *peer);
	void *arg;
};

static void rdma_later(void *arg);
static void rdma_stuck(void *arg);

static bool rdma_resolve(const char *text, struct link_addr *addr, struct why *why)
{
	return link_tcp.resolve(text, addr, why);
}

static bool rdma_loopback(const struct link_addr *addr)
{
	return link_tcp.loopback(addr);
}

static struct link_wire *rdma_wire(struct loop *loop, bool dialled)
{
	struct link_wire *wire = calloc(1, sizeof(*wire));

	if (!wire)
		return NULL;
	wire->loop = loop;
	wire->dialled = dialled;
	wire->later.fn = rdma_later;
	wire->later.arg = wire;
	wire->stuck.fn = rdma_stuck;
	wire->stuck.arg = wire;
	if (dialled)
		return wire;
	wire->in_buf = malloc(RDMA_IN_BYTES);
	if (wire->in_buf)
		return wire;
	free(wire);
	return NULL;
}

static void rdma_accepted(void *arg, struct link_wire *tcp, const char *peer)
{
	struct link_door *door = arg;
	struct link_wire *wire = rdma_wire(door->loop, false);

	if (!wire) {
		link_tcp.close(tcp);
		return;
	}
	wire->tcp = tcp;
	door->accepted(door->arg, wire, peer);
}

static struct link_door *rdma_listen(struct loop *loop, const struct link_addr *addr,
				     void (*accepted)(void *arg, struct link_wire *wire,
						      const char *peer),
				     void *arg, struct why *why)
{
	struct link_door *door = calloc(1, sizeof(*door));

	if (!door) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	door->loop = loop;
	door->accepted = accepted;
	door->arg = arg;
	door->tcp = link_tcp.listen(loop, addr, rdma_accepted, door, why);
	if (door->tcp)
		return door;
	free(door);
	return NULL;
}

static void rdma_unlisten(struct link_door *door)
{
	link_tcp.unlisten(door->tcp);
	free(door);
}

static struct link_wire *rdma_connect(struct loop *loop, const struct link_addr *addr,
				      loop_fn done, void *arg, struct why *why)
{
	struct link_wire *wire = rdma_wire(loop, true);

	if (!wire) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	wire->tcp = link_tcp.connect(loop, addr, done, arg, why);
	if (wire->tcp)
		return wire;
	free(wire);
	return NULL;
}

static bool rdma_secure(struct link_wire *wire, bool dialled,
			void (*done)(void *arg, const char *why), void *arg)
{
	return link_tcp.secure(wire->tcp, dialled, done, arg);
}

/* From here on the device touches nothing of ours. */
static void rdma_drop(struct link_wire *wire)
{
	loop_timer_cancel(wire->loop, &wire->stuck);
	if (wire->fabric && !wire->dialled)
		qpair_leave(fabric_qpair(wire->fabric), &wire->rest);
	fabric_close(wire->fabric);
	wire->fabric = NULL;
}

/* What was not there yet goes, or comes, over the connection. */
static void rdma_lose(struct link_wire *wire, const char *why)
{
	why_set(&wire->lost, EIO, "%s", why);
	rdma_drop(wire);
	/* To who reads it may be the other side's orderly end. */
	if (!wire->dialled)
		return;
	report_warn("pages go by TCP from here on: %s", wire->lost.text);
	report_event("link", "link:s why:s", "tcp", wire->lost.text);
}

/* ---- sending ---- */

static struct link_wire *rdma_of_rest(struct link_out *out)
{
	return (struct link_wire *)((char *)out - offsetof(struct link_wire, rest_out));
}

/* The next one is for rdma_rest_back(): until then the rest's memory is in use. */
static void rdma_rest_sent(struct link_out *out, int res)
{
	rdma_of_rest(out)->rest_res = res;
}

/* The device has read the data, and the connection the rest. May be the end of the wire. */
static void rdma_rest_back(struct link_out *rest)
{
	struct link_wire *wire = rdma_of_rest(rest);
	struct link_out *out = wire->out;

	wire->on_tcp = false;
	wire->out = NULL;
	out->sent(out, wire->rest_res);
	out->back(out);
}

/* Its data is there: now the rest. */
static void rdma_send_rest(struct link_wire *wire)
{
	loop_timer_cancel(wire->loop, &wire->stuck);
	wire->on_tcp = true;
	placed_split(&wire->placed, wire->iov, wire->n, wire->number);
	wire->rest_out.sent = rdma_rest_sent;
	wire->rest_out.back = rdma_rest_back;
	link_tcp.send(wire->tcp, wire->placed.iov, PLACED_PARTS, &wire->rest_out);
}

/* Goes on with the frame where it can. */
static void rdma_send_more(struct link_wire *wire)
{
	struct link_out *out;
	struct qpair *q = wire->fabric ? fabric_qpair(wire->fabric) : NULL;

	if (wire->on_tcp)
		return;
	if (q && !qpair_broken(q) && !wire->split) {
		if (!qpair_room(q))
			return;
		wire->split = true;
		loop_timer_set(wire->loop, &wire->stuck, wire->patience);
		if (!qpair_write(q, wire->iov + 2, wire->n - 2, &wire->number))
			return;
	}
	if (q && qpair_broken(q)) {
		rdma_lose(wire, qpair_broken(q));
		q = NULL;
	}
	if (q) {
		if (!qpair_writing(q))
			rdma_send_rest(wire);
		return;
	}
	/* As a whole, and the connection says what becomes of it. */
	out = wire->out;
	wire->out = NULL;
	link_tcp.send(wire->tcp, wire->iov, wire->n, out);
}

/* The queue pair may give up later than the other side gives us up. */
static void rdma_stuck(void *arg)
{
	struct link_wire *wire = arg;

	rdma_lose(wire, "an RDMA write has waited for too long");
	rdma_send_more(wire);
}

static void rdma_send(struct link_wire *wire, struct iovec *iov, int n, struct link_out *out)
{
	if (!wire->dialled || !placed_can(iov, n) || !wire->fabric ||
	    !fabric_joined(wire->fabric) ||
	    !qpair_holds(fabric_qpair(wire->fabric), iov + 2, n - 2)) {
		link_tcp.send(wire->tcp, iov, n, out);
		return;
	}
	wire->iov = iov;
	wire->n = n;
	wire->out = out;
	wire->split = false;
	rdma_send_more(wire);
}

/* ---- receiving ---- */

static void rdma_recv_end(struct link_wire *wire, int res)
{
	loop_fn done = wire->recv_done;

	wire->recv_done = NULL;
	done(wire->recv_arg, res);
}

static void rdma_received(void *arg, int res);

/* The slot to be read next; NULL: its data is not there. */
static const uint8_t *rdma_slot(struct link_wire *wire, uint64_t *number)
{
	return wire->fabric ? qpair_slot(fabric_qpair(wire->fabric), number) :
			      qpair_rest_slot(&wire->rest, number);
}

/* It was read. */
static void rdma_give(struct link_wire *wire)
{
	struct qpair *q;

	if (!wire->fabric) {
		wire->rest.read++;
		return;
	}
	q = fabric_qpair(wire->fabric);
	qpair_give(q);
	if (qpair_broken(q))
		rdma_lose(wire, qpair_broken(q));
}

/* The data of a frame, out of its slot. False: it is not there, or will never be. */
static bool rdma_recv_data(struct link_wire *wire, uint64_t number, size_t *out)
{
	uint64_t next;
	const uint8_t *slot = rdma_slot(wire, &next);

	if (!slot || number != next)
		return false;
	*out += placed_data(&wire->in, slot, wire->recv_buf + *out, wire->recv_room - *out);
	if (!placed_wants(&wire->in, &number))
		rdma_give(wire);
	return true;
}

/* It names data that was there before, or without a queue pair that is to come. */
static bool rdma_recv_missed(struct link_wire *wire)
{
	uint64_t number, next;

	if (!placed_wants(&wire->in, &number))
		return false;
	return (!rdma_slot(wire, &next) && !wire->fabric) || number != next;
}

/* Frames out of all that is here. May end in rdma_recv_end(). */
static void rdma_recv_more(struct link_wire *wire)
{
	uint64_t number;
	size_t out = 0;
	bool more = true;

	while (more && out < wire->recv_room) {
		if (placed_wants(&wire->in, &number)) {
			more = rdma_recv_data(wire, number, &out);
		} else {
			more = wire->in_len;
			out += placed_feed(&wire->in, &wire->in_at, &wire->in_len,
					   wire->recv_buf + out, wire->recv_room - out);
		}
	}
	if (out)
		rdma_recv_end(wire, (int)out);
	else if (rdma_recv_missed(wire))
		rdma_recv_end(wire, -EIO);
	else if (wire->ended)
		rdma_recv_end(wire, wire->end);
	else if (!wire->receiving && !wire->in_len) {
		wire->receiving = true;
		link_tcp.recv(wire->tcp, wire->in_buf, RDMA_IN_BYTES, rdma_received, wire);
	}
}

static void rdma_free(struct link_wire *wire)
{
	link_tcp.close(wire->tcp);
	qpair_rest_free(&wire->rest);
	free(wire->in_buf);
	free(wire);
}

static void rdma_received(void *arg, int res)
{
	struct link_wire *wire = arg;

	wire->receiving = false;
	if (wire->orphan) {
		rdma_free(wire);
		return;
	}
	if (res > 0) {
		wire->in_at = wire->in_buf;
		wire->in_len = (size_t)res;
	} else {
		wire->ended = true;
		wire->end = res;
	}
	if (wire->recv_done)
		rdma_recv_more(wire);
}

static void rdma_recv(struct link_wire *wire, void *buf, size_t len, loop_fn done, void *arg)
{
	if (wire->dialled) {
		link_tcp.recv(wire->tcp, buf, len, done, arg);
		return;
	}
	wire->recv_buf = buf;
	wire->recv_room = len;
	wire->recv_done = done;
	wire->recv_arg = arg;
	loop_timer_set(wire->loop, &wire->later, 0);
}

/* ---- both ---- */

/* Called last by whoever calls it: the wire may be gone afterwards. */
static void rdma_go_on(struct link_wire *wire)
{
	if (wire->dialled) {
		if (wire->out)
			rdma_send_more(wire);
		return;
	}
	if (!wire->recv_done)
		return;
	/* What is under way on the connection ends by itself, and tells. */
	if (wire->closing && !wire->receiving)
		rdma_recv_end(wire, -ECONNRESET);
	else if (!wire->closing)
		rdma_recv_more(wire);
}

static void rdma_later(void *arg)
{
	rdma_go_on(arg);
}

static void rdma_joined(void *arg, const char *why)
{
	struct link_wire *wire = arg;
	void (*joined)(void *arg, const char *why) = wire->joined;
	struct why text;

	if (!joined)
		return;
	wire->joined = NULL;
	if (!why) {
		joined(wire->joined_arg, NULL);
		return;
	}
	/* It goes with the fabric. */
	why_set(&text, 0, "%s", why);
	fabric_close(wire->fabric);
	wire->fabric = NULL;
	joined(wire->joined_arg, text.text);
}

static void rdma_moved(void *arg)
{
	struct link_wire *wire = arg;
	const char *why = qpair_broken(fabric_qpair(wire->fabric));

	if (why && wire->joined) {
		rdma_joined(wire, why);
		return;
	}
	if (why)
		rdma_lose(wire, why);
	rdma_go_on(wire);
}

static const struct fabric_handlers rdma_handlers = {
	.joined	= rdma_joined,
	.moved	= rdma_moved,
};

static int rdma_offer(struct link_wire *wire, uint64_t timeout_ns, struct fabric_offer *offer,
		      struct why *why)
{
	struct sockaddr_storage ours, theirs;

	if (wire->dialled || wire->fabric || !link_tcp.ends(wire->tcp, &ours, &theirs))
		return why_set(why, ENOTCONN, "there is no connection to offer it on");
	wire->fabric = fabric_offer(wire->loop, &ours, timeout_ns, &rdma_handlers, wire, offer,
				    why);
	return wire->fabric ? 0 : -ENODEV;
}

static int rdma_join(struct link_wire *wire, uint64_t timeout_ns,
		     const struct fabric_offer *offer,
		     void (*done)(void *arg, const char *why), void *arg, struct why *why)
{
	struct sockaddr_storage ours, theirs;

	if (!wire->dialled || wire->fabric || !link_tcp.ends(wire->tcp, &ours, &theirs))
		return why_set(why, ENOTCONN, "there is no connection to join it from");
	wire->joined = done;
	wire->joined_arg = arg;
	/* Nothing else is sent meanwhile. */
	wire->patience = timeout_ns / 2;
	wire->fabric = fabric_join(wire->loop, &theirs, timeout_ns, &rdma_handlers, wire, offer,
				   why);
	return wire->fabric ? 0 : -ENODEV;
}

static int rdma_lend(struct link_wire *wire, void *mem, size_t bytes, struct why *why)
{
	int err = qpair_lend(fabric_qpair(wire->fabric), mem, bytes, why);

	if (!err)
		return 0;
	/* Nothing was written yet, so nothing is missed. */
	fabric_close(wire->fabric);
	wire->fabric = NULL;
	return err;
}

static bool rdma_direct(struct link_wire *wire, uint64_t *bytes)
{
	if (!wire->fabric || !fabric_joined(wire->fabric))
		return false;
	*bytes = qpair_sent(fabric_qpair(wire->fabric));
	return true;
}

static const char *rdma_fault(struct link_wire *wire)
{
	if (wire->dialled || !rdma_recv_missed(wire))
		return NULL;
	return wire->lost.text[0] ? wire->lost.text : "it names data that it did not write";
}

static const char *rdma_lost(struct link_wire *wire)
{
	return wire->lost.text[0] ? wire->lost.text : NULL;
}

static uint64_t rdma_rate(struct link_wire *wire)
{
	if (wire->dialled && wire->fabric && fabric_joined(wire->fabric))
		return qpair_rate(fabric_qpair(wire->fabric));
	return link_tcp.rate(wire->tcp);
}

static bool rdma_ends(struct link_wire *wire, struct sockaddr_storage *ours,
		      struct sockaddr_storage *theirs)
{
	return link_tcp.ends(wire->tcp, ours, theirs);
}

static void rdma_finish(struct link_wire *wire)
{
	link_tcp.finish(wire->tcp);
}

static void rdma_shut(struct link_wire *wire)
{
	wire->closing = true;
	rdma_drop(wire);
	link_tcp.shut(wire->tcp);
	loop_timer_set(wire->loop, &wire->later, 0);
}

/* What is read ahead on the connection, for nobody yet, ends within a moment. */
static void rdma_close(struct link_wire *wire)
{
	loop_timer_cancel(wire->loop, &wire->later);
	rdma_drop(wire);
	wire->orphan = wire->receiving;
	if (wire->orphan)
		link_tcp.shut(wire->tcp);
	else
		rdma_free(wire);
}

const struct link_ops link_rdma = {
	.name		= "rdma",
	.resolve	= rdma_resolve,
	.loopback	= rdma_loopback,
	.listen		= rdma_listen,
	.unlisten	= rdma_unlisten,
	.connect	= rdma_connect,
	.secure		= rdma_secure,
	.send		= rdma_send,
	.recv		= rdma_recv,
	.rate		= rdma_rate,
	.finish		= rdma_finish,
	.shut		= rdma_shut,
	.close		= rdma_close,
	.ends		= rdma_ends,
	.offer		= rdma_offer,
	.join		= rdma_join,
	.lend		= rdma_lend,
	.direct		= rdma_direct,
	.fault		= rdma_fault,
	.lost		= rdma_lost,
};
