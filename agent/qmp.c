// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU's machine protocol over a unix socket. One message is one line in both
 * directions; answers carry the id of their command.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "deadline.h"
#include "qmp.h"
#include "qmpsocket.h"

enum qmp_armed {
	QMP_IDLE,
	QMP_ARMED,
	QMP_FIRED,
};

struct qmp {
	struct qmpsocket sock;
	bool broken;
	unsigned int timeout_ms;
	char version[32];
	int major, minor;
	enum qmp_armed armed;
	int64_t armed_id;
	int64_t next_id;
	struct json_object *events;	/* array, queued */
	size_t first_event;
};

int qmp_greets(const char *path, unsigned int timeout_ms)
{
	static const char head[] = "{\"QMP\":";
	int64_t deadline = deadline_in(timeout_ms);
	char buf[64];
	size_t n = 0, used = 0;
	ssize_t got;
	int fd, ret;

	fd = qmpsocket_connect(path, timeout_ms);
	if (fd < 0)
		return fd;
	for (;;) {
		ret = qmpsocket_wait(fd, POLLIN, deadline);
		if (ret)
			break;
		got = recv(fd, buf + n, sizeof(buf) - n, 0);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (got <= 0)
			break;
		n += got;
		/* Blanks between the tokens are QEMU's to choose. */
		used = 0;
		for (size_t i = 0; i < n && used < sizeof(head) - 1; i++) {
			if (buf[i] == ' ')
				continue;
			if (buf[i] != head[used])
				goto out;
			used++;
		}
		if (used == sizeof(head) - 1) {
			ret = 1;
			break;
		}
		if (n == sizeof(buf))
			break;
	}
out:
	close(fd);
	return ret;
}

bool qmp_is_broken(const struct qmp *q)
{
	return q->broken;
}

static int broken(struct qmp *q, int err, struct why *why)
{
	q->broken = true;
	switch (err) {
	case ETIMEDOUT:
		return why_set(why, err, "QEMU did not answer within %u ms on its QMP socket",
			       q->timeout_ms);
	case EPROTO:
		return why_set(why, err, "what QEMU sent on its QMP socket is not understood");
	default:
		return why_set(why, EPIPE, "QEMU closed the QMP connection (is it gone?)");
	}
}

/* The next message, waited for until the deadline. */
static int wait_msg(struct qmp *q, struct json_object **msg, int64_t deadline, struct why *why)
{
	int ret = qmpsocket_next_wait(&q->sock, msg, deadline);

	return ret ? broken(q, -ret, why) : 0;
}

static int send_all(struct qmp *q, const char *buf, size_t len, int passed, struct why *why)
{
	int ret = qmpsocket_send(&q->sock, buf, len, passed, deadline_in(q->timeout_ms));

	return ret ? broken(q, -ret, why) : 0;
}

/* {"execute":name,"arguments":args,"id":id}; takes args over. */
static struct json_object *make_command(const char *name, struct json_object *args, int64_t id)
{
	struct json_object *cmd = json_object_new_object();

	json_object_object_add(cmd, "execute", json_object_new_string(name));
	if (args)
		json_object_object_add(cmd, "arguments", args);
	json_object_object_add(cmd, "id", json_object_new_int64(id));
	return cmd;
}

static const char *plain(struct json_object *o, size_t *len)
{
	return json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN |
						 JSON_C_TO_STRING_NOSLASHESCAPE, len);
}

/* Is it the answer to command id? An answer without an id is to unreadable input. */
static bool answers(struct json_object *msg, int64_t id)
{
	struct json_object *o;

	return json_object_object_get_ex(msg, "id", &o) && json_object_get_int64(o) == id;
}

static bool is_event(struct json_object *msg, const char **name)
{
	struct json_object *o;

	if (!json_object_object_get_ex(msg, "event", &o))
		return false;
	if (name)
		*name = json_object_get_string(o);
	return true;
}

