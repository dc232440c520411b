/* SPDX-License-Identifier: GPL-2.0 */
/*
 * qmpsocket: a unix socket on which each line is a JSON object.
 */
#ifndef AGENT_QMPSOCKET_H
#define AGENT_QMPSOCKET_H

#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

/**
 * struct qmpsocket - a connection
 * @fd:		non-blocking
 * @tok:	parser
 * @buf:	what was read; @off..@len is not parsed yet, @off..@scanned has no
 *		newline
 */
struct qmpsocket {
	int fd;
	struct json_tokener *tok;
	char *buf;
	size_t off, len, room, scanned;
};

/**
 * qmpsocket_connect - connect to a path, or to "@name"
 *
 * Returns a non-blocking socket; -ETIMEDOUT nobody accepts; another errno.
 */
int qmpsocket_connect(const char *path, unsigned int timeout_ms);

/* Waits for poll events until the deadline (deadline.h): 0, -ETIMEDOUT. */
int qmpsocket_wait(int fd, short events, int64_t deadline);

/* Takes a socket over, which is non-blocking; also on error, ENOMEM, when it is closed. */
int qmpsocket_adopt(struct qmpsocket *s, int fd);

/* Connects. Errors as above; ENOMEM. Nothing is to be closed then. */
int qmpsocket_open(struct qmpsocket *s, const char *path, unsigned int timeout_ms);
void qmpsocket_close(struct qmpsocket *s);

/**
 * qmpsocket_send - send bytes, and with the first of them a file descriptor
 * @passed:	the file descriptor, or -1
 *
 * Errors: ETIMEDOUT; EPIPE.
 */
int qmpsocket_send(struct qmpsocket *s, const char *buf, size_t len, int passed,
		   int64_t deadline);

/**
 * qmpsocket_next - the next object, if it is there; never blocks
 * @msg:	gets the reference
 *
 * Returns 1; 0 none yet; -EPIPE closed; -EPROTO no JSON object; -ENOMEM.
 */
int qmpsocket_next(struct qmpsocket *s, struct json_object **msg);

/* The same, waited for: 0; -ETIMEDOUT; errors as above. */
int qmpsocket_next_wait(struct qmpsocket *s, struct json_object **msg, int64_t deadline);

#endif /* AGENT_QMPSOCKET_H */
