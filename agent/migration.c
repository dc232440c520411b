// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU's migration: settings, state, and the guest afterwards.
 */
#include <errno.h>

#include "deadline.h"
#include "migration.h"

/* Longest wait for QEMU to come out of a migration that is over, ms. */
#define SETTLE_MS		5000

/*
 * While the capture runs: as fast as it goes, and never stop the guest in order
 * to send the rest. The bandwidth is a number that nobody else would set.
 */
#define CAPTURE_BANDWIDTH	INT64_C(0x766d7265706c)
#define CAPTURE_DOWNTIME	0

/* QEMU's own defaults. */
#define DEFAULT_BANDWIDTH	(INT64_C(128) << 20)
#define DEFAULT_DOWNTIME	300

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
	struct json_object *cap = qmp_args("capability", name);

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

static int set_speed(struct qmp *q, int64_t bandwidth, int64_t downtime, struct why *why)
{
	struct json_object *args = json_object_new_object();

	json_object_object_add(args, "max-bandwidth", json_object_new_int64(bandwidth));
	json_object_object_add(args, "downtime-limit", json_object_new_int64(downtime));
	return qmp_command(q, "migrate-set-parameters", args, NULL, why);
}

static int query_speed(struct qmp *q, struct migration_settings *is, struct why *why)
{
	struct json_object *ret, *o;
	int err;

	err = qmp_command(q, "query-migrate-parameters", NULL, &ret, why);
	if (err)
		return err;
	is->bandwidth = DEFAULT_BANDWIDTH;
	is->downtime = DEFAULT_DOWNTIME;
	if (json_object_object_get_ex(ret, "max-bandwidth", &o))
		is->bandwidth = json_object_get_int64(o);
	if (json_object_object_get_ex(ret, "downtime-limit", &o))
		is->downtime = json_object_get_int64(o);
	json_object_put(ret);
	return 0;
}

/*
 * An agent that was killed during its capture has left its settings. The
 * operator's are lost, but x-ignore-shared must not stay on: a later migration
 * would come without the guest's memory.
 */
static int forget_killed(struct qmp *q, struct migration_settings *is, struct why *why)
{
	struct json_object *caps;
	int err;

	if (is->bandwidth != CAPTURE_BANDWIDTH)
		return 0;
	caps = json_object_new_array();
	add_cap(caps, "events", false);
	add_cap(caps, "x-ignore-shared", false);
	err = set_caps(q, caps, why);
	if (err)
		return err;
	is->bandwidth = DEFAULT_BANDWIDTH;
	is->downtime = DEFAULT_DOWNTIME;
	return set_speed(q, is->bandwidth, is->downtime, why);
}

int migration_capture_settings(struct qmp *q, struct migration_settings *old, struct why *why)
{
	int err;

	*old = (struct migration_settings){ .caps = NULL };
	err = query_speed(q, old, why);
	if (!err)
		err = forget_killed(q, old, why);
	/* The speed first: it is the mark of who changed the rest. */
	if (!err)
		err = set_speed(q, CAPTURE_BANDWIDTH, CAPTURE_DOWNTIME, why);
	if (err)
		return err;
	old->fast = true;
	err = plain_caps(q, true, &old->caps, why);
	if (err)
		migration_restore(q, old, NULL);
	return err;
}

int migration_load_settings(struct qmp *q, struct migration_settings *old, struct why *why)
{
	*old = (struct migration_settings){ .caps = NULL };
	return plain_caps(q, false, &old->caps, why);
}

int migration_restore(struct qmp *q, struct migration_settings *old, struct why *why)
{
	int ret = 0, err;

	if (old->caps)
		ret = set_caps(q, old->caps, why);
	old->caps = NULL;
	if (!old->fast)
		return ret;
	err = set_speed(q, old->bandwidth, old->downtime, ret ? NULL : why);
	return ret ? ret : err;
}

void migration_forget(struct migration_settings *old)
{
	json_object_put(old->caps);
	old->caps = NULL;
}

int migration_status(struct qmp *q, char *status, size_t size, struct why *why)
{
	return qmp_query_string(q, "query-migrate", "status", status, size, why);
}

bool migration_busy(const char *status)
{
	static const char *const over[] = { "", "none", "completed", "failed", "cancelled" };

	for (size_t i = 0; i < sizeof(over) / sizeof(over[0]); i++)
		if (!strcmp(status, over[i]))
			return false;
	return true;
}

int migration_wait(struct qmp *q, int64_t deadline, char *status, size_t size, struct why *why)
{
	int err;

	for (;;) {
		err = migration_status(q, status, size, why);
		if (err)
			return err;
		/* QEMU has no status yet until it takes up an incoming stream. */
		if (status[0] && strcmp(status, "none") && !migration_busy(status))
			return 0;
		err = qmp_wait_event(q, "MIGRATION", (unsigned int)deadline_left(deadline), NULL,
				     why);
		if (err == -ETIMEDOUT)
			return why_set(why, ETIMEDOUT, "QEMU's migration is still \"%s\"",
				       status[0] ? status : "none");
		if (err)
			return err;
	}
}

int migration_resume(struct qmp *q, struct why *why)
{
	int64_t deadline = deadline_in(SETTLE_MS);
	char status[32];
	int err;

	for (;;) {
		err = qmp_query_string(q, "query-status", "status", status, sizeof(status), why);
		if (err || !strcmp(status, "running"))
			return err;
		if (!strcmp(status, "postmigrate"))
			return qmp_command(q, "cont", NULL, NULL, why);
		/* Somebody else has stopped it meanwhile. */
		if (strcmp(status, "finish-migrate"))
			return 0;
		/* On its way to postmigrate, or back to running. */
		if (!deadline_left(deadline))
			return why_set(why, ETIMEDOUT, "the guest is still stopped for a migration");
		err = qmp_wait_event(q, "RESUME", 20, NULL, why);
		if (err && err != -ETIMEDOUT)
			return err;
	}
}
