// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU's device state: captured small blocks, a whole stream, its loading.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "devstate.h"
#include "ramstream.h"

/* The name under which QEMU is handed a file. */
#define FD_NAME		"vmrepl-state"

/* Longest wait for QEMU to come out of a migration that is over, ms. */
#define SETTLE_MS	5000

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static unsigned int left_ms(int64_t deadline)
{
	int64_t left = deadline - now_ms();

	return left < 0 ? 0 : (unsigned int)left;
}

/* A string member of what a command returns. */
static int query_string(struct qmp *q, const char *command, const char *key, char *text,
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

static struct json_object *one_string(const char *key, const char *value)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, key, json_object_new_string(value));
	return o;
}

int devstate_machine(struct qmp *q, char *name, size_t size, struct why *why)
{
	static const char tail[] = "-machine";
	struct json_object *args, *ret;
	size_t n;
	int err;

	args = one_string("path", "/machine");
	json_object_object_add(args, "property", json_object_new_string("type"));
	err = qmp_command(q, "qom-get", args, &ret, why);
	if (err)
		return err;
	snprintf(name, size, "%s", json_object_get_string(ret));
	json_object_put(ret);
	n = strlen(name);
	if (n < sizeof(tail) || strcmp(name + n - (sizeof(tail) - 1), tail))
		return why_set(why, EPROTO, "QEMU's machine type \"%s\" is not understood", name);
	name[n - (sizeof(tail) - 1)] = '\0';
	return 0;
}

/* Takes the array of capabilities over. */
static int set_caps(struct qmp *q, struct json_object *caps, struct why *why)
{
	struct json_object *args;

	if (!json_object_array_length(caps)) {
		json_object_put(caps);
		return 0;
	}
	args = json_object_new_object();
	json_object_object_add(args, "capabilities", caps);
	return qmp_command(q, "migrate-set-capabilities", args, NULL, why);
}

static void add_cap(struct json_object *caps, const char *name, bool state)
{
	struct json_object *cap = one_string("capability", name);

	json_object_object_add(cap, "state", json_object_new_boolean(state));
	json_object_array_add(caps, cap);
}

/*
 * Only what the plain stream is made with: events on, ignore_shared as asked,
 * everything else off. *undo gets what puts the capabilities back.
 */
static int plain_caps(struct qmp *q, bool ignore_shared, struct json_object **undo,
		      struct why *why)
{
	struct json_object *list, *cap, *o, *caps;
	const char *name;
	bool state, goal;
	int err;

	*undo = NULL;
	err = qmp_command(q, "query-migrate-capabilities", NULL, &list, why);
	if (err)
		return err;
	caps = json_object_new_array();
	*undo = json_object_new_array();
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		cap = json_object_array_get_idx(list, i);
		if (!json_object_object_get_ex(cap, "capability", &o))
			continue;
		name = json_object_get_string(o);
		if (!json_object_object_get_ex(cap, "state", &o))
			continue;
		state = json_object_get_boolean(o);
		goal = !strcmp(name, "events") ||
		       (ignore_shared && !strcmp(name, "x-ignore-shared"));
		if (state == goal)
			continue;
		add_cap(caps, name, goal);
		add_cap(*undo, name, state);
	}
	json_object_put(list);
	err = set_caps(q, caps, why);
	if (err) {
		json_object_put(*undo);
		*undo = NULL;
	}
	return err;
}

/*
 * While the capture runs: as fast as it goes, and never stop the guest in order
 * to send the rest. The bandwidth is a number that nobody else would set.
 */
#define CAPTURE_BANDWIDTH	INT64_C(0x766d7265706c)
#define CAPTURE_DOWNTIME	0

/* QEMU's own defaults. */
#define DEFAULT_BANDWIDTH	(INT64_C(128) << 20)
#define DEFAULT_DOWNTIME	300

/* Bytes a second, milliseconds. */
struct speed {
	int64_t bandwidth;
	int64_t downtime;
};

static int set_speed(struct qmp *q, const struct speed *speed, struct why *why)
{
	struct json_object *args = json_object_new_object();

	json_object_object_add(args, "max-bandwidth", json_object_new_int64(speed->bandwidth));
	json_object_object_add(args, "downtime-limit", json_object_new_int64(speed->downtime));
	return qmp_command(q, "migrate-set-parameters", args, NULL, why);
}

