/* SPDX-License-Identifier: GPL-2.0 */
/*
 * qmp: QEMU's machine protocol over a unix socket.
 *
 * Two halves share one connection:
 *
 *  - commands that are waited for, with a bound on the time (attach, promotion);
 *  - one armed command at a time for the epoch: everything but its last brace
 *    is sent ahead, qmp_fire() sends the brace, and qmp_pump() hands out the
 *    answer and the events as they come, without ever blocking.
 *
 * While a command is armed or fired and not answered, qmp_command() fails with
 * EBUSY. The armed half is safe to stay armed for as long as one likes: QEMU
 * has only read an unfinished line.
 *
 * Not thread safe; no call needs the VM to run.
 */
#ifndef AGENT_QMP_H
#define AGENT_QMP_H

#include <stdbool.h>
#include <stddef.h>

#include <json-c/json.h>

#include "why.h"

struct qmp;

/* Time for one answer where the caller has no better figure, milliseconds. */
#define QMP_TIMEOUT_MS	5000

/**
 * qmp_open - connect, read the greeting, negotiate
 * @path:	path of the socket, or "@name" for an abstract one
 * @timeout_ms:	bound for connect and greeting together, and afterwards the
 *		bound for every answer of qmp_command() (qmp_set_timeout())
 *
 * Errors: NULL with errno set and @why filled. ETIMEDOUT: something listens but
 * does not greet, as QEMU does while another client holds the monitor. EPROTO:
 * what greets is no QMP server.
 */
struct qmp *qmp_open(const char *path, unsigned int timeout_ms, struct why *why);

/**
 * qmp_close - close the connection; an armed command is dropped unfinished
 * @q:	may be NULL
 */
void qmp_close(struct qmp *q);

/**
 * qmp_greets - does a QMP server greet on this socket?
 * @path:	as in qmp_open()
 * @timeout_ms:	bound
 *
 * Sends nothing. Returns 1 yes; 0 something else speaks first; -ETIMEDOUT
 * nothing is said; another negative errno when it cannot be connected.
 */
int qmp_greets(const char *path, unsigned int timeout_ms);

/* QEMU's version from the greeting, e.g. "7.2.22"; and its parts. */
const char *qmp_version(const struct qmp *q);
void qmp_version_parts(const struct qmp *q, int *major, int *minor);

/* Does every call fail? See qmp_command(). */
bool qmp_is_broken(const struct qmp *q);

/* Bound for one answer from now on, milliseconds. */
void qmp_set_timeout(struct qmp *q, unsigned int timeout_ms);

/**
 * qmp_command - one command, waited for
 * @name:	command
 * @args:	object with its arguments, or NULL; the reference is taken over,
 *		also on error
 * @ret:	where not NULL: gets "return", to be given back with
 *		json_object_put(); NULL on error
 *
 * Events that come in between are queued (qmp_next_event()). The error text of
 * QEMU becomes the sentence in @why.
 *
 * Errors: EREMOTEIO QEMU refused the command (@why has its words); ENOSYS QEMU
 * does not know the command; ETIMEDOUT; EPIPE QEMU closed the connection or is
 * gone; EBUSY a command is armed; EPROTO. After ETIMEDOUT and EPROTO the
 * connection is unusable: every call fails with EPIPE.
 */
int qmp_command(struct qmp *q, const char *name, struct json_object *args,
		struct json_object **ret, struct why *why);

/**
 * qmp_command_fd - the same, with a file descriptor for QEMU (getfd, add-fd)
 * @fd:		stays the caller's
 */
int qmp_command_fd(struct qmp *q, const char *name, struct json_object *args, int fd,
		   struct json_object **ret, struct why *why);

/**
 * qmp_args - an object with one string in it, for qmp_command()
 */
struct json_object *qmp_args(const char *key, const char *value);

/**
 * qmp_query_string - a string member of what a command returns
 * @text:	gets it, cut; empty where there is no such member
 */
int qmp_query_string(struct qmp *q, const char *command, const char *key, char *text,
		     size_t size, struct why *why);

/**
 * qmp_hmp - a line for the human monitor
 * @text:	gets what it printed, to be freed; where it is an error text only
 *		the caller can know
 */
int qmp_hmp(struct qmp *q, const char *line, char **text, struct why *why);

/**
 * qmp_next_event - the oldest queued event, or NULL
 *
 * The reference is the caller's. Only those that arrived in qmp_command() and
 * qmp_wait_event() are queued; qmp_pump() hands its own out, queued ones first.
 */
struct json_object *qmp_next_event(struct qmp *q);

/**
 * qmp_wait_event - wait for an event by name
 * @name:	e.g. "STOP"; others stay queued
 * @ev:		where not NULL: gets the event, the caller's
 *
 * A queued one counts. Errors as qmp_command().
 */
int qmp_wait_event(struct qmp *q, const char *name, unsigned int timeout_ms,
		   struct json_object **ev, struct why *why);

/**
 * qmp_arm - send a command but for its last brace
 * @args:	the reference is taken over, also on error
 *
 * Errors: EBUSY one is armed or not answered; EPIPE.
 */
int qmp_arm(struct qmp *q, const char *name, struct json_object *args, struct why *why);

/**
 * qmp_fire - send the last brace
 *
 * Allocates nothing, does not block. Errors: EINVAL nothing is armed; EAGAIN
 * the socket is full (QEMU does not read); EPIPE.
 */
int qmp_fire(struct qmp *q);

/**
 * qmp_disarm - take an armed command back
 *
 * QEMU's parser is reset (byte 0xff) and its complaint about that is waited for
 * and swallowed. Nothing happens where nothing is armed. Errors as
 * qmp_command(); EBUSY it has been fired.
 */
int qmp_disarm(struct qmp *q, struct why *why);

/* Has a command been fired that is not answered yet? */
bool qmp_busy(const struct qmp *q);

/* The socket, to wait for POLLIN on. */
int qmp_fd(const struct qmp *q);

enum qmp_msg_kind {
	QMP_MSG_EVENT,		/* @name, @body = the whole event */
	QMP_MSG_RETURN,		/* the fired command's: @body = "return" */
	QMP_MSG_ERROR,		/* the fired command's: @text = QEMU's words */
};

/**
 * struct qmp_msg - one thing that QEMU said
 * @kind:	what it is
 * @body:	see there; NULL for an error; released by qmp_msg_put()
 * @name:	event's name; points into @body
 * @text:	error's text, cut
 */
struct qmp_msg {
	enum qmp_msg_kind kind;
	struct json_object *body;
	const char *name;
	char text[512];
};

/**
 * qmp_pump - read what is there, hand out one message
 *
 * Never blocks. To be called until it returns 0 whenever qmp_fd() is readable
 * (what one read brought may hold several messages).
 *
 * Returns 1 a message is in @msg; 0 nothing more now; -EPIPE QEMU closed;
 * -EPROTO.
 */
int qmp_pump(struct qmp *q, struct qmp_msg *msg, struct why *why);

/* Releases what a message holds. */
void qmp_msg_put(struct qmp_msg *msg);

#endif /* AGENT_QMP_H */
