// SPDX-License-Identifier: GPL-2.0
/*
 * fabric: rdma_cm's events, one after the other; each is given back before anything is
 * destroyed that it is about, see rdma_get_cm_event(3).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "fabric.h"
#include "qpair.h"
#include "report.h"

#define FABRIC_JOIN_NS		(5 * NSEC_PER_SEC)
/* Of each of rdma_cm's steps; all of them have FABRIC_JOIN_NS. */
#define FABRIC_STEP_MS		2000
/* What the queue pair repeats before it gives up, the most that there is. */
#define FABRIC_RETRIES		7u
#define FABRIC_FOREVER		7u	/* for rnr_retry, see ibv_modify_qp(3) */
/* So many may come without the token, and so many connections may be slow to end. */
#define FABRIC_STRANGERS	64u
#define FABRIC_BURIALS		8u
#define FABRIC_CM_ABI		"/sys/class/misc/rdma_cm/abi_version"

struct fabric {
	struct loop *loop;
	const struct fabric_handlers *handlers;
	void *arg;
	struct rdma_event_channel *events;
	struct loop_op *poll;
	struct rdma_cm_id *door;	/* the standby's */
	struct rdma_cm_id *id;
	struct rdma_cm_id *strangers[FABRIC_STRANGERS];
	unsigned int nr_strangers;
	struct qpair *q;
	struct fabric_offer offer;
	struct loop_timer late;
	uint8_t ack_timeout;
	bool joined;
	struct why why;			/* it will not be */
};

/* Threads in fabric_bury(). */
static atomic_uint fabric_burials;

static void fabric_readable(void *arg, int res);

struct qpair *fabric_qpair(struct fabric *f)
{
	return f->q;
}

bool fabric_joined(const struct fabric *f)
{
	return f->joined && !qpair_broken(f->q);
}

static void fabric_moved(void *arg)
{
	struct fabric *f = arg;

	f->handlers->moved(f->arg);
}

/* The libraries would say less, and on stderr. */
static int fabric_device(struct why *why)
{
	struct ibv_device **list;
	int n = 0;

	list = ibv_get_device_list(&n);
	if (list)
		ibv_free_device_list(list);
	if (!n)
		return why_set(why, ENODEV, "there is no RDMA device (`rdma link` lists them)");
	if (access(FABRIC_CM_ABI, R_OK))
		return why_set(why, ENODEV, "the kernel has no rdma_cm for programs: modprobe rdma_ucm");
	return 0;
}

/*
 * All retries together shall take half as long as silence on the connection may: a writer
 * says nothing else meanwhile. 4.096 microseconds times two to the power of this, for
 * each; it is the timeout of ibv_modify_qp(3), and devices may take up to four times that.
 */
static uint8_t fabric_ack_timeout(uint64_t timeout_ns)
{
	uint64_t each = timeout_ns / 2 / (FABRIC_RETRIES + 1);
	uint8_t power = 8;

	while (power < 22 && UINT64_C(4096) << (power + 1) < each)
		power++;
	return power;
}

static struct fabric *fabric_new(struct loop *loop, uint64_t timeout_ns,
				 const struct fabric_handlers *handlers, void *arg,
				 struct why *why)
{
	struct fabric *f;

	if (fabric_device(why))
		return NULL;
	if (atomic_load(&fabric_burials) >= FABRIC_BURIALS) {
		why_set(why, EBUSY, "the RDMA device does not end earlier connections");
		return NULL;
	}
	f = calloc(1, sizeof(*f));
	if (!f) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	f->loop = loop;
	f->handlers = handlers;
	f->arg = arg;
	f->ack_timeout = fabric_ack_timeout(timeout_ns);
	f->events = rdma_create_event_channel();
	if (!f->events || fcntl(f->events->fd, F_SETFL, O_NONBLOCK)) {
		why_set(why, errno, "rdma_cm cannot be used: %s", strerror(errno));
		fabric_close(f);
		return NULL;
	}
	f->poll = loop_poll(loop, f->events->fd, POLLIN, fabric_readable, f);
	return f;
}

