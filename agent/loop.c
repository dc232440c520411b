// SPDX-License-Identifier: GPL-2.0
/*
 * loop: io_uring for everything that has a file, a sorted list for timers.
 *
 * Timers stay out of the kernel because they are moved far more often than
 * they fire: the nearest one is the timeout of the wait.
 */
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "loop.h"

#define LOOP_ENTRIES	256u
#define LOOP_OPS	512u
#define LOOP_LATE_NS	NSEC_PER_SEC

struct loop_op {
	loop_fn fn;
	void (*gone)(void *arg);	/* of a send without a copy */
	void *arg;
	struct loop_op *next;
};

struct loop {
	struct io_uring ring;
	struct loop_op ops[LOOP_OPS];
	struct loop_op *free;
	unsigned int in_flight;
	struct loop_timer *timers;
	bool stop;
	bool zc;
	uint64_t waited;
};

uint64_t loop_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static bool loop_probe_zc(struct loop *loop)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(&loop->ring);
	bool has = probe && io_uring_opcode_supported(probe, IORING_OP_SENDMSG_ZC);

	io_uring_free_probe(probe);
	return has;
}

/* What a ring does passes no seccomp filter (confine.h): it gets a list of its own. */
static int loop_restrict(struct loop *loop)
{
	static const uint8_t ops[] = {
		IORING_OP_POLL_ADD, IORING_OP_ACCEPT, IORING_OP_CONNECT, IORING_OP_RECV,
		IORING_OP_SENDMSG, IORING_OP_ASYNC_CANCEL, IORING_OP_SENDMSG_ZC,
	};
	/* The last one cannot be named where it is not known. */
	const unsigned int nr = sizeof(ops) - !loop->zc;
	struct io_uring_restriction allowed[sizeof(ops)];
	unsigned int i;
	int err;

	memset(allowed, 0, sizeof(allowed));
	for (i = 0; i < nr; i++) {
		allowed[i].opcode = IORING_RESTRICTION_SQE_OP;
		allowed[i].sqe_op = ops[i];
	}
	/* By number: the wrappers of these two cannot be linked to in liburing 2.3. */
	err = io_uring_register((unsigned int)loop->ring.ring_fd, IORING_REGISTER_RESTRICTIONS,
				allowed, nr);
	return err ? err : io_uring_register((unsigned int)loop->ring.ring_fd,
					     IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

struct loop *loop_new(void)
{
	const unsigned int flags = IORING_SETUP_R_DISABLED;
	struct loop *loop = calloc(1, sizeof(*loop));
	unsigned int i;
	int err;

	if (!loop)
		return NULL;
	err = io_uring_queue_init(LOOP_ENTRIES, &loop->ring, flags | IORING_SETUP_COOP_TASKRUN);
	if (err == -EINVAL)
		err = io_uring_queue_init(LOOP_ENTRIES, &loop->ring, flags);
	if (!err) {
		loop->zc = loop_probe_zc(loop);
		err = loop_restrict(loop);
		if (err)
			io_uring_queue_exit(&loop->ring);
	}
	if (err) {
		free(loop);
		errno = -err;
		return NULL;
	}
	for (i = 0; i < LOOP_OPS; i++) {
		loop->ops[i].next = loop->free;
		loop->free = &loop->ops[i];
	}
	return loop;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	io_uring_queue_exit(&loop->ring);
	free(loop);
}

void loop_stop(struct loop *loop)
{
	loop->stop = true;
}

uint64_t loop_waited(const struct loop *loop)
{
	return loop->waited;
}

/* A full submission queue is handed to the kernel and is empty then. */
static struct io_uring_sqe *loop_sqe(struct loop *loop)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);

	while (!sqe) {
		io_uring_submit(&loop->ring);
		sqe = io_uring_get_sqe(&loop->ring);
	}
	return sqe;
}

static struct loop_op *loop_op_get(struct loop *loop, loop_fn fn, void *arg)
{
	struct loop_op *op = loop->free;

	/* The agent has a handful of files; running out means a leak of ours. */
	if (!op) {
		fprintf(stderr, "vmrepl-agent: internal error: event loop has no operation left\n");
		abort();
	}
	loop->free = op->next;
	op->fn = fn;
	op->gone = NULL;
	op->arg = arg;
	loop->in_flight++;
	return op;
}

static void loop_op_put(struct loop *loop, struct loop_op *op)
{
	op->next = loop->free;
	loop->free = op;
	loop->in_flight--;
}

struct loop_op *loop_poll(struct loop *loop, int fd, unsigned int events,
			  loop_fn fn, void *arg)
{
	struct loop_op *op = loop_op_get(loop, fn, arg);
	struct io_uring_sqe *sqe = loop_sqe(loop);

	io_uring_prep_poll_add(sqe, fd, events);
	io_uring_sqe_set_data(sqe, op);
	return op;
}

struct loop_op *loop_accept(struct loop *loop, int fd, loop_fn fn, void *arg)
{
	struct loop_op *op = loop_op_get(loop, fn, arg);
	struct io_uring_sqe *sqe = loop_sqe(loop);

	io_uring_prep_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
	io_uring_sqe_set_data(sqe, op);
	return op;
}