static const char *error_text(struct json_object *msg, const char **class)
{
	struct json_object *err, *o;

	*class = "";
	if (!json_object_object_get_ex(msg, "error", &err))
		return NULL;
	if (json_object_object_get_ex(err, "class", &o))
		*class = json_object_get_string(o);
	if (json_object_object_get_ex(err, "desc", &o))
		return json_object_get_string(o);
	return "no description";
}

/* Takes the reference over. */
static void queue_event(struct qmp *q, struct json_object *ev)
{
	json_object_array_add(q->events, ev);
}

/* Waits for the answer to id; the message is the caller's. */
static int wait_answer(struct qmp *q, int64_t id, int64_t deadline, struct json_object **msg,
		       struct why *why)
{
	int ret;

	for (;;) {
		ret = wait_msg(q, msg, deadline, why);
		if (ret)
			return ret;
		if (is_event(*msg, NULL)) {
			queue_event(q, *msg);
			continue;
		}
		if (answers(*msg, id))
			return 0;
		json_object_put(*msg);
	}
}

int qmp_command_fd(struct qmp *q, const char *name, struct json_object *args, int fd,
		   struct json_object **ret_obj, struct why *why)
{
	struct json_object *cmd, *msg, *o;
	const char *text, *class;
	int64_t id = q->next_id++;
	size_t len;
	int ret;

	if (ret_obj)
		*ret_obj = NULL;
	cmd = make_command(name, args, id);
	if (q->broken) {
		ret = why_set(why, EPIPE, "the QMP connection was lost");
	} else if (q->armed != QMP_IDLE) {
		ret = why_set(why, EBUSY, "%s: a checkpoint is under way on the QMP socket", name);
	} else {
		text = plain(cmd, &len);
		ret = send_all(q, text, len, fd, why);
	}
	json_object_put(cmd);
	if (ret)
		return ret;

	ret = wait_answer(q, id, deadline_in(q->timeout_ms), &msg, why);
	if (ret)
		return ret;
	text = error_text(msg, &class);
	if (text)
		ret = why_set(why, strcmp(class, "CommandNotFound") ? EREMOTEIO : ENOSYS,
			      "QEMU refused %s: %s", name, text);
	else if (ret_obj && json_object_object_get_ex(msg, "return", &o))
		*ret_obj = json_object_get(o);
	json_object_put(msg);
	return ret;
}

int qmp_command(struct qmp *q, const char *name, struct json_object *args,
		struct json_object **ret, struct why *why)
{
	return qmp_command_fd(q, name, args, -1, ret, why);
}

struct json_object *qmp_args(const char *key, const char *value)
{
	struct json_object *args = json_object_new_object();

	json_object_object_add(args, key, json_object_new_string(value));
	return args;
}

int qmp_query_string(struct qmp *q, const char *command, const char *key, char *text,
		     size_t size, struct why *why)
{
	struct json_object *ret, *o;
	int err;

	text[0] = '\0';
	err = qmp_command(q, command, NULL, &ret, why);
	if (err)
		return err;
	if (json_object_object_get_ex(ret, key, &o))
		snprintf(text, size, "%s", json_object_get_string(o));
	json_object_put(ret);
	return 0;
}

int qmp_hmp(struct qmp *q, const char *line, char **text, struct why *why)
{
	struct json_object *o;
	int ret;

	*text = NULL;
	ret = qmp_command(q, "human-monitor-command", qmp_args("command-line", line), &o, why);
	if (ret)
		return ret;
	*text = strdup(o ? json_object_get_string(o) : "");
	json_object_put(o);
	return *text ? 0 : why_set(why, ENOMEM, "out of memory");
}

struct json_object *qmp_next_event(struct qmp *q)
{
	struct json_object *ev;

	if (q->first_event == json_object_array_length(q->events))
		return NULL;
	ev = json_object_get(json_object_array_get_idx(q->events, q->first_event++));
	if (q->first_event == json_object_array_length(q->events)) {
		json_object_array_del_idx(q->events, 0, q->first_event);
		q->first_event = 0;
	}
	return ev;
}

