// SPDX-License-Identifier: GPL-2.0
/*
 * link_rdma: link_tcp's connection, with TLS where there is a key, carries all frames;
 * only the data of pages goes past it, by RDMA. Where there is no fabric it is link_tcp.
 *
 * The connecting side writes, the accepting side reads. One frame is on its way at a time:
 * its data by RDMA and the rest over the connection, at once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "link.h"
#include "placed.h"
#include "qpair.h"

/* What comes over the connection; of pages it is the descriptors. */
#define RDMA_IN_BYTES	(256u << 10)
/* A write that waits for longer tells why the connection ended. */
#define RDMA_LATE_NS	NSEC_PER_SEC

/* @tcp is link_tcp's struct of the same name. */
struct link_wire {
	struct loop *loop;
	struct link_wire *tcp;
	bool dialled;
	struct fabric *fabric;
	struct why fault;	/* of the fabric, which is gone then */
	void (*joined)(void *arg, const char *why);
	void *joined_arg;

	/* The frame that is being placed. */
	struct iovec *iov;
	int n;
	loop_fn send_done;	/* NULL: none is */
	void *send_arg;
	bool on_tcp;		/* its rest is on its way */
	bool split;		/* it was begun */
	int send_res;
	struct placed_out out;

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
static void rdma_drop(struct link_wire *wire, const char *why)
{
	if (!wire->fault.text[0])
		why_set(&wire->fault, EIO, "%s", why);
	fabric_close(wire->fabric);
	wire->fabric = NULL;
}

/* ---- sending ---- */

static void rdma_send_end(struct link_wire *wire, int res)
{
	loop_fn done = wire->send_done;

	wire->send_done = NULL;
	done(wire->send_arg, res);
}

static void rdma_sent(void *arg, int res);

/*
 * Goes on with the frame where it can. May end in rdma_send_end(), and so in the end of the
 * wire.
 */
static void rdma_send_more(struct link_wire *wire)
{
	uint64_t number;

	if (wire->on_tcp)
		return;
	if (wire->fabric && !wire->split) {
		struct qpair *q = fabric_qpair(wire->fabric);

		if (!qpair_room(q))
			return;
		if (qpair_write(q, wire->iov + 2, wire->n - 2, &number)) {
			rdma_drop(wire, qpair_broken(q));
			loop_timer_set(wire->loop, &wire->later, 0);
			return;
		}
		wire->split = true;
		wire->on_tcp = true;
		placed_split(&wire->out, wire->iov, wire->n, number);
		link_tcp.send(wire->tcp, wire->out.iov, PLACED_PARTS, rdma_sent, wire);
		return;
	}
	if (wire->send_res < 0) {
		if (wire->fabric)
			rdma_drop(wire, "the connection ended");
		rdma_send_end(wire, wire->send_res);
	} else if (!wire->fabric) {
		rdma_send_end(wire, -EIO);
	} else if (!qpair_writing(fabric_qpair(wire->fabric))) {
		rdma_send_end(wire, 0);
	}
}

static void rdma_sent(void *arg, int res)
{
	struct link_wire *wire = arg;

	wire->on_tcp = false;
	wire->send_res = res;
	rdma_send_more(wire);
}

static void rdma_send(struct link_wire *wire, struct iovec *iov, int n, loop_fn done, void *arg)
{
	bool pages = wire->dialled && placed_can(iov, n);

	/* What was joined and is broken is the end of the connection, when it is missed. */
	if (!pages || (!wire->fabric && !wire->fault.text[0]) ||
	    (wire->fabric && (!fabric_joined(wire->fabric) ||
			      !qpair_holds(fabric_qpair(wire->fabric), iov + 2, n - 2)))) {
		link_tcp.send(wire->tcp, iov, n, done, arg);
		return;
	}
	wire->iov = iov;
	wire->n = n;
	wire->send_done = done;
	wire->send_arg = arg;
	wire->send_res = 0;
	wire->split = false;
	if (wire->fabric)
		rdma_send_more(wire);
	else
		loop_timer_set(wire->loop, &wire->later, 0);
}

/* ---- receiving ---- */

static void rdma_recv_end(struct link_wire *wire, int res)
{
	loop_fn done = wire->recv_done;

	wire->recv_done = NULL;
	done(wire->recv_arg, res);
}

static void rdma_received(void *arg, int res);

/* The data of a frame, out of its slot. False: it is not there, or will never be. */
static bool rdma_recv_data(struct link_wire *wire, uint64_t number, size_t *out)
{
	const uint8_t *slot;
	struct qpair *q;
	uint64_t next;

	if (!wire->fabric)
		return false;
	q = fabric_qpair(wire->fabric);
	slot = qpair_slot(q, &next);
	if (number != next) {
		rdma_drop(wire, "it names data that it did not write");
		return false;
	}
	if (!slot)
		return false;
	*out += placed_data(&wire->in, slot, wire->recv_buf + *out, wire->recv_room - *out);
	if (placed_wants(&wire->in, &number))
		return true;
	qpair_give(q);
	if (qpair_broken(q))
		rdma_drop(wire, qpair_broken(q));
	return true;
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
	else if (placed_wants(&wire->in, &number) && !wire->fabric)
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
		if (wire->send_done)
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
	/* A goodbye may still come or go: only what needs the fabric fails. */
	if (why)
		rdma_drop(wire, why);
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
	uint64_t ns = wire->dialled && wire->fabric && fabric_joined(wire->fabric) ?
		      qpair_waits(fabric_qpair(wire->fabric)) : 0;
	uint64_t number;

	/* Who reads misses it only while a frame's data is to come. */
	if (!wire->dialled && !placed_wants(&wire->in, &number))
		return NULL;

	/* The queue pair may give up later than the other side does. */
	if (!wire->fault.text[0] && ns > RDMA_LATE_NS)
		why_set(&wire->fault, ETIMEDOUT, "the RDMA connection carries nothing any more: a write has waited for %llu ms",
			(unsigned long long)(ns / NSEC_PER_MSEC));
	return wire->fault.text[0] ? wire->fault.text : NULL;
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

static void rdma_shut(struct link_wire *wire)
{
	wire->closing = true;
	rdma_drop(wire, "the connection was closed");
	link_tcp.shut(wire->tcp);
	loop_timer_set(wire->loop, &wire->later, 0);
}

/* What is read ahead on the connection, for nobody yet, ends within a moment. */
static void rdma_close(struct link_wire *wire)
{
	loop_timer_cancel(wire->loop, &wire->later);
	fabric_close(wire->fabric);
	wire->fabric = NULL;
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
	.shut		= rdma_shut,
	.close		= rdma_close,
	.ends		= rdma_ends,
	.offer		= rdma_offer,
	.join		= rdma_join,
	.lend		= rdma_lend,
	.direct		= rdma_direct,
	.fault		= rdma_fault,
};