static int query_speed(struct qmp *q, struct speed *speed, struct why *why)
{
	struct json_object *ret, *o;
	int err;

	err = qmp_command(q, "query-migrate-parameters", NULL, &ret, why);
	if (err)
		return err;
	*speed = (struct speed){ DEFAULT_BANDWIDTH, DEFAULT_DOWNTIME };
	if (json_object_object_get_ex(ret, "max-bandwidth", &o))
		speed->bandwidth = json_object_get_int64(o);
	if (json_object_object_get_ex(ret, "downtime-limit", &o))
		speed->downtime = json_object_get_int64(o);
	json_object_put(ret);
	return 0;
}

/*
 * An agent that was killed during its capture has left its settings. The
 * operator's are lost, but x-ignore-shared must not stay on: a later migration
 * would come without the guest's memory.
 */
static int forget_killed(struct qmp *q, struct speed *speed, struct why *why)
{
	struct json_object *caps;
	int err;

	if (speed->bandwidth != CAPTURE_BANDWIDTH)
		return 0;
	caps = json_object_new_array();
	add_cap(caps, "events", false);
	add_cap(caps, "x-ignore-shared", false);
	err = set_caps(q, caps, why);
	if (err)
		return err;
	*speed = (struct speed){ DEFAULT_BANDWIDTH, DEFAULT_DOWNTIME };
	return set_speed(q, speed, why);
}

static bool migrating(const char *status)
{
	static const char *const over[] = { "", "none", "completed", "failed", "cancelled" };

	for (size_t i = 0; i < sizeof(over) / sizeof(over[0]); i++)
		if (!strcmp(status, over[i]))
			return false;
	return true;
}

/* Waits for the end of a migration; status gets how it ended. */
static int wait_migrated(struct qmp *q, int64_t deadline, char *status, size_t size,
			 struct why *why)
{
	int err;

	for (;;) {
		err = query_string(q, "query-migrate", "status", status, size, why);
		if (err || !migrating(status))
			return err;
		err = qmp_wait_event(q, "MIGRATION", left_ms(deadline), NULL, why);
		if (err == -ETIMEDOUT)
			return why_set(why, ETIMEDOUT, "QEMU's migration is still \"%s\"", status);
		if (err)
			return err;
	}
}

/* The guest runs again when this returns 0. */
static int run_again(struct qmp *q, struct why *why)
{
	int64_t deadline = now_ms() + SETTLE_MS;
	char status[32];
	int err;

	for (;;) {
		err = query_string(q, "query-status", "status", status, sizeof(status), why);
		if (err || !strcmp(status, "running"))
			return err;
		if (strcmp(status, "finish-migrate"))
			return qmp_command(q, "cont", NULL, NULL, why);
		/* On its way to postmigrate, or back to running. */
		if (!left_ms(deadline))
			return why_set(why, ETIMEDOUT, "the guest is still stopped for a migration");
		err = qmp_wait_event(q, "RESUME", 20, NULL, why);
		if (err && err != -ETIMEDOUT)
			return err;
	}
}