static void *fabric_bury(void *arg)
{
	struct fabric *f = arg;

	/* It first: whoever comes is not let in while the others take their time. */
	if (f->door)
		rdma_destroy_id(f->door);
	if (f->id)
		rdma_destroy_id(f->id);
	while (f->nr_strangers)
		rdma_destroy_id(f->strangers[--f->nr_strangers]);
	if (f->events)
		rdma_destroy_event_channel(f->events);
	free(f);
	atomic_fetch_sub(&fabric_burials, 1);
	return NULL;
}

/*
 * The queue pair goes now, and with it all that can touch memory. What is left of the
 * connection the kernel keeps until the device has sent a goodbye, which takes for ever
 * where the device cannot (seen with rdma_rxe and cm_destroy_id()): nobody waits for that.
 */
void fabric_close(struct fabric *f)
{
	pthread_t thread;

	if (!f)
		return;
	loop_timer_cancel(f->loop, &f->late);
	loop_cancel(f->loop, f->poll);
	if (f->joined)
		rdma_disconnect(f->id);
	qpair_free(f->q, f->id);
	atomic_fetch_add(&fabric_burials, 1);
	if (pthread_create(&thread, NULL, fabric_bury, f))
		fabric_bury(f);
	else
		pthread_detach(thread);
}

/* Both ends' queue pairs give up at the same time. A kernel that cannot has its own idea. */
static void fabric_tune(struct fabric *f, struct rdma_cm_id *id)
{
	rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &f->ack_timeout,
			sizeof(f->ack_timeout));
}

/* IPv4 that came to a door for both. */
static bool fabric_mapped(const struct sockaddr_storage *sa)
{
	return sa->ss_family == AF_INET6 &&
	       IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)sa)->sin6_addr);
}

/* An address with another port, for rdma_cm. */
static void fabric_address(struct sockaddr_storage *to, const struct sockaddr_storage *from,
			   uint16_t port, char *text, size_t len)
{
	socklen_t n = from->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) :
						    sizeof(struct sockaddr_in);

	*to = *from;
	if (fabric_mapped(from)) {
		struct sockaddr_in *in = (struct sockaddr_in *)to;

		memset(to, 0, sizeof(*to));
		in->sin_family = AF_INET;
		memcpy(&in->sin_addr, &((const struct sockaddr_in6 *)from)->sin6_addr.s6_addr[12],
		       sizeof(in->sin_addr));
		n = sizeof(*in);
	}
	if (to->ss_family == AF_INET6)
		((struct sockaddr_in6 *)to)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)to)->sin_port = htons(port);
	if (getnameinfo((struct sockaddr *)to, n, text, (socklen_t)len, NULL, 0, NI_NUMERICHOST))
		snprintf(text, len, "?");
}

/* ---- the standby's end ---- */

struct fabric *fabric_offer(struct loop *loop, const struct sockaddr_storage *local,
			    uint64_t timeout_ns, const struct fabric_handlers *handlers,
			    void *arg, struct fabric_offer *offer, struct why *why)
{
	struct fabric *f = fabric_new(loop, timeout_ns, handlers, arg, why);
	struct sockaddr_storage sa;
	char text[64];

	if (!f)
		return NULL;
	fabric_address(&sa, local, 0, text, sizeof(text));
	if (rdma_create_id(f->events, &f->door, f, RDMA_PS_TCP) ||
	    rdma_bind_addr(f->door, (struct sockaddr *)&sa) || !f->door->verbs) {
		why_set(why, ENODEV, "no RDMA device here has the address %s", text);
		goto fail;
	}
	f->q = qpair_new(loop, f->door->verbs, fabric_moved, f, why);
	if (!f->q)
		goto fail;
	f->offer.slots = FABRIC_SLOTS;
	if (qpair_land(f->q, f->offer.slots, &f->offer.address, &f->offer.key, why))
		goto fail;
	if (getrandom(f->offer.token, sizeof(f->offer.token), 0) !=
	    (ssize_t)sizeof(f->offer.token)) {
		why_set(why, errno, "there are no random numbers: %s", strerror(errno));
		goto fail;
	}
	fabric_tune(f, f->door);
	if (rdma_listen(f->door, 4)) {
		why_set(why, errno, "rdma_cm does not listen on %s: %s", text, strerror(errno));
		goto fail;
	}
	f->offer.port = ntohs(rdma_get_src_port(f->door));
	*offer = f->offer;
	return f;
fail:
	fabric_close(f);
	return NULL;
}

