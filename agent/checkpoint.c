// SPDX-License-Identifier: GPL-2.0
/*
 * checkpoint: a small pipe holds the guest, a large one lets it go fast.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checkpoint.h"

/* A page: less than any machine's device state. */
#define CHECKPOINT_PIPE_SMALL	4096
#define CHECKPOINT_PIPE_LARGE	(1 << 20)
/* Far more than any machine's; mapped and touched at once, so that it is there. */
#define CHECKPOINT_STATE_ROOM	(16u << 20)
#define CHECKPOINT_STATE_MAX	(256u << 20)

static void checkpoint_readable(void *arg, int res);

int checkpoint_open(struct checkpoint *cp, struct loop *loop, struct qmp *qmp, struct why *why)
{
	int err;

	cp->loop = loop;
	cp->qmp = qmp;
	cp->phase = CHECKPOINT_IDLE;
	cp->op = NULL;
	cp->len = 0;
	cp->room = CHECKPOINT_STATE_ROOM;
	if (pipe2(cp->pipe, O_CLOEXEC | O_NONBLOCK)) {
		err = errno;
		cp->pipe[0] = -1;
		cp->pipe[1] = -1;
		return why_set(why, err, "cannot make a pipe: %s", strerror(err));
	}
	/* QEMU opens it anew by name, blocking: our flag is not inherited. */
	cp->state = mmap(NULL, cp->room, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (cp->state == MAP_FAILED) {
		cp->state = NULL;
		return why_set(why, ENOMEM, "no memory for the device state");
	}
	return 0;
}

/* Without a reader QEMU's write fails, and it lets the guest go on. */
static void checkpoint_hang_up(struct checkpoint *cp)
{
	loop_cancel(cp->loop, cp->op);
	cp->op = NULL;
	loop_timer_cancel(cp->loop, &cp->timer);
	if (cp->pipe[0] < 0)
		return;
	close(cp->pipe[0]);
	close(cp->pipe[1]);
	cp->pipe[0] = -1;
	cp->pipe[1] = -1;
}

void checkpoint_close(struct checkpoint *cp)
{
	if (!cp->loop)
		return;
	checkpoint_hang_up(cp);
	if (cp->state)
		munmap(cp->state, cp->room);
	memset(cp, 0, sizeof(*cp));
}

bool checkpoint_busy(const struct checkpoint *cp)
{
	return cp->phase >= CHECKPOINT_FIRED;
}

static void checkpoint_done(struct checkpoint *cp, int err)
{
	uint64_t took = loop_now() - cp->fired_at;

	loop_cancel(cp->loop, cp->op);
	cp->op = NULL;
	loop_timer_cancel(cp->loop, &cp->timer);
	cp->phase = CHECKPOINT_IDLE;
	cp->pause_ns = took;
	if (cp->resume_us > cp->stop_us && cp->stop_us)
		cp->pause_ns = (cp->resume_us - cp->stop_us) * NSEC_PER_USEC;
	/* QEMU tells the wall clock, which somebody may have set meanwhile. */
	if (cp->pause_ns > took)
		cp->pause_ns = took;
	/* Nobody waited for us. */
	if (cp->stands)
		cp->pause_ns = 0;
	cp->done(cp->arg, err, &cp->why);
}

void checkpoint_forget(struct checkpoint *cp)
{
	if (!checkpoint_busy(cp))
		return;
	checkpoint_hang_up(cp);
	cp->phase = CHECKPOINT_IDLE;
}

int checkpoint_arm(struct checkpoint *cp, struct why *why)
{
	struct json_object *args;
	char path[64];
	int err;

	if (cp->phase != CHECKPOINT_IDLE)
		return 0;
	if (cp->pipe[1] < 0)
		return why_set(why, EPIPE, "a checkpoint was given up before");
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getpid(), cp->pipe[1]);
	args = json_object_new_object();
	json_object_object_add(args, "filename", json_object_new_string(path));
	json_object_object_add(args, "live", json_object_new_boolean(0));
	err = qmp_arm(cp->qmp, "xen-save-devices-state", args, why);
	if (!err)
		cp->phase = CHECKPOINT_ARMED;
	return err;
}

int checkpoint_disarm(struct checkpoint *cp, struct why *why)
{
	if (cp->phase != CHECKPOINT_ARMED)
		return 0;
	cp->phase = CHECKPOINT_IDLE;
	return qmp_disarm(cp->qmp, why);
}

static void checkpoint_late(void *arg)
{
	struct checkpoint *cp = arg;

	/* QEMU stood still as well. */
	if (loop_timer_overslept(cp->loop, &cp->timer, CHECKPOINT_NS))
		return;
	why_set(&cp->why, ETIMEDOUT, cp->phase == CHECKPOINT_FIRED ?
		"QEMU has not begun to save its device state within %u s; see what its disks wait for" :
		"QEMU has not finished saving its device state within %u s, although all of it was taken",
		(unsigned int)(CHECKPOINT_NS / NSEC_PER_SEC));
	checkpoint_hang_up(cp);
	checkpoint_done(cp, -ETIMEDOUT);
}

