// SPDX-License-Identifier: GPL-2.0
/*
 * guard: on in this order, off in the mirror's.
 */
#include <errno.h>
#include <inttypes.h>

#include "devstate.h"
#include "guard.h"
#include "refuse.h"
#include "report.h"

#define GUARD_CAPTURE_MS	15000u
/* The layout may change again while it is being read. */
#define GUARD_LAYOUT_TRIES	5

int guard_layout(struct guard *guard, struct why *why)
{
	int err = -ESTALE;
	unsigned int i;

	for (i = 0; err == -ESTALE && i < GUARD_LAYOUT_TRIES; i++) {
		err = session_layout(&guard->session, why);
		if (!err)
			err = ramblock_place(guard->blocks, guard->qmp, guard->session.slots,
					     guard->session.nr_slots, why);
	}
	return err;
}

/* Whether each tap has its plug: they may have changed since the last time. */
static bool guard_plugged(const struct guard *guard, const struct procvm *vm)
{
	unsigned int i;

	if (guard->nr_plugs != vm->nr_taps)
		return false;
	for (i = 0; i < guard->nr_plugs; i++)
		if (plug_tap_index(guard->plugs[i]) != vm->taps[i].ifindex)
			return false;
	return true;
}

int guard_same_devices(struct guard *guard, struct why *why)
{
	struct procvm vm = *guard->vm;
	struct devices now;
	const char *device;
	bool ours;
	int err;

	err = devices_read(&now, guard->qmp, why);
	if (!err) {
		device = devices_differ(&now, guard->devices, &ours);
		if (device)
			err = why_set(why, ENXIO, "device %s was %s the guest", device,
				      ours ? "plugged into" : "taken out of");
	}
	devices_free(&now);
	/* One with the same name may have another tap behind it, or another disk. */
	if (!err)
		err = procvm_look(&vm, why);
	if (!err && !guard_plugged(guard, &vm))
		err = why_set(why, ENXIO, "the guest has another tap");
	return err ? err : refuse_check(guard->qmp, &vm, REFUSE_PROTECTED, why);
}

static void guard_unplug(struct guard *guard)
{
	while (guard->nr_plugs)
		plug_close(guard->plugs[--guard->nr_plugs], true, NULL);
}

static int guard_plug(struct guard *guard, struct why *why)
{
	unsigned int i;
	int err;

	if (guard_plugged(guard, guard->vm))
		return 0;
	if (guard->holding)
		return why_set(why, EBUSY, "the VM's taps have changed while output is held");
	guard_unplug(guard);
	for (i = 0; i < guard->vm->nr_taps; i++) {
		const char *tap = guard->vm->taps[i].ifname;

		err = plug_cleanup(tap, why);
		if (err < 0)
			goto unplug;
		if (err)
			report_warn("removed what a killed agent had left on %s", tap);
		guard->plugs[i] = plug_open(tap, why);
		if (!guard->plugs[i]) {
			err = -errno;
			goto unplug;
		}
		guard->nr_plugs++;
		report_phase("output of %s goes through %s", tap, plug_ifb(guard->plugs[i]));
	}
	return 0;
unplug:
	guard_unplug(guard);
	return err;
}

int guard_attach(struct guard *guard, struct why *why)
{
	int err;

	err = devstate_capture(guard->qmp, guard->blocks, guard->vm->pid, GUARD_CAPTURE_MS, why);
	if (err)
		return err;
	err = session_attach(&guard->session, guard->vm->pid, guard->ring_slots,
			     guard->attach_flags, why);
	if (err)
		goto free_copies;
	if (guard->worker_cpus->text) {
		err = session_place(&guard->session, guard->worker_cpus, why);
		if (err)
			goto detach;
	}
	err = guard_layout(guard, why);
	if (err)
		goto detach;
	err = guard_plug(guard, why);
	if (err)
		goto detach;
	report_phase("attached: pid %d (%s), %u vCPUs, %" PRIu64 " MiB%s", guard->vm->pid,
		     guard->vm->comm, guard->session.nr_vcpus, guard->session.ram_bytes >> 20,
		     guard->nr_plugs ? "" : ", no network");
	report_phase("%s", guard->session.tracking);
	report_event("attached", "pid:u vcpus:u ram_bytes:u taps:u tracking:s",
		     (uint64_t)guard->vm->pid, (uint64_t)guard->session.nr_vcpus,
		     guard->session.ram_bytes, (uint64_t)guard->nr_plugs,
		     guard->session.tracking);
	return 0;
detach:
	session_detach(&guard->session);
free_copies:
	ramblock_free_copies(guard->blocks);
	return err;
}

int guard_hold(struct guard *guard, struct why *why)
{
	unsigned int i;
	int err;

	/* Where a later one fails, the first ones hold already. */
	guard->holding = true;
	for (i = 0; i < guard->nr_plugs; i++) {
		err = plug_buffer(guard->plugs[i], why);
		if (err)
			return err;
	}
	guard->closed = true;
	return 0;
}

int guard_commit(struct guard *guard, struct why *why)
{
	unsigned int i;
	int ret = 0;

	if (!guard->closed)
		return 0;
	guard->closed = false;
	for (i = 0; i < guard->nr_plugs; i++) {
		int err = plug_release_one(guard->plugs[i], why);

		if (err && !ret)
			ret = err;
	}
	return ret;
}

int guard_let_go(struct guard *guard, struct why *why)
{
	unsigned int i;
	int ret = 0;

	guard->closed = false;
	for (i = 0; i < guard->nr_plugs; i++) {
		int err = plug_release_all(guard->plugs[i], why);

		if (err && !ret)
			ret = err;
	}
	guard->holding = ret != 0;
	return ret;
}

/* Packets and bytes held in all plugs. */
static void guard_held(struct guard *guard, struct plug_held *held)
{
	struct plug_held one;
	unsigned int i;

	*held = (struct plug_held) { 0 };
	for (i = 0; i < guard->nr_plugs; i++) {
		if (plug_held(guard->plugs[i], &one, NULL))
			continue;
		held->packets += one.packets;
		held->bytes += one.bytes;
		held->drops += one.drops;
	}
}

void guard_status(struct guard *guard, struct json_object *o)
{
	struct plug_held held;

	guard_held(guard, &held);
	if (guard->worker_cpus->text)
		json_object_object_add(o, "worker-cpus",
				       json_object_new_string(guard->worker_cpus->text));
	json_object_object_add(o, "output", json_object_new_string(guard_output(guard)));
	json_object_object_add(o, "held-packets", json_object_new_uint64(held.packets));
	json_object_object_add(o, "held-bytes", json_object_new_uint64(held.bytes));
	json_object_object_add(o, "dropped-packets", json_object_new_uint64(held.drops));
	if (guard->session.tracking[0])
		json_object_object_add(o, "guest-stores",
				       json_object_new_string(guard->session.tracking));
}

const char *guard_output(const struct guard *guard)
{
	return guard->holding ? "held" : "flows";
}

void guard_detach(struct guard *guard)
{
	session_detach(&guard->session);
	ramblock_free_copies(guard->blocks);
}

int guard_close(struct guard *guard, bool release, struct why *why)
{
	int ret = 0;

	while (guard->nr_plugs) {
		int err = plug_close(guard->plugs[--guard->nr_plugs], release, why);

		if (err && !ret)
			ret = err;
	}
	guard->closed = false;
	guard->holding = false;
	guard_detach(guard);
	return ret;
}