/* Of a connection that was there, or of the device. */
static void fabric_lost(struct fabric *f, const char *why)
{
	if (f->q)
		qpair_break(f->q, why);
	else
		why_set(&f->why, EIO, "%s", why);
}

/* How much is right must not show in the time it takes. */
static bool fabric_knows(const struct fabric *f, const uint8_t *token)
{
	uint8_t differ = 0;
	unsigned int i;

	for (i = 0; i < sizeof(f->offer.token); i++)
		differ |= f->offer.token[i] ^ token[i];
	return !differ;
}

/* Its id goes with the fabric: to destroy it now would wait for the device, see fabric_close(). */
static void fabric_turn_away(struct fabric *f, struct rdma_cm_id *id, const char *reason)
{
	char text[64];

	if (getnameinfo(rdma_get_peer_addr(id), sizeof(struct sockaddr_storage), text,
			sizeof(text), NULL, 0, NI_NUMERICHOST))
		snprintf(text, sizeof(text), "?");
	report_warn("refused an RDMA connection from %s: %s", text, reason);
	report_event("rdma-refused", "peer:s why:s", text, reason);
	rdma_reject(id, NULL, 0);
	if (f->nr_strangers < FABRIC_STRANGERS) {
		f->strangers[f->nr_strangers++] = id;
		return;
	}
	rdma_destroy_id(id);
	fabric_lost(f, "too many came without the token");
}

/* Somebody wants to attach. */
static void fabric_asked(struct fabric *f, struct rdma_cm_id *id, const uint8_t *token)
{
	struct rdma_conn_param param = {
		.retry_count = FABRIC_RETRIES,
		.rnr_retry_count = FABRIC_FOREVER,
	};

	if (f->id) {
		fabric_turn_away(f, id, "the primary is attached already");
		return;
	}
	if (!token || !fabric_knows(f, token)) {
		fabric_turn_away(f, id, "it does not know the token");
		return;
	}
	if (id->verbs != f->door->verbs) {
		fabric_turn_away(f, id, "it came to another device");
		return;
	}
	f->id = id;
	fabric_tune(f, id);
	if (qpair_open(f->q, id, &f->why) || rdma_accept(id, &param)) {
		qpair_break(f->q, f->why.text[0] ? f->why.text :
			    "the RDMA connection cannot be accepted");
		return;
	}
}

/* ---- the primary's end ---- */

static void fabric_late(void *arg)
{
	struct fabric *f = arg;

	f->handlers->joined(f->arg, "the standby does not answer by RDMA");
}

struct fabric *fabric_join(struct loop *loop, const struct sockaddr_storage *peer,
			   uint64_t timeout_ns, const struct fabric_handlers *handlers,
			   void *arg, const struct fabric_offer *offer, struct why *why)
{
	struct fabric *f = fabric_new(loop, timeout_ns, handlers, arg, why);
	struct sockaddr_storage sa;
	char text[64];

	if (!f)
		return NULL;
	f->offer = *offer;
	fabric_address(&sa, peer, offer->port, text, sizeof(text));
	if (rdma_create_id(f->events, &f->id, f, RDMA_PS_TCP)) {
		why_set(why, errno, "rdma_cm cannot be used: %s", strerror(errno));
		fabric_close(f);
		return NULL;
	}
	if (rdma_resolve_addr(f->id, NULL, (struct sockaddr *)&sa, FABRIC_STEP_MS)) {
		why_set(why, errno, "no RDMA device here leads to %s", text);
		fabric_close(f);
		return NULL;
	}
	f->late.fn = fabric_late;
	f->late.arg = f;
	loop_timer_set(loop, &f->late, FABRIC_JOIN_NS);
	return f;
}

