// SPDX-License-Identifier: GPL-2.0
/*
 * A unix socket on which each line is a JSON object.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "deadline.h"
#include "qmpsocket.h"

/* More than this in one line is not QEMU. */
#define LINE_MAX_BYTES	(64u << 20)

int qmpsocket_wait(int fd, short events, int64_t deadline)
{
	struct pollfd pfd = { .fd = fd, .events = events };
	int ret;

	do {
		ret = poll(&pfd, 1, deadline_left(deadline));
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
	return ret ? 0 : -ETIMEDOUT;
}

static int connect_name(int fd, const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	size_t n = strlen(path);
	int ref, ret;

	if (path[0] == '@') {
		if (n > sizeof(sun.sun_path))
			return -ENAMETOOLONG;
		memcpy(sun.sun_path + 1, path + 1, n - 1);
		ret = connect(fd, (struct sockaddr *)&sun,
			      offsetof(struct sockaddr_un, sun_path) + n);
		return ret ? -errno : 0;
	}
	/* By a reference to the file: its path may be longer than sun_path. */
	ref = open(path, O_PATH | O_CLOEXEC);
	if (ref < 0)
		return -errno;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "/proc/self/fd/%d", ref);
	ret = connect(fd, (struct sockaddr *)&sun, sizeof(sun)) ? -errno : 0;
	close(ref);
	return ret;
}

int qmpsocket_connect(const char *path, unsigned int timeout_ms)
{
	struct timeval tv = {
		.tv_sec = timeout_ms / 1000,
		.tv_usec = timeout_ms % 1000 * 1000,
	};
	int fd, ret;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* connect() waits while the backlog is full, bounded by this. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv))) {
		ret = -errno;
		goto err;
	}
	ret = connect_name(fd, path);
	if (ret) {
		if (ret == -EAGAIN)
			ret = -ETIMEDOUT;
		goto err;
	}
	if (fcntl(fd, F_SETFL, O_NONBLOCK)) {
		ret = -errno;
		goto err;
	}
	return fd;
err:
	close(fd);
	return ret;
}

int qmpsocket_adopt(struct qmpsocket *s, int fd)
{
	memset(s, 0, sizeof(*s));
	s->fd = fd;
	s->room = 16384;
	s->buf = malloc(s->room);
	s->tok = json_tokener_new();
	if (s->buf && s->tok)
		return 0;
	qmpsocket_close(s);
	return -ENOMEM;
}

int qmpsocket_open(struct qmpsocket *s, const char *path, unsigned int timeout_ms)
{
	int fd = qmpsocket_connect(path, timeout_ms);

	if (fd >= 0)
		return qmpsocket_adopt(s, fd);
	memset(s, 0, sizeof(*s));
	s->fd = -1;
	return fd;
}

void qmpsocket_close(struct qmpsocket *s)
{
	if (s->fd >= 0)
		close(s->fd);
	if (s->tok)
		json_tokener_free(s->tok);
	free(s->buf);
	memset(s, 0, sizeof(*s));
	s->fd = -1;
}

int qmpsocket_send(struct qmpsocket *s, const char *buf, size_t len, int passed,
		   int64_t deadline)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} ctl = { 0 };
	struct iovec iov;
	struct msghdr mh;
	struct cmsghdr *c;
	ssize_t sent;
	int ret;

	while (len) {
		iov = (struct iovec){ .iov_base = (void *)buf, .iov_len = len };
		mh = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1 };
		if (passed >= 0) {
			mh.msg_control = &ctl;
			mh.msg_controllen = sizeof(ctl);
			c = CMSG_FIRSTHDR(&mh);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(c), &passed, sizeof(int));
		}
		sent = sendmsg(s->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && errno == EAGAIN) {
			ret = qmpsocket_wait(s->fd, POLLOUT, deadline);
			if (ret)
				return ret;
			continue;
		}
		if (sent < 0)
			return -EPIPE;
		passed = -1;
		buf += sent;
		len -= sent;
	}
	return 0;
}

/* Reads what is there; 0 something came, -EAGAIN nothing, -EPIPE, -ENOMEM. */
static int read_more(struct qmpsocket *s)
{
	ssize_t got;

	if (s->off) {
		memmove(s->buf, s->buf + s->off, s->len - s->off);
		s->len -= s->off;
		s->scanned -= s->off;
		s->off = 0;
	}
	if (s->len == s->room) {
		size_t room = s->room * 2;
		char *buf;

		if (room > LINE_MAX_BYTES)
			return -EPROTO;
		buf = realloc(s->buf, room);
		if (!buf)
			return -ENOMEM;
		s->buf = buf;
		s->room = room;
	}
	do {
		got = recv(s->fd, s->buf + s->len, s->room - s->len, 0);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return errno == EAGAIN ? -EAGAIN : -EPIPE;
	if (!got)
		return -EPIPE;
	s->len += got;
	return 0;
}

/* The next whole line as an object: 1 and *msg, 0 none yet, -EPROTO. */
static int next_line(struct qmpsocket *s, struct json_object **msg)
{
	char *nl, *line;
	size_t n;

	for (;;) {
		nl = memchr(s->buf + s->scanned, '\n', s->len - s->scanned);
		if (!nl) {
			s->scanned = s->len;
			return 0;
		}
		line = s->buf + s->off;
		n = nl - line;
		s->off += n + 1;
		s->scanned = s->off;
		while (n && (line[n - 1] == '\r' || line[n - 1] == ' '))
			n--;
		if (n)
			break;
	}
	json_tokener_reset(s->tok);
	*nl = '\0';
	line[n] = '\0';
	*msg = json_tokener_parse_ex(s->tok, line, (int)n + 1);
	if (!*msg || !json_object_is_type(*msg, json_type_object)) {
		json_object_put(*msg);
		return -EPROTO;
	}
	return 1;
}

int qmpsocket_next(struct qmpsocket *s, struct json_object **msg)
{
	int ret;

	for (;;) {
		ret = next_line(s, msg);
		if (ret)
			return ret;
		ret = read_more(s);
		if (ret)
			return ret == -EAGAIN ? 0 : ret;
	}
}

int qmpsocket_next_wait(struct qmpsocket *s, struct json_object **msg, int64_t deadline)
{
	int ret;

	for (;;) {
		ret = qmpsocket_next(s, msg);
		if (ret)
			return ret < 0 ? ret : 0;
		ret = qmpsocket_wait(s->fd, POLLIN, deadline);
		if (ret)
			return ret;
	}
}
