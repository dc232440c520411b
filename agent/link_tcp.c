// SPDX-License-Identifier: GPL-2.0
/*
 * link_tcp: frames over TCP, with TLS where there is a key.
 */
#include <errno.h>
#include <netdb.h>
#include <linux/tcp.h>	/* glibc's has an older struct tcp_info */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "link.h"
#include "tls.h"

#define LINK_HOST_MAX	60
/* Less than this is copied: that costs less than being told when it is not needed any more. */
#define TCP_LEND_MIN	(16u << 10)
/* Frames whose memory the kernel reads at a time; beyond them a frame is copied. */
#define TCP_LENDS	64u

/* Memory that the kernel reads, though it was sent: until the other side's TCP has it. */
struct tcp_lend {
	struct link_wire *wire;
	struct link_out *out;	/* NULL: the wire was closed meanwhile */
	struct tcp_lend *next;
};

struct link_wire {
	struct loop *loop;
	int fd;
	struct link_addr addr;
	const struct key *key;
	int flags;		/* of every send */
	struct msghdr msg;
	struct link_out *out;	/* what is being sent */
	bool lends;		/* without a copy, where it is worth it */
	unsigned int lent;
	struct tcp_lend *free;
	struct tcp_lend lend[TCP_LENDS];
};

struct link_door {
	struct loop *loop;
	int fd;
	const struct key *key;
	struct loop_op *op;
	void (*accepted)(void *arg, struct link_wire *wire, const char *peer);
	void *arg;
};

static bool tcp_resolve(const char *text, struct link_addr *addr, struct why *why)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	char host[LINK_HOST_MAX + 1], port[16];
	const char *colon, *from = text;
	struct addrinfo *found;
	size_t n;
	int err;

	snprintf(port, sizeof(port), "%d", LINK_PORT_DEFAULT);
	if (*text == '[') {
		const char *end = strchr(text, ']');

		if (!end || (end[1] && end[1] != ':')) {
			why_set(why, EINVAL, "'%s' is no address; write [IPV6] or [IPV6]:PORT", text);
			return false;
		}
		from = text + 1;
		n = (size_t)(end - from);
		colon = end[1] ? end + 1 : NULL;
	} else {
		colon = strrchr(text, ':');
		/* More than one colon: an IPv6 address without a port. */
		if (colon && strchr(text, ':') != colon)
			colon = NULL;
		n = colon ? (size_t)(colon - from) : strlen(from);
	}
	/* It is shown, and given to the fence command, as a whole. */
	if (n > LINK_HOST_MAX) {
		why_set(why, EINVAL, "the host's name is longer than %d characters: write its IP address",
			LINK_HOST_MAX);
		return false;
	}
	memcpy(host, from, n);
	host[n] = '\0';
	if (colon) {
		char *end;
		long v = strtol(colon + 1, &end, 10);

		if (*end || end == colon + 1 || v < 1 || v > 65535) {
			why_set(why, EINVAL, "'%s' is no port; it is a number from 1 to 65535",
				 colon + 1);
			return false;
		}
		snprintf(port, sizeof(port), "%ld", v);
	}
	err = getaddrinfo(n ? host : NULL, port, &hints, &found);
	if (err) {
		why_set(why, EINVAL, "cannot resolve '%.100s': %s", host, gai_strerror(err));
		return false;
	}
	memcpy(&addr->sa, found->ai_addr, found->ai_addrlen);
	addr->len = found->ai_addrlen;
	freeaddrinfo(found);
	snprintf(addr->text, sizeof(addr->text), strchr(host, ':') ? "[%.60s]:%s" : "%.60s:%s",
		 n ? host : "*", port);
	return true;
}

static bool tcp_loopback(const struct link_addr *addr)
{
	const struct sockaddr_in *in = (const void *)&addr->sa;
	const struct sockaddr_in6 *in6 = (const void *)&addr->sa;

	if (addr->sa.ss_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
	return ntohl(in->sin_addr.s_addr) >> IN_CLASSA_NSHIFT == IN_LOOPBACKNET;
}

static void tcp_tune(int fd)
{
	/*
	 * Silence is judged by heartbeats; these only make sure that the kernel
	 * gives up as well when nobody asks it to. Failing to set one is harmless.
	 */
	int one = 1, idle = 10, between = 5, count = 3;
	unsigned int user_timeout = 30000;
	/*
	 * What the kernel has taken cannot be taken back: on a slow link a goodbye would
	 * wait for megabytes.
	 */
	int unsent = 256 << 10;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &between, sizeof(between));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof(user_timeout));
}

