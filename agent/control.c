// SPDX-License-Identifier: GPL-2.0
/*
 * control: a command is answered when its line is complete, then the
 * connection ends.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control.h"

#define CONTROL_DIR		"/run/vmrepl"
#define CONTROL_LINE		4096
#define CONTROL_CONNS		8
/* A promotion is answered when it is done. */
#define CONTROL_ANSWER_SEC	300

struct control_conn {
	struct control *control;
	struct loop_op *op;
	int fd;
	size_t have;
	char line[CONTROL_LINE];
};

struct control {
	struct loop *loop;
	control_fn fn;
	void *arg;
	int fd;
	struct loop_op *op;
	struct sockaddr_un addr;
	struct control_conn conns[CONTROL_CONNS];
};

static void control_readable(void *arg, int res);

static void control_addr(struct sockaddr_un *addr, pid_t vm)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	snprintf(addr->sun_path, sizeof(addr->sun_path), CONTROL_DIR "/%d.sock", vm);
}

struct json_object *control_error(const char *fmt, ...)
{
	struct json_object *o = json_object_new_object();
	char text[WHY_LEN];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_object_object_add(o, "error", json_object_new_string(text));
	return o;
}

static void control_drop(struct control_conn *conn)
{
	loop_cancel(conn->control->loop, conn->op);
	conn->op = NULL;
	close(conn->fd);
	conn->fd = -1;
}

static void control_answer(struct control_conn *conn)
{
	struct json_object *request = json_tokener_parse(conn->line);
	struct json_object *cmd, *reply;
	const char *text;
	char *line;
	int n;

	if (request && json_object_is_type(request, json_type_object) &&
	    json_object_object_get_ex(request, "cmd", &cmd) &&
	    json_object_is_type(cmd, json_type_string))
		reply = conn->control->fn(conn->control->arg, json_object_get_string(cmd));
	else
		reply = control_error("no command was understood");
	text = json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN);
	n = asprintf(&line, "%s\n", text);
	if (n > 0) {
		/* A few hundred bytes: they always fit the socket's buffer. */
		if (send(conn->fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			n = 0;
		free(line);
	}
	json_object_put(reply);
	json_object_put(request);
}

static void control_readable(void *arg, int res)
{
	struct control_conn *conn = arg;
	ssize_t n;
	char *end;

	(void)res;
	conn->op = NULL;
	n = recv(conn->fd, conn->line + conn->have, CONTROL_LINE - 1 - conn->have, MSG_DONTWAIT);
	if (n <= 0 && !(n < 0 && errno == EAGAIN)) {
		control_drop(conn);
		return;
	}
	if (n > 0)
		conn->have += (size_t)n;
	conn->line[conn->have] = '\0';
	end = strchr(conn->line, '\n');
	if (end) {
		*end = '\0';
		control_answer(conn);
		control_drop(conn);
	} else if (conn->have == CONTROL_LINE - 1) {
		control_drop(conn);
	} else {
		conn->op = loop_poll(conn->control->loop, conn->fd, POLLIN, control_readable, conn);
	}
}

static void control_accepted(void *arg, int res)
{
	struct control *control = arg;
	unsigned int i;

	control->op = loop_accept(control->loop, control->fd, control_accepted, control);
	if (res < 0)
		return;
	for (i = 0; i < CONTROL_CONNS; i++) {
		struct control_conn *conn = &control->conns[i];

		if (conn->fd >= 0)
			continue;
		conn->fd = res;
		conn->have = 0;
		conn->op = loop_poll(control->loop, res, POLLIN, control_readable, conn);
		return;
	}
	close(res);
}

static int control_dial(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int err;

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr))) {
		err = errno;
		close(fd);
		return -err;
	}
	return fd;
}