/* Takes what is in the pipe: 1 there was an end, 0, or an error. */
static int take_pipe(int fd, struct ramstream *s, bool *whole, struct why *why)
{
	static _Thread_local uint8_t buf[65536];
	ssize_t got;
	int ret;

	do {
		got = read(fd, buf, sizeof(buf));
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return errno == EAGAIN ? 0 : why_set(why, errno, "read: %s", strerror(errno));
	if (!got)
		return 1;
	ret = ramstream_feed(s, buf, (size_t)got, why);
	if (ret < 0)
		return ret;
	*whole = ret;
	return 0;
}

/* Hands the messages that are there back to nobody; the cancel's answer too. */
static int take_messages(struct qmp *q, struct why *why)
{
	struct qmp_msg msg;
	int ret;

	while ((ret = qmp_pump(q, &msg, why)) > 0)
		qmp_msg_put(&msg);
	return ret;
}

/*
 * Reads the stream to its end. As soon as the small blocks are whole, the
 * migration is cancelled: what would follow is only more of the big blocks. The
 * cancel is not waited for, because QEMU may be waiting for room in the pipe.
 */
static int read_stream(struct qmp *q, int fd, struct ramstream *s, int64_t deadline,
		       struct why *why)
{
	struct pollfd pfd[2] = {
		{ .fd = fd, .events = POLLIN },
		{ .fd = qmp_fd(q), .events = POLLIN },
	};
	bool whole = false, cancelled = false;
	int ret;

	for (;;) {
		ret = poll(pfd, 2, (int)left_ms(deadline));
		if (ret < 0 && errno != EINTR)
			return why_set(why, errno, "poll: %s", strerror(errno));
		if (!ret)
			return why_set(why, ETIMEDOUT, "QEMU did not give its ROM and firmware memory in time");
		if (pfd[1].revents) {
			ret = take_messages(q, why);
			if (ret)
				return ret;
		}
		if (!pfd[0].revents)
			continue;
		ret = take_pipe(fd, s, &whole, why);
		if (ret < 0)
			return ret;
		if (ret)
			break;
		if (whole && !cancelled) {
			ret = qmp_arm(q, "migrate_cancel", NULL, why);
			if (ret)
				return ret;
			ret = qmp_fire(q);
			if (ret)
				return why_set(why, -ret, "QEMU does not read its QMP socket");
			cancelled = true;
		}
	}
	/* The cancel's answer has to be in before the next command. */
	while (cancelled && qmp_busy(q)) {
		ret = take_messages(q, why);
		if (ret)
			return ret;
		if (qmp_busy(q) && poll(&pfd[1], 1, (int)left_ms(deadline)) == 0)
			return why_set(why, ETIMEDOUT, "QEMU did not cancel its migration in time");
	}
	return whole ? 0 : -ENODATA;
}

static int start_migration(struct qmp *q, int *fd, struct why *why)
{
	int pipefd[2], err;

	if (pipe2(pipefd, O_CLOEXEC))
		return why_set(why, errno, "pipe: %s", strerror(errno));
	if (fcntl(pipefd[0], F_SETFL, O_NONBLOCK)) {
		err = why_set(why, errno, "pipe: %s", strerror(errno));
		goto err;
	}
	err = qmp_command_fd(q, "getfd", one_string("fdname", FD_NAME), pipefd[1], NULL, why);
	if (err)
		goto err;
	err = qmp_command(q, "migrate", one_string("uri", "fd:" FD_NAME), NULL, why);
	if (err) {
		qmp_command(q, "closefd", one_string("fdname", FD_NAME), NULL, NULL);
		goto err;
	}
	close(pipefd[1]);
	*fd = pipefd[0];
	return 0;
err:
	close(pipefd[0]);
	close(pipefd[1]);
	return err;
}

/* A migration into a pipe, given up when the small blocks are there. */
static int capture_by_migration(struct qmp *q, struct ramblock_table *t, int64_t deadline,
				struct why *why)
{
	char status[32], detail[256] = "";
	struct json_object *undo;
	struct ramstream *s;
	struct speed speed;
	struct why later;
	int fd = -1, ret, err;

	s = ramstream_new(t);
	if (!s)
		return why_set(why, ENOMEM, "out of memory");
	ret = query_speed(q, &speed, why);
	if (!ret)
		ret = forget_killed(q, &speed, why);
	if (ret)
		goto out;
	ret = plain_caps(q, true, &undo, why);
	if (ret)
		goto out;
	ret = set_speed(q, &(struct speed){ CAPTURE_BANDWIDTH, CAPTURE_DOWNTIME }, why);
	if (ret)
		goto out_caps;
	ret = start_migration(q, &fd, why);
	if (ret)
		goto out_speed;

	ret = read_stream(q, fd, s, deadline, why);
	/* Without a reader the migration ends by itself, whatever it is at. */
	close(fd);
	if (ret && ret != -ENODATA && !qmp_busy(q))
		qmp_command(q, "migrate_cancel", NULL, NULL, NULL);
	err = wait_migrated(q, now_ms() + SETTLE_MS, status, sizeof(status), &later);
	if (!err && ret == -ENODATA)
		query_string(q, "query-migrate", "error-desc", detail, sizeof(detail), NULL);
	if (ret == -ENODATA)
		ret = why_set(why, EPROTO, "QEMU did not give all of its ROM and firmware memory (migration %s%s%s)",
			      status, detail[0] ? ": " : "", detail);
	err = run_again(q, &later);
	if (err && !ret) {
		ret = err;
		if (why)
			*why = later;
		why_prefix(why, "the guest is stopped and QEMU does not resume it (try `cont` in its monitor): ");
	}
out_speed:
	err = set_speed(q, &speed, &later);
	if (err && !ret) {
		ret = err;
		if (why)
			*why = later;
	}
out_caps:
	err = set_caps(q, undo, &later);
	if (err && !ret) {
		ret = err;
		if (why)
			*why = later;
	}
out:
	ramstream_free(s);
	return ret;
}

/* Reads a block out of QEMU's memory; zero pages of the copy stay untouched. */
static int read_block(int pid, struct ramblock *b, struct why *why)
{
	static const uint8_t zeros[RAMBLOCK_PAGE];
	static _Thread_local uint8_t buf[16 * RAMBLOCK_PAGE];
	struct iovec local, remote;
	uint64_t off, n, p;

	for (off = 0; off < b->size; off += n) {
		n = b->size - off < sizeof(buf) ? b->size - off : sizeof(buf);
		local = (struct iovec){ .iov_base = buf, .iov_len = n };
		remote = (struct iovec){ .iov_base = (void *)(uintptr_t)(b->hva + off),
					 .iov_len = n };
		if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)n)
			return why_set(why, EIO, "cannot read RAM block %s of process %d: %s",
				       b->name, pid, strerror(errno));
		for (p = 0; p < n; p += RAMBLOCK_PAGE)
			if (memcmp(buf + p, zeros, RAMBLOCK_PAGE))
				memcpy(b->copy + off + p, buf + p, RAMBLOCK_PAGE);
	}
	return 0;
}