static struct link_wire *tcp_wire(struct loop *loop, int fd, const struct key *key)
{
	struct link_wire *wire = calloc(1, sizeof(*wire));
	unsigned int i;

	if (!wire) {
		close(fd);
		return NULL;
	}
	for (i = 0; i < TCP_LENDS; i++) {
		wire->lend[i].wire = wire;
		wire->lend[i].next = wire->free;
		wire->free = &wire->lend[i];
	}
	wire->loop = loop;
	wire->fd = fd;
	wire->key = key;
	/* The kernel's TLS does not know MSG_WAITALL, see tls_sw_sendmsg() in net/tls. */
	wire->flags = key ? MSG_NOSIGNAL : MSG_NOSIGNAL | MSG_WAITALL;
	/* Nor does it send without a copy: what it encrypts it has to write somewhere. */
	wire->lends = !key;
	tcp_tune(fd);
	return wire;
}

static void tcp_accepted(void *arg, int res)
{
	struct link_door *door = arg;
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	char host[64], port[16], peer[LINK_PEER_LEN];
	struct link_wire *wire;

	door->op = loop_accept(door->loop, door->fd, tcp_accepted, door);
	if (res < 0)
		return;
	if (getpeername(res, (struct sockaddr *)&sa, &len) ||
	    getnameinfo((struct sockaddr *)&sa, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV)) {
		close(res);
		return;
	}
	snprintf(peer, sizeof(peer), strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	wire = tcp_wire(door->loop, res, door->key);
	if (wire)
		door->accepted(door->arg, wire, peer);
}

static struct link_door *tcp_listen(struct loop *loop, const struct link_addr *addr,
				    void (*accepted)(void *arg, struct link_wire *wire,
						     const char *peer),
				    void *arg, struct why *why)
{
	struct link_door *door = calloc(1, sizeof(*door));
	int one = 1;

	if (!door) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	door->loop = loop;
	door->key = addr->key;
	door->accepted = accepted;
	door->arg = arg;
	door->fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (door->fd < 0)
		goto fail;
	setsockopt(door->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(door->fd, (const struct sockaddr *)&addr->sa, addr->len) ||
	    listen(door->fd, 8))
		goto fail;
	door->op = loop_accept(loop, door->fd, tcp_accepted, door);
	return door;
fail:
	why_set(why, errno, "cannot listen on %s: %s", addr->text, strerror(errno));
	if (door->fd >= 0)
		close(door->fd);
	free(door);
	return NULL;
}

static void tcp_unlisten(struct link_door *door)
{
	loop_cancel(door->loop, door->op);
	close(door->fd);
	free(door);
}

static struct link_wire *tcp_connect(struct loop *loop, const struct link_addr *addr,
				     loop_fn done, void *arg, struct why *why)
{
	struct link_wire *wire;
	int fd;

	fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		why_set(why, errno, "cannot open a socket: %s", strerror(errno));
		return NULL;
	}
	wire = tcp_wire(loop, fd, addr->key);
	if (!wire) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	wire->addr = *addr;
	loop_connect(loop, fd, (const struct sockaddr *)&wire->addr.sa, wire->addr.len, done, arg);
	return wire;
}

static bool tcp_secure(struct link_wire *wire, bool dialled,
		       void (*done)(void *arg, const char *why), void *arg)
{
	if (wire->key)
		return tls_begin(wire->loop, wire->fd, wire->key, dialled, done, arg);
	done(arg, NULL);
	return true;
}

/* One reason less for the frame to be kept; may end the wire. */
static void tcp_put(struct link_out *out)
{
	if (!--out->holds)
		out->back(out);
}

static void tcp_send_end(struct link_wire *wire, int res)
{
	struct link_out *out = wire->out;

	wire->out = NULL;
	out->sent(out, res);
	tcp_put(out);
}