int checkpoint_fire(struct checkpoint *cp, struct why *why)
{
	int err;

	if (fcntl(cp->pipe[1], F_SETPIPE_SZ, CHECKPOINT_PIPE_SMALL) < 0)
		return why_set(why, errno, "cannot make the pipe small: %s", strerror(errno));
	cp->len = 0;
	cp->answered = false;
	cp->failed = false;
	cp->stop_us = 0;
	cp->resume_us = 0;
	/* Unless the last that QEMU says before its answer is that it runs. */
	cp->stands = true;
	cp->why.text[0] = '\0';
	cp->phase = CHECKPOINT_FIRED;
	cp->fired_at = loop_now();
	cp->op = loop_poll(cp->loop, cp->pipe[0], POLLIN, checkpoint_readable, cp);
	cp->timer.fn = checkpoint_late;
	cp->timer.arg = cp;
	loop_timer_set(cp->loop, &cp->timer, CHECKPOINT_NS);
	err = qmp_fire(cp->qmp);
	if (err) {
		loop_cancel(cp->loop, cp->op);
		cp->op = NULL;
		loop_timer_cancel(cp->loop, &cp->timer);
		cp->phase = CHECKPOINT_IDLE;
		return why_set(why, -err, "QEMU takes no command: %s", strerror(-err));
	}
	return 0;
}

/* Reads what is there. Returns 0 or -errno. */
static int checkpoint_drain(struct checkpoint *cp)
{
	for (;;) {
		ssize_t n;

		if (cp->len == cp->room) {
			size_t room = cp->room * 2;
			void *more;

			if (room > CHECKPOINT_STATE_MAX)
				return why_set(&cp->why, EFBIG,
					       "QEMU's device state is larger than %u MiB",
					       CHECKPOINT_STATE_MAX >> 20);
			more = mremap(cp->state, cp->room, room, MREMAP_MAYMOVE);
			if (more == MAP_FAILED)
				return why_set(&cp->why, ENOMEM, "no memory for the device state");
			cp->state = more;
			cp->room = room;
		}
		n = read(cp->pipe[0], cp->state + cp->len, cp->room - cp->len);
		if (n > 0)
			cp->len += (size_t)n;
		else if (n < 0 && errno == EINTR)
			continue;
		else
			return 0;
	}
}

static void checkpoint_pump(struct checkpoint *cp)
{
	int err = checkpoint_drain(cp);

	if (err) {
		/* The guest must not wait for what we do not take. */
		cp->failed = true;
		cp->len = 0;
	}
	if (cp->answered) {
		/* All of it fitted into the small pipe: QEMU did not have to wait for us. */
		if (!cp->failed && cp->len <= CHECKPOINT_PIPE_SMALL) {
			cp->failed = true;
			why_set(&cp->why, EIO, "QEMU's device state is too small to hold the guest");
		}
		checkpoint_done(cp, cp->failed ? -EIO : 0);
		return;
	}
	if (!cp->op)
		cp->op = loop_poll(cp->loop, cp->pipe[0], POLLIN, checkpoint_readable, cp);
}

static void checkpoint_readable(void *arg, int res)
{
	struct checkpoint *cp = arg;

	cp->op = NULL;
	if (res < 0) {
		why_set(&cp->why, EIO, "cannot watch QEMU's device state: %s", strerror(-res));
		checkpoint_hang_up(cp);
		checkpoint_done(cp, -ETIMEDOUT);
	} else if (cp->phase == CHECKPOINT_FIRED) {
		cp->phase = CHECKPOINT_STOPPED;
		/* From here on the time is the owner's, not QEMU's. */
		loop_timer_cancel(cp->loop, &cp->timer);
		cp->stopped(cp->arg);
	} else if (cp->phase == CHECKPOINT_RESUMING) {
		checkpoint_pump(cp);
	}
}

void checkpoint_resume(struct checkpoint *cp)
{
	if (cp->phase != CHECKPOINT_STOPPED)
		return;
	cp->phase = CHECKPOINT_RESUMING;
	loop_timer_set(cp->loop, &cp->timer, CHECKPOINT_NS);
	/* Only speed: where it fails, the small one works as well. */
	fcntl(cp->pipe[1], F_SETPIPE_SZ, CHECKPOINT_PIPE_LARGE);
	checkpoint_pump(cp);
}

/* Microseconds of an event's timestamp, 0 where it has none. */
static uint64_t checkpoint_event_us(struct json_object *event)
{
	struct json_object *stamp, *s, *us;

	if (!json_object_object_get_ex(event, "timestamp", &stamp) ||
	    !json_object_object_get_ex(stamp, "seconds", &s) ||
	    !json_object_object_get_ex(stamp, "microseconds", &us))
		return 0;
	return (uint64_t)json_object_get_int64(s) * 1000000u + (uint64_t)json_object_get_int64(us);
}

void checkpoint_message(struct checkpoint *cp, const struct qmp_msg *msg)
{
	if (!checkpoint_busy(cp))
		return;
	switch (msg->kind) {
	case QMP_MSG_EVENT:
		if (!strcmp(msg->name, "STOP")) {
			cp->stop_us = checkpoint_event_us(msg->body);
			cp->stands = true;
		} else if (!strcmp(msg->name, "RESUME")) {
			cp->resume_us = checkpoint_event_us(msg->body);
			cp->stands = false;
		}
		return;
	case QMP_MSG_ERROR:
		cp->failed = true;
		why_set(&cp->why, EIO, "QEMU cannot save its device state: %s", msg->text);
		break;
	case QMP_MSG_RETURN:
		break;
	}
	cp->answered = true;
	/*
	 * Answered before the first byte: it failed, or the pipe's byte has not
	 * been looked at yet. The guest runs in both cases.
	 */
	if (cp->phase == CHECKPOINT_FIRED && !cp->failed) {
		cp->failed = true;
		why_set(&cp->why, EIO, "QEMU's device state is too small to hold the guest");
	} else if (cp->phase == CHECKPOINT_STOPPED && !cp->failed) {
		cp->failed = true;
		why_set(&cp->why, EIO, "QEMU let the guest go on while its memory was being copied");
	}
	if (cp->phase != CHECKPOINT_STOPPED)
		checkpoint_pump(cp);
}