struct loop_op *loop_connect(struct loop *loop, int fd,
			     const struct sockaddr *addr, socklen_t len,
			     loop_fn fn, void *arg)
{
	struct loop_op *op = loop_op_get(loop, fn, arg);
	struct io_uring_sqe *sqe = loop_sqe(loop);

	io_uring_prep_connect(sqe, fd, addr, len);
	io_uring_sqe_set_data(sqe, op);
	return op;
}

struct loop_op *loop_recv(struct loop *loop, int fd, void *buf, size_t len,
			  loop_fn fn, void *arg)
{
	struct loop_op *op = loop_op_get(loop, fn, arg);
	struct io_uring_sqe *sqe = loop_sqe(loop);

	io_uring_prep_recv(sqe, fd, buf, len, 0);
	io_uring_sqe_set_data(sqe, op);
	return op;
}

struct loop_op *loop_sendmsg(struct loop *loop, int fd, const struct msghdr *msg,
			     int flags, loop_fn fn, void *arg)
{
	struct loop_op *op = loop_op_get(loop, fn, arg);
	struct io_uring_sqe *sqe = loop_sqe(loop);

	io_uring_prep_sendmsg(sqe, fd, msg, (unsigned int)flags);
	io_uring_sqe_set_data(sqe, op);
	return op;
}

struct loop_op *loop_sendmsg_zc(struct loop *loop, int fd, const struct msghdr *msg, int flags,
				loop_fn fn, void (*gone)(void *arg), void *arg)
{
	struct loop_op *op = loop_op_get(loop, fn, arg);
	struct io_uring_sqe *sqe = loop_sqe(loop);

	op->gone = gone;
	io_uring_prep_sendmsg_zc(sqe, fd, msg, (unsigned int)flags);
	io_uring_sqe_set_data(sqe, op);
	return op;
}

bool loop_can_zc(const struct loop *loop)
{
	return loop->zc && loop->in_flight < LOOP_OPS / 2;
}

void loop_cancel(struct loop *loop, struct loop_op *op)
{
	struct io_uring_sqe *sqe;

	if (!op)
		return;
	op->fn = NULL;
	sqe = loop_sqe(loop);
	io_uring_prep_cancel(sqe, op, 0);
	io_uring_sqe_set_data(sqe, NULL);
	/*
	 * At once: the caller may close the fd next, and requests that wait in
	 * the queue name files by number.
	 */
	io_uring_submit(&loop->ring);
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	struct loop_timer **p;

	if (!timer->armed)
		return;
	for (p = &loop->timers; *p; p = &(*p)->next) {
		if (*p == timer) {
			*p = timer->next;
			break;
		}
	}
	timer->armed = false;
}

void loop_timer_set_at(struct loop *loop, struct loop_timer *timer, uint64_t due)
{
	struct loop_timer **p;

	loop_timer_cancel(loop, timer);
	timer->due = due;
	for (p = &loop->timers; *p && (*p)->due <= timer->due; p = &(*p)->next)
		;
	timer->next = *p;
	*p = timer;
	timer->armed = true;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t ns)
{
	loop_timer_set_at(loop, timer, loop_now() + ns);
}

bool loop_timer_overslept(struct loop *loop, struct loop_timer *timer, uint64_t ns)
{
	if (loop_now() - timer->due <= LOOP_LATE_NS)
		return false;
	loop_timer_set(loop, timer, ns);
	return true;
}

static void loop_run_timers(struct loop *loop)
{
	uint64_t now = loop_now();

	while (loop->timers && loop->timers->due <= now) {
		struct loop_timer *timer = loop->timers;

		loop->timers = timer->next;
		timer->armed = false;
		timer->fn(timer->arg);
	}
}

/* @op has ended, or (@more) its memory is still read and another completion tells when not. */
static void loop_complete(struct loop *loop, struct loop_op *op, int res, bool more)
{
	void (*gone)(void *arg) = more ? NULL : op->gone;
	loop_fn fn = op->fn;
	void *arg = op->arg;

	op->fn = NULL;
	if (!more)
		loop_op_put(loop, op);
	if (fn)
		fn(arg, res);
	if (gone)
		gone(arg);
}

/* Returns how many completions there were. */
static unsigned int loop_reap(struct loop *loop)
{
	struct io_uring_cqe *cqe;
	unsigned int n = 0;

	while (!io_uring_peek_cqe(&loop->ring, &cqe)) {
		struct loop_op *op = io_uring_cqe_get_data(cqe);
		bool more = cqe->flags & IORING_CQE_F_MORE;
		int res = cqe->res;

		io_uring_cqe_seen(&loop->ring, cqe);
		n++;
		if (op)
			loop_complete(loop, op, res, more);
	}
	return n;
}

void loop_turn(struct loop *loop, uint64_t ns)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	uint64_t now = loop_now();

	if (loop->timers) {
		uint64_t left = loop->timers->due > now ? loop->timers->due - now : 0;

		if (left < ns)
			ns = left;
	}
	/* Completions are delivered in the wait: there always is one. */
	if (!ns)
		ns = 1;
	else if (!io_uring_cq_ready(&loop->ring))
		loop->waited = now;
	ts.tv_sec = (long long)(ns / NSEC_PER_SEC);
	ts.tv_nsec = (long long)(ns % NSEC_PER_SEC);
	io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &ts, NULL);
	loop_reap(loop);
	loop_run_timers(loop);
}

void loop_run(struct loop *loop)
{
	while (!loop->stop)
		loop_turn(loop, 3600 * NSEC_PER_SEC);
	loop->stop = false;
}