int devstate_capture(struct qmp *q, struct ramblock_table *t, int pid, unsigned int timeout_ms,
		     struct why *why)
{
	int64_t deadline = now_ms() + timeout_ms;
	bool all = true, some = false;
	char status[32];
	int ret;

	for (unsigned int i = 0; i < t->nr; i++) {
		if (t->blocks[i].big)
			continue;
		some = true;
		if (!t->blocks[i].hva)
			all = false;
	}
	if (!some)
		return 0;
	ret = query_string(q, "query-migrate", "status", status, sizeof(status), why);
	if (ret)
		return ret;
	if (migrating(status))
		return why_set(why, EBUSY, "QEMU is migrating the guest (%s): wait for its end or cancel it",
			       status);
	ramblock_free_copies(t);
	if (ramblock_alloc_copies(t)) {
		ret = why_set(why, ENOMEM, "out of memory");
		goto err;
	}
	if (!all) {
		ret = capture_by_migration(q, t, deadline, why);
	} else {
		for (unsigned int i = 0; i < t->nr && !ret; i++)
			if (!t->blocks[i].big)
				ret = read_block(pid, &t->blocks[i], why);
	}
	if (!ret)
		return 0;
err:
	ramblock_free_copies(t);
	return ret;
}

int devstate_check(const void *state, size_t len, struct why *why)
{
	static const uint8_t head[] = { 'Q', 'E', 'V', 'M', 0, 0, 0, RAMSTREAM_VERSION };
	const uint8_t *p = state;

	if (len < sizeof(head) + 2 || memcmp(p, head, sizeof(head)) ||
	    (p[sizeof(head)] != RAMSTREAM_FULL && p[sizeof(head)] != RAMSTREAM_START) ||
	    p[len - 1] != RAMSTREAM_EOF)
		return why_set(why, EPROTO, "the device state of %zu bytes is not whole", len);
	return 0;
}

int devstate_build(const char *machine, const struct ramblock_table *t, const void *state,
		   size_t len, struct why *why)
{
	static const uint8_t end[] = { RAMSTREAM_VMDESC, 0, 0, 0, 0 };
	uint32_t n = (uint32_t)strlen(machine);
	const uint8_t *p = state;
	int fd, copy, ret;
	uint8_t conf[5] = {
		RAMSTREAM_CONFIG, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
		(uint8_t)n,
	};
	FILE *f;

	ret = devstate_check(state, len, why);
	if (ret)
		return ret;
	fd = memfd_create("vmrepl-state", MFD_CLOEXEC);
	if (fd < 0)
		return why_set(why, errno, "memfd_create: %s", strerror(errno));
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	f = copy < 0 ? NULL : fdopen(copy, "wb");
	if (!f) {
		ret = why_set(why, errno, "cannot write the device state: %s", strerror(errno));
		if (copy >= 0)
			close(copy);
		goto err;
	}
	fwrite(p, 8, 1, f);
	fwrite(conf, sizeof(conf), 1, f);
	fwrite(machine, n, 1, f);
	ramstream_write(f, t);
	fwrite(p + 8, len - 8, 1, f);
	fwrite(end, sizeof(end), 1, f);
	ret = fflush(f) || ferror(f) ? -EIO : 0;
	if (fclose(f) || ret) {
		ret = why_set(why, ENOSPC, "cannot write the device state: %s", strerror(errno));
		goto err;
	}
	if (lseek(fd, 0, SEEK_SET)) {
		ret = why_set(why, errno, "lseek: %s", strerror(errno));
		goto err;
	}
	return fd;
err:
	close(fd);
	return ret;
}