int qmp_wait_event(struct qmp *q, const char *name, unsigned int timeout_ms,
		   struct json_object **ev, struct why *why)
{
	int64_t deadline = deadline_in(timeout_ms);
	struct json_object *msg;
	const char *is;
	size_t i;
	int ret;

	for (i = q->first_event; i < json_object_array_length(q->events); i++) {
		msg = json_object_array_get_idx(q->events, i);
		if (!is_event(msg, &is) || strcmp(is, name))
			continue;
		if (ev)
			*ev = json_object_get(msg);
		json_object_array_del_idx(q->events, i, 1);
		return 0;
	}
	if (q->broken)
		return why_set(why, EPIPE, "the QMP connection was lost");
	for (;;) {
		ret = qmpsocket_next_wait(&q->sock, &msg, deadline);
		if (ret == -ETIMEDOUT)
			return why_set(why, ETIMEDOUT, "QEMU did not say %s within %u ms", name,
				       timeout_ms);
		if (ret)
			return broken(q, -ret, why);
		if (is_event(msg, &is)) {
			if (!strcmp(is, name))
				break;
			queue_event(q, msg);
			continue;
		}
		json_object_put(msg);
	}
	if (ev)
		*ev = msg;
	else
		json_object_put(msg);
	return 0;
}

int qmp_arm(struct qmp *q, const char *name, struct json_object *args, struct why *why)
{
	int64_t id = q->next_id++;
	struct json_object *cmd = make_command(name, args, id);
	const char *text;
	size_t len;
	int ret;

	if (q->broken) {
		ret = why_set(why, EPIPE, "the QMP connection was lost");
	} else if (q->armed != QMP_IDLE) {
		ret = why_set(why, EBUSY, "%s: a checkpoint is under way on the QMP socket", name);
	} else {
		text = plain(cmd, &len);
		ret = send_all(q, text, len - 1, -1, why);
		if (!ret) {
			q->armed = QMP_ARMED;
			q->armed_id = id;
		}
	}
	json_object_put(cmd);
	return ret;
}