bool control_served(pid_t vm)
{
	struct sockaddr_un addr;
	int fd;

	control_addr(&addr, vm);
	fd = control_dial(&addr);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

struct control *control_open(struct loop *loop, pid_t vm, control_fn fn, void *arg,
			     struct why *why)
{
	struct control *control;
	unsigned int i;

	if (control_served(vm)) {
		why_set(why, EBUSY,
			"another vmrepl-agent serves the VM of process %d already; `vmrepl-agent status --vm %d` shows it",
			vm, vm);
		return NULL;
	}
	control = calloc(1, sizeof(*control));
	if (!control) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	control->loop = loop;
	control->fn = fn;
	control->arg = arg;
	for (i = 0; i < CONTROL_CONNS; i++) {
		control->conns[i].control = control;
		control->conns[i].fd = -1;
	}
	control_addr(&control->addr, vm);
	control->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (control->fd < 0)
		goto fail;
	if (mkdir(CONTROL_DIR, 0700) && errno != EEXIST)
		goto fail;
	/* What a killed agent left; nobody answers there, see above. */
	unlink(control->addr.sun_path);
	if (bind(control->fd, (struct sockaddr *)&control->addr, sizeof(control->addr)) ||
	    listen(control->fd, 4))
		goto fail;
	control->op = loop_accept(loop, control->fd, control_accepted, control);
	return control;
fail:
	why_set(why, errno, "cannot make the control socket %s: %s", control->addr.sun_path,
		strerror(errno));
	if (control->fd >= 0)
		close(control->fd);
	free(control);
	return NULL;
}

void control_close(struct control *control)
{
	unsigned int i;

	if (!control)
		return;
	for (i = 0; i < CONTROL_CONNS; i++)
		if (control->conns[i].fd >= 0)
			control_drop(&control->conns[i]);
	loop_cancel(control->loop, control->op);
	unlink(control->addr.sun_path);
	close(control->fd);
	free(control);
}

/* The only VM with an agent that answers. */
static int control_find(pid_t *vm, struct why *why)
{
	DIR *dir = opendir(CONTROL_DIR);
	struct dirent *entry;
	unsigned int found = 0;

	while (dir && (entry = readdir(dir))) {
		char *end;
		long pid = strtol(entry->d_name, &end, 10);

		if (pid <= 0 || strcmp(end, ".sock") || !control_served((pid_t)pid))
			continue;
		*vm = (pid_t)pid;
		found++;
	}
	if (dir)
		closedir(dir);
	if (!found)
		return why_set(why, ENOENT, "no vmrepl-agent runs on this host");
	if (found > 1)
		return why_set(why, ENOTUNIQ,
			       "several vmrepl-agents run on this host; name the VM with --vm PID");
	return 0;
}

int control_ask(pid_t vm, const char *cmd, struct json_object **reply, struct why *why)
{
	struct timeval patience = { .tv_sec = CONTROL_ANSWER_SEC };
	struct sockaddr_un addr;
	char line[65536];
	size_t have = 0;
	ssize_t n;
	int fd, err;

	if (!vm) {
		err = control_find(&vm, why);
		if (err)
			return err;
	}
	control_addr(&addr, vm);
	fd = control_dial(&addr);
	if (fd == -EACCES || fd == -EPERM)
		return why_set(why, -fd, "not allowed to talk to the agent; run this as root");
	if (fd < 0)
		return why_set(why, ENOENT, "no vmrepl-agent serves the VM of process %d", vm);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	n = snprintf(line, sizeof(line), "{\"cmd\":\"%s\"}\n", cmd);
	if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n) {
		close(fd);
		return why_set(why, EPROTO, "the agent does not take the command");
	}
	while (have < sizeof(line) - 1) {
		n = recv(fd, line + have, sizeof(line) - 1 - have, 0);
		if (n <= 0)
			break;
		have += (size_t)n;
		if (line[have - 1] == '\n')
			break;
	}
	close(fd);
	line[have] = '\0';
	*reply = have ? json_tokener_parse(line) : NULL;
	if (!*reply)
		return why_set(why, ETIMEDOUT, "the agent gave no answer");
	return 0;
}
