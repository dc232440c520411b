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
#include <unistd.h>

#include <xxhash.h>

#include "deadline.h"
#include "devstate.h"
#include "migration.h"
#include "ramstream.h"

/* The name under which QEMU is handed a file. */
#define FD_NAME		"vmrepl-state"

/* Longest wait for QEMU to come out of a migration that is over, ms. */
#define SETTLE_MS	5000

int devstate_machine(struct qmp *q, char *name, size_t size, struct why *why)
{
	static const char tail[] = "-machine";
	struct json_object *args, *ret;
	size_t n;
	int err;

	args = qmp_args("path", "/machine");
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
		ret = poll(pfd, 2, deadline_left(deadline));
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
		if (qmp_busy(q) && poll(&pfd[1], 1, deadline_left(deadline)) == 0)
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
	err = qmp_command_fd(q, "getfd", qmp_args("fdname", FD_NAME), pipefd[1], NULL, why);
	if (err)
		goto err;
	err = qmp_command(q, "migrate", qmp_args("uri", "fd:" FD_NAME), NULL, why);
	if (err) {
		qmp_command(q, "closefd", qmp_args("fdname", FD_NAME), NULL, NULL);
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
	struct migration_settings old;
	struct ramstream *s;
	int fd = -1, ret, err;
	struct why later;

	s = ramstream_new(t);
	if (!s)
		return why_set(why, ENOMEM, "out of memory");
	ret = migration_capture_settings(q, &old, why);
	if (ret)
		goto out;
	ret = start_migration(q, &fd, why);
	if (ret)
		goto out_settings;

	ret = read_stream(q, fd, s, deadline, why);
	/* Without a reader the migration ends by itself, whatever it is at. */
	close(fd);
	if (ret && ret != -ENODATA && !qmp_busy(q))
		qmp_command(q, "migrate_cancel", NULL, NULL, NULL);
	err = migration_wait(q, deadline_in(SETTLE_MS), status, sizeof(status), &later);
	if (!err && ret == -ENODATA)
		qmp_query_string(q, "query-migrate", "error-desc", detail, sizeof(detail), NULL);
	if (ret == -ENODATA)
		ret = why_set(why, EPROTO, "QEMU did not give all of its ROM and firmware memory (migration %s%s%s)",
			      status, detail[0] ? ": " : "", detail);
	err = migration_resume(q, &later);
	if (err)
		why_prefix(&later, "the guest is stopped and QEMU does not resume it (try `cont` in its monitor): ");
	ret = why_first(ret, err, why, &later);
out_settings:
	err = migration_restore(q, &old, &later);
	ret = why_first(ret, err, why, &later);
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
	int64_t deadline = deadline_in(timeout_ms);
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
	ret = migration_status(q, status, sizeof(status), why);
	if (ret)
		return ret;
	if (migration_busy(status))
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

/*
 * A section: FULL, be32 number, name with its length in front, be32 instance, be32
 * version; what the device wrote, whose length only the device knows; FOOTER, be32
 * number. Its end is found by a footer that the next section, or the end, follows.
 */
#define SECTION_ID	5u		/* mark and number */
#define SECTION_REST	8u		/* instance, version */

/* Bytes of the section's head at @p, 0 where there is none. */
static size_t section_head(const uint8_t *p, size_t len)
{
	size_t name;

	if (len < SECTION_ID + 1 || p[0] != RAMSTREAM_FULL)
		return 0;
	name = p[SECTION_ID];
	if (!name || len < SECTION_ID + 1 + name + SECTION_REST)
		return 0;
	for (size_t i = 0; i < name; i++)
		if (p[SECTION_ID + 1 + i] < 0x20 || p[SECTION_ID + 1 + i] > 0x7e)
			return 0;
	return SECTION_ID + 1 + name + SECTION_REST;
}

/* What is behind the section whose data begins at @p; NULL: nothing that fits. */
static const uint8_t *section_end(const uint8_t *p, const uint8_t *end, const uint8_t *id)
{
	uint8_t footer[SECTION_ID] = { RAMSTREAM_FOOTER };

	memcpy(footer + 1, id, SECTION_ID - 1);
	while ((p = memmem(p, (size_t)(end - p), footer, sizeof(footer)))) {
		p += sizeof(footer);
		if ((end - p == 1 && *p == RAMSTREAM_EOF) || section_head(p, (size_t)(end - p)))
			return p;
	}
	return NULL;
}

uint64_t devstate_sections(const uint8_t *state, size_t len)
{
	const uint8_t *p = state + 8, *end = state + len;
	uint64_t digest = 1;
	struct why why;
	size_t head;

	if (devstate_check(state, len, &why))
		return 0;
	while (p && end - p > 1) {
		head = section_head(p, (size_t)(end - p));
		if (!head)
			return 0;
		digest = XXH3_64bits_withSeed(p, head, digest);
		p = section_end(p + head, end, p + 1);
	}
	return p ? digest : 0;
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
	struct json_object *args = qmp_args("uri", "fd:" FD_NAME);
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
			if (!poll(&pfd, 1, deadline_left(deadline)))
				return why_set(why, ETIMEDOUT, "the standby's QEMU did not take the device state in time");
		}
	}
	return got ? why_set(why, errno, "read: %s", strerror(errno)) : 0;
}

int devstate_load(struct qmp *q, int fd, unsigned int timeout_ms, struct why *why)
{
	int64_t deadline = deadline_in(timeout_ms);
	char status[32], detail[256];
	struct migration_settings old;
	int pair[2], ret;

	if (lseek(fd, 0, SEEK_SET))
		return why_set(why, errno, "lseek: %s", strerror(errno));
	/* Through a socket: QEMU deprecates fd: with a file. */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return why_set(why, errno, "socketpair: %s", strerror(errno));
	ret = migration_load_settings(q, &old, why);
	if (ret)
		goto out_pair;
	ret = qmp_command_fd(q, "getfd", qmp_args("fdname", FD_NAME), pair[0], NULL, why);
	if (ret)
		goto out;
	ret = migrate_incoming(q, why);
	if (ret) {
		qmp_command(q, "closefd", qmp_args("fdname", FD_NAME), NULL, NULL);
		goto out;
	}
	close(pair[0]);
	pair[0] = -1;
	ret = push_stream(fd, pair[1], deadline, why);
	close(pair[1]);
	pair[1] = -1;
	if (ret)
		goto out;
	ret = migration_wait(q, deadline, status, sizeof(status), why);
	if (ret == -EPIPE)
		why_set(why, EPIPE, "the standby's QEMU exited while it loaded the device state: its own output says why (is its command line the primary's?)");
	if (ret)
		goto out;
	if (strcmp(status, "completed")) {
		qmp_query_string(q, "query-migrate", "error-desc", detail, sizeof(detail), NULL);
		ret = why_set(why, EREMOTEIO, "the standby's QEMU refused the device state: %s",
			      detail[0] ? detail : status);
	}
out:
	if (ret != -EPIPE && ret != -ETIMEDOUT)
		migration_restore(q, &old, NULL);
	else
		migration_forget(&old);
out_pair:
	for (int i = 0; i < 2; i++)
		if (pair[i] >= 0)
			close(pair[i]);
	return ret;
}