static void tcp_sent(void *arg, int res)
{
	struct link_wire *wire = arg;
	struct msghdr *msg = &wire->msg;
	size_t n;

	if (res == -EINTR || res == -EAGAIN)
		res = 0;
	if (res < 0) {
		tcp_send_end(wire, res);
		return;
	}
	n = (size_t)res;
	while (msg->msg_iovlen && n >= msg->msg_iov->iov_len) {
		n -= msg->msg_iov->iov_len;
		msg->msg_iov++;
		msg->msg_iovlen--;
	}
	if (!msg->msg_iovlen) {
		tcp_send_end(wire, 0);
		return;
	}
	msg->msg_iov->iov_base = (uint8_t *)msg->msg_iov->iov_base + n;
	msg->msg_iov->iov_len -= n;
	/* Each part that is lent is told of by itself: one is enough. */
	loop_sendmsg(wire->loop, wire->fd, msg, wire->flags, tcp_sent, wire);
}

static void tcp_lent(void *arg, int res)
{
	struct tcp_lend *lend = arg;

	/* So much memory cannot be pinned now, or not for this kind of TCP: copies can be made. */
	tcp_sent(lend->wire, res == -ENOMEM || res == -ENOBUFS || res == -EOPNOTSUPP ? 0 : res);
}

static void tcp_gone(void *arg)
{
	struct tcp_lend *lend = arg;
	struct link_wire *wire = lend->wire;
	struct link_out *out = lend->out;

	lend->out = NULL;
	lend->next = wire->free;
	wire->free = lend;
	wire->lent--;
	if (out)
		tcp_put(out);
	else if (!wire->lent)
		free(wire);
}

static void tcp_send(struct link_wire *wire, struct iovec *iov, int n, struct link_out *out)
{
	struct tcp_lend *lend = wire->free;
	size_t bytes = 0;
	int i;

	wire->msg = (struct msghdr) { .msg_iov = iov, .msg_iovlen = (size_t)n };
	wire->out = out;
	out->holds = 1;
	for (i = 0; i < n; i++)
		bytes += iov[i].iov_len;
	if (!wire->lends || !lend || bytes < TCP_LEND_MIN || !loop_can_zc(wire->loop)) {
		loop_sendmsg(wire->loop, wire->fd, &wire->msg, wire->flags, tcp_sent, wire);
		return;
	}
	wire->free = lend->next;
	wire->lent++;
	lend->out = out;
	out->holds++;
	loop_sendmsg_zc(wire->loop, wire->fd, &wire->msg, wire->flags, tcp_lent, tcp_gone, lend);
}

static void tcp_recv(struct link_wire *wire, void *buf, size_t len, loop_fn done, void *arg)
{
	loop_recv(wire->loop, wire->fd, buf, len, done, arg);
}

/* The kernel's measurement over the last round trip that was not short of data. */
static uint64_t tcp_rate(struct link_wire *wire)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	if (getsockopt(wire->fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return 0;
	return info.tcpi_delivery_rate;
}

static void tcp_finish(struct link_wire *wire)
{
	shutdown(wire->fd, SHUT_WR);
}

static void tcp_shut(struct link_wire *wire)
{
	const struct sockaddr none = { .sa_family = AF_UNSPEC };

	/*
	 * What is lent comes back when the kernel has nothing more to send: not at
	 * shutdown(2), but when the connection is reset.
	 */
	if (wire->lent)
		connect(wire->fd, &none, sizeof(none));
	shutdown(wire->fd, SHUT_RDWR);
}

/* A device that stands may have some of what is lent: nobody waits for it. */
static void tcp_close(struct link_wire *wire)
{
	unsigned int i;

	close(wire->fd);
	for (i = 0; i < TCP_LENDS; i++)
		wire->lend[i].out = NULL;
	if (!wire->lent)
		free(wire);
}

static bool tcp_ends(struct link_wire *wire, struct sockaddr_storage *ours,
		     struct sockaddr_storage *theirs)
{
	socklen_t len = sizeof(*ours), other = sizeof(*theirs);

	return !getsockname(wire->fd, (struct sockaddr *)ours, &len) &&
	       !getpeername(wire->fd, (struct sockaddr *)theirs, &other);
}

const struct link_ops link_tcp = {
	.name		= "tcp",
	.resolve	= tcp_resolve,
	.loopback	= tcp_loopback,
	.listen		= tcp_listen,
	.unlisten	= tcp_unlisten,
	.connect	= tcp_connect,
	.secure		= tcp_secure,
	.send		= tcp_send,
	.recv		= tcp_recv,
	.rate		= tcp_rate,
	.finish		= tcp_finish,
	.shut		= tcp_shut,
	.close		= tcp_close,
	.ends		= tcp_ends,
};