static int fabric_resolved(struct fabric *f)
{
	f->q = qpair_new(f->loop, f->id->verbs, fabric_moved, f, &f->why);
	if (!f->q)
		return -EIO;
	qpair_aim(f->q, f->offer.slots, f->offer.address, f->offer.key);
	if (rdma_resolve_route(f->id, FABRIC_STEP_MS))
		return why_set(&f->why, errno, "there is no way to the standby by RDMA: %s",
			       strerror(errno));
	return 0;
}

static int fabric_connect(struct fabric *f)
{
	struct rdma_conn_param param = {
		.private_data = f->offer.token,
		.private_data_len = sizeof(f->offer.token),
		.retry_count = FABRIC_RETRIES,
		.rnr_retry_count = FABRIC_FOREVER,
	};
	int err;

	fabric_tune(f, f->id);
	err = qpair_open(f->q, f->id, &f->why);
	if (err)
		return err;
	if (rdma_connect(f->id, &param))
		return why_set(&f->why, errno, "cannot connect by RDMA: %s", strerror(errno));
	return 0;
}

/* ---- events ---- */

/* These come late, too: its last message may have been lost. */
static void fabric_unjoined(struct fabric *f, const char *why)
{
	if (f->joined)
		fabric_lost(f, why);
	else
		why_set(&f->why, EIO, "%s", why);
}

static void fabric_event(struct fabric *f, enum rdma_cm_event_type type, int status,
			 struct rdma_cm_id *id, const uint8_t *token)
{
	switch (type) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
		fabric_asked(f, id, token);
		break;
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		fabric_resolved(f);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		fabric_connect(f);
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		f->joined = true;
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
		why_set(&f->why, EIO, "no RDMA device here leads to the standby: %s",
			strerror(status < 0 ? -status : ENODEV));
		break;
	case RDMA_CM_EVENT_REJECTED:
		fabric_unjoined(f, "the standby refuses the RDMA connection");
		break;
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
		fabric_unjoined(f, "cannot connect by RDMA");
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
		fabric_lost(f, "the RDMA connection was closed");
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		fabric_lost(f, "the RDMA device was taken away");
		break;
	default:
		break;
	}
}

/* Returns whether there was one. */
static bool fabric_next(struct fabric *f)
{
	struct rdma_cm_event *event;
	enum rdma_cm_event_type type;
	uint8_t token[FABRIC_TOKEN_BYTES];
	struct rdma_cm_id *id;
	bool has_token;
	int status;

	if (rdma_get_cm_event(f->events, &event))
		return false;
	type = event->event;
	status = event->status;
	id = event->id;
	/* Some devices pad it. */
	has_token = type == RDMA_CM_EVENT_CONNECT_REQUEST &&
		    event->param.conn.private_data_len >= sizeof(token);
	if (has_token)
		memcpy(token, event->param.conn.private_data, sizeof(token));
	rdma_ack_cm_event(event);
	fabric_event(f, type, status, id, has_token ? token : NULL);
	return true;
}

static void fabric_readable(void *arg, int res)
{
	struct fabric *f = arg;
	bool was = f->joined;

	f->poll = NULL;
	if (res < 0 || res & (POLLERR | POLLNVAL))
		fabric_lost(f, "rdma_cm is gone");
	else
		f->poll = loop_poll(f->loop, f->events->fd, POLLIN, fabric_readable, f);
	while (!f->why.text[0] && fabric_next(f))
		;
	if (f->why.text[0] && f->door)
		qpair_break(f->q, f->why.text);
	if (!f->door && !was && (f->joined || f->why.text[0] || (f->q && qpair_broken(f->q)))) {
		const char *why = f->why.text[0] ? f->why.text : f->q ? qpair_broken(f->q) : NULL;

		loop_timer_cancel(f->loop, &f->late);
		f->handlers->joined(f->arg, why);
		return;
	}
	if (f->door && f->joined && !was) {
		const char *device = ibv_get_device_name(f->id->verbs->device);

		report_phase("pages come by RDMA (%s)", device);
		report_event("rdma-joined", "device:s", device);
	}
	if (f->q && qpair_broken(f->q))
		f->handlers->moved(f->arg);
}