/* Where QEMU can be told to, it reports a stream that it refuses and lives on. */
static int migrate_incoming(struct qmp *q, struct why *why)
{
	struct json_object *args = one_string("uri", "fd:" FD_NAME);
	int major, minor;

	qmp_version_parts(q, &major, &minor);
	if (major > 9 || (major == 9 && minor >= 1))
		json_object_object_add(args, "exit-on-error", json_object_new_boolean(0));
	return qmp_command(q, "migrate-incoming", args, NULL, why);
}

/*
 * Pushes the stream into the socket. That QEMU stops reading is no error here:
 * it says itself why.
 */
static int push_stream(int fd, int to, int64_t deadline, struct why *why)
{
	struct pollfd pfd = { .fd = to, .events = POLLOUT };
	static _Thread_local uint8_t buf[65536];
	ssize_t got, sent, done;

	while ((got = read(fd, buf, sizeof(buf))) > 0) {
		for (done = 0; done < got; done += sent) {
			sent = send(to, buf + done, (size_t)(got - done),
				    MSG_NOSIGNAL | MSG_DONTWAIT);
			if (sent >= 0)
				continue;
			sent = 0;
			if (errno == EPIPE || errno == ECONNRESET)
				return 0;
			if (errno != EAGAIN && errno != EINTR)
				return why_set(why, errno, "send: %s", strerror(errno));
			if (!poll(&pfd, 1, (int)left_ms(deadline)))
				return why_set(why, ETIMEDOUT, "the standby's QEMU did not take the device state in time");
		}
	}
	return got ? why_set(why, errno, "read: %s", strerror(errno)) : 0;
}

int devstate_load(struct qmp *q, int fd, unsigned int timeout_ms, struct why *why)
{
	int64_t deadline = now_ms() + timeout_ms;
	char status[32], detail[256];
	struct json_object *undo;
	int pair[2], ret;

	if (lseek(fd, 0, SEEK_SET))
		return why_set(why, errno, "lseek: %s", strerror(errno));
	/* Through a socket: QEMU deprecates fd: with a file. */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return why_set(why, errno, "socketpair: %s", strerror(errno));
	ret = plain_caps(q, false, &undo, why);
	if (ret)
		goto out_pair;
	ret = qmp_command_fd(q, "getfd", one_string("fdname", FD_NAME), pair[0], NULL, why);
	if (ret)
		goto out;
	ret = migrate_incoming(q, why);
	if (ret) {
		qmp_command(q, "closefd", one_string("fdname", FD_NAME), NULL, NULL);
		goto out;
	}
	close(pair[0]);
	pair[0] = -1;
	ret = push_stream(fd, pair[1], deadline, why);
	close(pair[1]);
	pair[1] = -1;
	if (ret)
		goto out;
	ret = wait_migrated(q, deadline, status, sizeof(status), why);
	if (ret == -EPIPE)
		why_set(why, EPIPE, "the standby's QEMU exited while it loaded the device state: its own output says why (is its command line the primary's?)");
	if (ret)
		goto out;
	if (strcmp(status, "completed")) {
		query_string(q, "query-migrate", "error-desc", detail, sizeof(detail), NULL);
		ret = why_set(why, EREMOTEIO, "the standby's QEMU refused the device state: %s",
			      detail[0] ? detail : status);
	}
out:
	if (ret != -EPIPE && ret != -ETIMEDOUT)
		set_caps(q, undo, NULL);
	else
		json_object_put(undo);
out_pair:
	for (int i = 0; i < 2; i++)
		if (pair[i] >= 0)
			close(pair[i]);
	return ret;
}
