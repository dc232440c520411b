/* SPDX-License-Identifier: GPL-2.0 */
/*
 * loop: the agent's one event loop, an io_uring.
 *
 * Single-threaded: every function here is called from the thread that runs the
 * loop, and every callback runs in it, from loop_run() or loop_turn().
 */
#ifndef VMREPL_LOOP_H
#define VMREPL_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define NSEC_PER_USEC	UINT64_C(1000)
#define NSEC_PER_MSEC	UINT64_C(1000000)
#define NSEC_PER_SEC	UINT64_C(1000000000)

struct loop;
struct loop_op;

/**
 * loop_fn - what happened to an operation
 * @arg: given with the operation
 * @res: as io_uring tells it: bytes, poll events or a new fd; or -errno
 */
typedef void (*loop_fn)(void *arg, int res);

/**
 * struct loop_timer - a one-shot timer; belongs to the caller
 * @fn:   called once when it is due
 * @arg:  given to @fn
 * @due:  CLOCK_MONOTONIC nanoseconds, private to the loop
 * @next: private to the loop
 * @armed: whether @fn is still to be called
 *
 * Set @fn and @arg, leave the rest zero. Must not be freed while armed.
 */
struct loop_timer {
	void (*fn)(void *arg);
	void *arg;
	uint64_t due;
	struct loop_timer *next;
	bool armed;
};

/* Makes the loop. Returns NULL with errno where the kernel refuses io_uring. */
struct loop *loop_new(void);
/* Cancels what is left and frees. No receive or send may be under way. NULL is fine. */
void loop_free(struct loop *loop);

/* Runs callbacks until loop_stop(); one that came beforehand counts. */
void loop_run(struct loop *loop);
/* Runs what is ready; waits for at most @ns (0: does not wait) for the first. */
void loop_turn(struct loop *loop, uint64_t ns);
void loop_stop(struct loop *loop);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t loop_now(void);
/* When it had nothing to do last, loop_now() time: what came since was seen at once. */
uint64_t loop_waited(const struct loop *loop);

/* (Re)arms @timer to fire @ns from now. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t ns);
/* The same for the moment @due, loop_now() time; at once where that has passed. */
void loop_timer_set_at(struct loop *loop, struct loop_timer *timer, uint64_t due);
/*
 * To be asked by the callback of @timer before it gives something up: whether it is
 * called over a second late. Then this process, or the machine, stood still itself, and
 * what came meanwhile has not been read; the callback is called once more @ns from now.
 */
bool loop_timer_overslept(struct loop *loop, struct loop_timer *timer, uint64_t ns);
/* Takes @timer back; nothing happens where it is not armed. */
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer);

/*
 * One-shot operations. @fn is called exactly once unless the operation is
 * cancelled. Buffers and message headers must stay until then; a receive or a
 * send is made to end by shutdown(2) of its socket, not by loop_cancel().
 */
struct loop_op *loop_poll(struct loop *loop, int fd, unsigned int events,
			  loop_fn fn, void *arg);
struct loop_op *loop_accept(struct loop *loop, int fd, loop_fn fn, void *arg);
struct loop_op *loop_connect(struct loop *loop, int fd,
			     const struct sockaddr *addr, socklen_t len,
			     loop_fn fn, void *arg);
struct loop_op *loop_recv(struct loop *loop, int fd, void *buf, size_t len,
			  loop_fn fn, void *arg);
struct loop_op *loop_sendmsg(struct loop *loop, int fd, const struct msghdr *msg,
			     int flags, loop_fn fn, void *arg);
/*
 * The same without a copy: the kernel reads what @msg points to until @gone, which is called
 * once, after @fn, whatever that was told. ENOMEM or ENOBUFS: as a copy it may work.
 */
struct loop_op *loop_sendmsg_zc(struct loop *loop, int fd, const struct msghdr *msg, int flags,
				loop_fn fn, void (*gone)(void *arg), void *arg);
/*
 * Whether the kernel has loop_sendmsg_zc() (Linux 6.1), and not too many are waited for: a
 * device that stands may keep them.
 */
bool loop_can_zc(const struct loop *loop);

/*
 * Cancels a poll, an accept or a connect: its @fn is not called any more. The
 * fd may be closed right afterwards. NULL is fine; @op must not have fired.
 */
void loop_cancel(struct loop *loop, struct loop_op *op);

#endif /* VMREPL_LOOP_H */
