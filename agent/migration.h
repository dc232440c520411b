/* SPDX-License-Identifier: GPL-2.0 */
/*
 * migration: QEMU's migration as others may find it set and running, our
 * settings for a capture or a load, and the way back to theirs.
 */
#ifndef AGENT_MIGRATION_H
#define AGENT_MIGRATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qmp.h"
#include "why.h"

/**
 * struct migration_settings - what to put back
 * @caps:	capabilities that we changed, as they were
 * @bandwidth:	bytes a second
 * @downtime:	milliseconds
 * @fast:	the two above were changed
 */
struct migration_settings {
	struct json_object *caps;
	int64_t bandwidth;
	int64_t downtime;
	bool fast;
};

/**
 * migration_capture_settings - plain stream, without shared RAM, at full speed
 *
 * Also forgets what an agent left that was killed during its capture. Errors
 * (nothing has changed then) as qmp_command().
 */
int migration_capture_settings(struct qmp *q, struct migration_settings *old, struct why *why);

/**
 * migration_load_settings - plain stream, for the receiving side
 */
int migration_load_settings(struct qmp *q, struct migration_settings *old, struct why *why);

/* Puts them back and frees @old, also where that fails. */
int migration_restore(struct qmp *q, struct migration_settings *old, struct why *why);

/* Frees @old; for a QEMU that is gone. */
void migration_forget(struct migration_settings *old);

/**
 * migration_status - "none", "active", "completed", ...
 */
int migration_status(struct qmp *q, char *status, size_t size, struct why *why);

/* Is it a status of a migration that goes on? */
bool migration_busy(const char *status);

/**
 * migration_wait - wait for the end of a migration
 * @deadline:	deadline.h
 * @status:	gets how it ended
 *
 * One must have been started, and one of the settings above be on (events). Errors as qmp_command(); ETIMEDOUT.
 */
int migration_wait(struct qmp *q, int64_t deadline, char *status, size_t size, struct why *why);

/**
 * migration_resume - let the guest run after a migration that is over
 *
 * Unless somebody else has stopped it.
 */
int migration_resume(struct qmp *q, struct why *why);

#endif /* AGENT_MIGRATION_H */