int qmp_fire(struct qmp *q)
{
	ssize_t sent;

	if (q->armed != QMP_ARMED)
		return -EINVAL;
	if (q->broken)
		return -EPIPE;
	do {
		sent = send(q->sock.fd, "}", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return errno == EAGAIN ? -EAGAIN : -EPIPE;
	q->armed = QMP_FIRED;
	return 0;
}

int qmp_disarm(struct qmp *q, struct why *why)
{
	int64_t deadline = deadline_in(q->timeout_ms);
	struct json_object *msg;
	int ret;

	if (q->armed == QMP_IDLE)
		return 0;
	if (q->armed == QMP_FIRED)
		return why_set(why, EBUSY, "a checkpoint is under way on the QMP socket");
	if (q->broken)
		return why_set(why, EPIPE, "the QMP connection was lost");
	ret = send_all(q, "\xff", 1, -1, why);
	if (ret)
		return ret;
	for (;;) {
		ret = wait_msg(q, &msg, deadline, why);
		if (ret)
			return ret;
		if (!is_event(msg, NULL))
			break;
		queue_event(q, msg);
	}
	json_object_put(msg);
	q->armed = QMP_IDLE;
	return 0;
}

bool qmp_busy(const struct qmp *q)
{
	return q->armed == QMP_FIRED;
}

int qmp_fd(const struct qmp *q)
{
	return q->sock.fd;
}

int qmp_pump(struct qmp *q, struct qmp_msg *msg, struct why *why)
{
	struct json_object *o, *body;
	const char *text, *class;
	int ret;

	memset(msg, 0, sizeof(*msg));
	o = qmp_next_event(q);
	while (!o) {
		if (q->broken)
			return why_set(why, EPIPE, "the QMP connection was lost");
		ret = qmpsocket_next(&q->sock, &o);
		if (!ret)
			return 0;
		if (ret < 0)
			return broken(q, -ret, why);
		if (is_event(o, NULL))
			break;
		if (q->armed == QMP_FIRED && answers(o, q->armed_id))
			goto answer;
		json_object_put(o);
		o = NULL;
	}
	msg->kind = QMP_MSG_EVENT;
	msg->body = o;
	is_event(o, &msg->name);
	return 1;
answer:
	q->armed = QMP_IDLE;
	text = error_text(o, &class);
	if (text) {
		msg->kind = QMP_MSG_ERROR;
		snprintf(msg->text, sizeof(msg->text), "%s", text);
	} else {
		msg->kind = QMP_MSG_RETURN;
		if (json_object_object_get_ex(o, "return", &body))
			msg->body = json_object_get(body);
	}
	json_object_put(o);
	return 1;
}

void qmp_msg_put(struct qmp_msg *msg)
{
	json_object_put(msg->body);
	msg->body = NULL;
	msg->name = NULL;
}

const char *qmp_version(const struct qmp *q)
{
	return q->version;
}

void qmp_version_parts(const struct qmp *q, int *major, int *minor)
{
	*major = q->major;
	*minor = q->minor;
}

void qmp_set_timeout(struct qmp *q, unsigned int timeout_ms)
{
	q->timeout_ms = timeout_ms;
}

static int greeting(struct qmp *q, struct why *why)
{
	struct json_object *msg, *o, *v;
	int micro = 0, ret;

	ret = wait_msg(q, &msg, deadline_in(q->timeout_ms), why);
	if (ret == -ETIMEDOUT)
		return why_set(why, ETIMEDOUT,
			       "QEMU's QMP socket does not greet: another client may hold it; "
			       "close that one, or start QEMU with one more -qmp socket");
	if (ret == -EPROTO)
		return why_set(why, EPROTO, "what answers is not QMP");
	if (ret)
		return ret;
	ret = -EPROTO;
	if (json_object_object_get_ex(msg, "QMP", &o) &&
	    json_object_object_get_ex(o, "version", &o) &&
	    json_object_object_get_ex(o, "qemu", &o)) {
		if (json_object_object_get_ex(o, "major", &v))
			q->major = json_object_get_int(v);
		if (json_object_object_get_ex(o, "minor", &v))
			q->minor = json_object_get_int(v);
		if (json_object_object_get_ex(o, "micro", &v))
			micro = json_object_get_int(v);
		snprintf(q->version, sizeof(q->version), "%d.%d.%d", q->major, q->minor, micro);
		ret = 0;
	}
	json_object_put(msg);
	if (ret)
		return why_set(why, EPROTO, "what answers is not QMP");
	return qmp_command(q, "qmp_capabilities", NULL, NULL, why);
}

struct qmp *qmp_open(const char *path, unsigned int timeout_ms, struct why *why)
{
	struct qmp *q = calloc(1, sizeof(*q));
	int ret;

	if (!q)
		goto nomem;
	q->sock.fd = -1;
	q->timeout_ms = timeout_ms;
	q->next_id = 1;
	q->events = json_object_new_array();
	if (!q->events)
		goto nomem;
	ret = qmpsocket_open(&q->sock, path, timeout_ms);
	if (ret < 0) {
		why_set(why, -ret, "cannot connect: %s", strerror(-ret));
		goto err;
	}
	ret = greeting(q, why);
	if (ret)
		goto err;
	return q;
nomem:
	ret = why_set(why, ENOMEM, "out of memory");
err:
	why_prefix(why, "%s: ", path);
	qmp_close(q);
	errno = -ret;
	return NULL;
}

void qmp_close(struct qmp *q)
{
	if (!q)
		return;
	qmpsocket_close(&q->sock);
	json_object_put(q->events);
	free(q);
}
