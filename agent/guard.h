/* SPDX-License-Identifier: GPL-2.0 */
/*
 * guard: everything that the primary has put on its VM: the module's session,
 * the names of its memory, the plugs on its taps.
 */
#ifndef VMREPL_GUARD_H
#define VMREPL_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

#include "devices.h"
#include "plug.h"
#include "procvm.h"
#include "qmp.h"
#include "ramblock.h"
#include "session.h"
#include "why.h"

/**
 * struct guard - on one VM
 * @vm, @qmp, @blocks, @devices: belong to the owner
 * @ring_slots, @attach_flags: for the module
 * @worker_cpus: for its workers, where it has a text
 * @session:  the module's
 * @nr_plugs, @plugs: one for each tap; they outlive the session
 * @closed:   a segment is closed and waits for its epoch's commit
 * @holding:  output is held, by some of the plugs at least
 */
struct guard {
	const struct procvm *vm;
	struct qmp *qmp;
	struct ramblock_table *blocks;
	const struct devices *devices;
	uint32_t ring_slots;
	uint32_t attach_flags;
	const struct cpulist *worker_cpus;
	struct session session;
	unsigned int nr_plugs;
	struct plug *plugs[PROCVM_TAPS];
	bool closed;
	bool holding;
};

/**
 * guard_attach() - put all of it on
 *
 * Captures the small blocks, attaches the module, takes the layout over, and puts
 * a plug on each tap (output flows until guard_hold()). Plugs that are there
 * already stay, unless @vm has other taps now. What a killed agent left on the
 * taps is removed first. Blocks for some 0.1 s. On errors no session stays.
 */
int guard_attach(struct guard *guard, struct why *why);

/* The layout changed: takes it over. Nothing may be armed on the QMP socket. */
int guard_layout(struct guard *guard, struct why *why);

/*
 * Whether the VM has the devices that the standby was told of, and the taps that have
 * plugs, and nothing that is refused. Nothing may be armed on the QMP socket. Errors:
 * ENXIO, one has come or gone; as devices_read(), procvm_look(), refuse_check().
 */
int guard_same_devices(struct guard *guard, struct why *why);

/*
 * Closes the plugs' filling segments: what the guest sent until now goes with
 * the next guard_commit(). The guest stands. Errors: as plug_buffer(); some of the
 * plugs may hold then.
 */
int guard_hold(struct guard *guard, struct why *why);
/* Lets the closed segments go. */
int guard_commit(struct guard *guard, struct why *why);
/*
 * Lets everything go, and what comes. On errors @holding stays true: call it
 * again, what was let go already does not mind.
 */
int guard_let_go(struct guard *guard, struct why *why);
/* What the user is shown of output: "held" or "flows". */
const char *guard_output(const struct guard *guard);
/* Adds output, held-packets, held-bytes and dropped-packets to @o. */
void guard_status(struct guard *guard, struct json_object *o);

/* Detaches the module; plugs stay as they are. */
void guard_detach(struct guard *guard);
/*
 * Detaches and takes the plugs away. @release: what is held goes out; else it
 * is dropped.
 */
int guard_close(struct guard *guard, bool release, struct why *why);

#endif /* VMREPL_GUARD_H */
