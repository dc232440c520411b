// SPDX-License-Identifier: GPL-2.0
/*
 * primary: from "connected" to "protected", and what to do when the standby is
 * lost.
 *
 *	CONNECTING -> SYNCING -> SECURING -> PROTECTED
 *	     ^            |          |           |
 *	     |            v          v           v
 *	UNPROTECTED <- (LEAVING, FENCING: output stays held) -> end
 *
 * Held output is let go in three cases only: its epoch is acknowledged; the
 * standby has said that it will not take over (BYE, BYE_ACK) or never could;
 * the standby is off (fence), or cannot take over by itself (no fence command).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "confine.h"
#include "fence.h"
#include "guard.h"
#include "peer.h"
#include "primary.h"
#include "protect.h"
#include "report.h"
#include "retry.h"
#include "stop.h"
#include "vmm.h"
#include "watch.h"

/* Twice as long after each connection that came to nothing, up to this. */
#define PRIMARY_RETRY_MAX_NS	(10 * NSEC_PER_SEC)
/*
 * And where it came to a stall, up to so many times what the guest's output was held
 * for: a link that never carries a checkpoint must not hold the guest up all the time.
 */
#define PRIMARY_RETRY_STALLS	30u

#define PRIMARY_STREAMS_NS	(60 * NSEC_PER_SEC)

enum primary_state {
	PRIMARY_CONNECTING,
	PRIMARY_SYNCING,	/* live rounds */
	PRIMARY_SECURING,	/* checkpoints, none acknowledged yet */
	PRIMARY_PROTECTED,
	PRIMARY_FENCING,	/* standby lost, output held */
	PRIMARY_UNPROTECTED,	/* output flows; connecting again and again */
	PRIMARY_LEAVING,	/* BYE is said */
};

static const char *const primary_states[] = {
	[PRIMARY_CONNECTING]	= "connecting",
	[PRIMARY_SYNCING]	= "syncing",
	[PRIMARY_SECURING]	= "securing",
	[PRIMARY_PROTECTED]	= "protected",
	[PRIMARY_FENCING]	= "fencing",
	[PRIMARY_UNPROTECTED]	= "unprotected",
	[PRIMARY_LEAVING]	= "leaving",
};

struct primary {
	const struct options *options;
	struct loop *loop;
	struct vmm vmm;
	struct watch watch;
	struct stop stop;
	struct fence fence;
	struct guard guard;
	struct protect protect;
	struct peer peer;
	enum primary_state state;
	bool was_attached;	/* the first connection did its part */

	struct retry retry;
	uint64_t broken_at;	/* streams were lost; 0: never */
	bool streamless;	/* the next connection has none */
	char last_why[WHY_LEN];

	bool ending;		/* the program ends after LEAVING */
	bool vm_ended;
	bool leave_plugs;	/* told to end while output must stay held */
	int exit_code;
};

static void primary_settle(struct primary *p);
static void primary_still_unprotected(struct primary *p, const char *why);
static void primary_leave(struct primary *p, enum frame_bye_reason reason, const char *text,
			  bool ending, int code);

static void primary_set_state(struct primary *p, enum primary_state state)
{
	if (p->state == state)
		return;
	p->state = state;
	report_event("state", "state:s", primary_states[state]);
}

/* It is proven, or it was never in question, that nobody else runs the guest. */
static void primary_let_go(struct primary *p)
{
	struct why why;

	p->protect.can_promote = false;
	if (!p->guard.holding)
		return;
	if (guard_let_go(&p->guard, &why))
		report_warn("cannot release held output: %s", why.text);
	else
		report_event("released", "");
}

/* ---- what protect says ---- */

/*
 * What fails because QEMU is about to end is no failure: its process tells the rest in a
 * moment.
 */
static bool primary_ends(struct primary *p)
{
	if (!watch_hung_up(&p->watch))
		return false;
	protect_halt(&p->protect);
	return true;
}

static void primary_again(void *arg, const char *text)
{
	struct primary *p = arg;

	if (primary_ends(p))
		return;
	report_warn("%s: starting over with a new sync", text);
	report_event("resync", "why:s", text);
	primary_leave(p, FRAME_BYE_RESYNC, text, false, 0);
}

/*
 * It may be that the standby has all that it needs and only its answers are late. So
 * it is asked to give up its right, and what cannot be asked is fenced.
 */
static void primary_stalled(void *arg, const char *text)
{
	struct primary *p = arg;

	report_warn("%s: giving the standby up; the guest is NOT PROTECTED until it is synced again",
		    text);
	report_event("stalled", "why:s", text);
	retry_slower(&p->retry, PRIMARY_RETRY_STALLS * p->options->max_stall_ns);
	protect_halt(&p->protect);
	if (!p->protect.can_promote)
		primary_let_go(p);
	primary_leave(p, FRAME_BYE_RESYNC, text, false, 0);
}

/* Who has lost them twice in a while does without on the next connection. */
static void primary_broken(void *arg, const char *text)
{
	struct primary *p = arg;
	uint64_t now = loop_now();

	p->streamless = p->broken_at && now - p->broken_at < PRIMARY_STREAMS_NS;
	p->broken_at = now;
	if (p->streamless)
		report_warn("streams were lost twice within a minute: on the next connection pages go over that itself");
	primary_again(p, text);
}

static void primary_failed(void *arg, const char *text)
{
	struct primary *p = arg;

	if (primary_ends(p))
		return;
	report_error("%s", text);
	primary_leave(p, FRAME_BYE_ERROR, text, true, 1);
}

static void primary_idle(void *arg)
{
	primary_settle(arg);
}

static void primary_phased(void *arg)
{
	struct primary *p = arg;

	switch (p->protect.phase) {
	case PROTECT_OFF:
		break;
	case PROTECT_SYNCING:
		primary_set_state(p, PRIMARY_SYNCING);
		break;
	case PROTECT_SECURING:
		primary_set_state(p, PRIMARY_SECURING);
		break;
	case PROTECT_ON:
		primary_set_state(p, PRIMARY_PROTECTED);
		retry_soon(&p->retry);
		report_phase("protected: checkpoint %" PRIu64 " is complete on %s",
			     p->protect.acked.number, peer_name(&p->peer));
		report_event("protected", "epoch:u", p->protect.acked.number);
		break;
	}
}

static void primary_gone(void *arg, const char *why)
{
	struct primary *p = arg;

	watch_gone(&p->watch, why);
}

/* ---- connection ---- */

/*
 * Before a new connection touches the VM: what has changed in it since the last
 * one is checked as at the start.
 */
static bool primary_look_again(struct primary *p)
{
	struct why why;
	int err;

	qmp_set_timeout(p->vmm.qmp, QMP_TIMEOUT_MS);
	err = protect_disarm(&p->protect, &why);
	if (!err)
		err = vmm_look_again(&p->vmm, p->options, REFUSE_PRIMARY, &why);
	if (!err)
		return true;
	if (err == -EOPNOTSUPP) {
		retry_slower(&p->retry, PRIMARY_RETRY_MAX_NS);
		peer_close(&p->peer);
		primary_still_unprotected(p, why.text);
	} else {
		primary_failed(p, why.text);
	}
	return false;
}

static bool primary_up(void *arg)
{
	struct primary *p = arg;

	if (p->was_attached && !primary_look_again(p))
		return false;
	if (p->streamless)
		p->vmm.hello.streams = 0;
	p->streamless = false;
	return true;
}

/* The standby agrees: now the VM is touched. */
static bool primary_accepted(void *arg, uint64_t beat_ns)
{
	struct primary *p = arg;
	struct pagesums *sums;
	struct why why;
	uint64_t quarter;

	if (guard_attach(&p->guard, &why)) {
		if (primary_ends(p))
			return false;
		if (p->was_attached)
			report_warn("%s; trying again", why.text);
		else
			report_error("%s", why.text);
		retry_slower(&p->retry, PRIMARY_RETRY_MAX_NS);
		primary_leave(p, FRAME_BYE_ERROR, why.text, !p->was_attached, 1);
		return false;
	}
	/* A QEMU that does not answer must not make us look lost. */
	quarter = beat_ns * 2 / NSEC_PER_MSEC;
	qmp_set_timeout(p->vmm.qmp, quarter < QMP_TIMEOUT_MS ? (unsigned int)quarter :
			QMP_TIMEOUT_MS);
	if (p->was_attached)
		report_phase("attached again: syncing to %s", peer_name(&p->peer));
	p->was_attached = true;
	p->last_why[0] = '\0';
	sums = p->peer.sums;
	p->peer.sums = NULL;
	protect_start(&p->protect, p->peer.link, sums);
	return true;
}

static bool primary_acked(void *arg, uint64_t epoch)
{
	struct primary *p = arg;

	return protect_acked(&p->protect, epoch);
}

static void primary_left(void *arg, enum frame_bye_reason reason)
{
	struct primary *p = arg;

	/* It will not take over: no fence, whatever comes. */
	p->protect.can_promote = false;
	if (reason == FRAME_BYE_ERROR)
		retry_slower(&p->retry, PRIMARY_RETRY_MAX_NS);
}

static void primary_freed(void *arg)
{
	primary_let_go(arg);
}

static void primary_closed(void *arg)
{
	primary_settle(arg);
}

static void primary_connect(void *arg)
{
	struct primary *p = arg;

	/* Where letting it go has failed. */
	if (p->guard.holding && !p->protect.can_promote)
		primary_let_go(p);
	peer_connect(&p->peer, p->loop);
}

/* ---- the end of a connection ---- */

static void primary_fenced(void *arg)
{
	struct primary *p = arg;

	report_phase("fenced: the standby is off");
	primary_let_go(p);
	if (!p->ending) {
		primary_set_state(p, PRIMARY_UNPROTECTED);
		report_warn("UNPROTECTED: the guest goes on here alone; output %s",
			    guard_output(&p->guard));
	}
	primary_settle(p);
}

/* Trying again and again: only news is worth a line. */
static void primary_still_unprotected(struct primary *p, const char *why)
{
	if (strcmp(p->last_why, why))
		report_warn("still unprotected: %s", why);
	snprintf(p->last_why, sizeof(p->last_why), "%s", why);
	primary_settle(p);
}

/*
 * The connection has ended, with or without a goodbye. Output goes on only if
 * the standby cannot take over; what remains to be done is primary_settle()'s.
 */
static void primary_lost(void *arg, const char *why)
{
	struct primary *p = arg;
	bool leaving = p->state == PRIMARY_LEAVING;
	uint64_t silence = peer_silence(&p->peer);

	if (!p->was_attached && !leaving) {
		report_error("standby %s: %s", p->options->addr.text, why);
		p->exit_code = 1;
		p->ending = true;
		primary_set_state(p, PRIMARY_LEAVING);
		primary_settle(p);
		return;
	}
	protect_halt(&p->protect);
	if (p->state == PRIMARY_UNPROTECTED) {
		struct why text;

		/* It may come up at any moment. */
		if (!p->peer.agreed)
			retry_soon(&p->retry);
		why_set(&text, 0, "standby %s: %s", p->options->addr.text, why);
		primary_still_unprotected(p, text.text);
		return;
	}
	report_warn("lost the standby %s: %s", p->options->addr.text, why);
	report_event("lost", "why:s silence_us:u", why, silence / NSEC_PER_USEC);
	if (p->protect.can_promote && p->options->fence_command && !p->vm_ended) {
		primary_set_state(p, PRIMARY_FENCING);
		report_phase("output stays held until the fence command has switched the standby off");
		fence_start(&p->fence, 0);
		primary_settle(p);
		return;
	}
	if (!p->vm_ended)
		primary_let_go(p);
	if (!leaving) {
		primary_set_state(p, PRIMARY_UNPROTECTED);
		report_warn("UNPROTECTED: the guest goes on here alone, output %s; trying the standby again",
			    guard_output(&p->guard));
	}
	primary_settle(p);
}

/*
 * Says goodbye: protection ends in order, on this connection (@ending false) or
 * for good. The standby's answer, or its loss, comes next.
 */
static void primary_leave(struct primary *p, enum frame_bye_reason reason, const char *text,
			  bool ending, int code)
{
	if (ending) {
		p->ending = true;
		p->exit_code = code;
	}
	if (p->state == PRIMARY_LEAVING || p->state == PRIMARY_FENCING) {
		primary_settle(p);
		return;
	}
	protect_halt(&p->protect);
	if (!peer_leave(&p->peer, reason, text)) {
		primary_set_state(p, PRIMARY_LEAVING);
		primary_settle(p);
		return;
	}
	primary_set_state(p, PRIMARY_LEAVING);
}

/* Goes on when nothing is under way any more: the guest runs, no frame is out. */
static void primary_settle(struct primary *p)
{
	if (p->peer.link || protect_busy(&p->protect))
		return;
	guard_detach(&p->guard);
	/* A VM that has ended here may go on there: no reason to wait. */
	if (fence_active(&p->fence) && !p->vm_ended)
		return;
	if (p->ending) {
		if (p->was_attached && !p->vm_ended)
			report_phase("protection has ended; the guest goes on here, output %s",
				     guard_output(&p->guard));
		loop_stop(p->loop);
		return;
	}
	if (p->state == PRIMARY_LEAVING || p->state == PRIMARY_FENCING)
		primary_set_state(p, PRIMARY_UNPROTECTED);
	if (p->state == PRIMARY_UNPROTECTED)
		retry_later(&p->retry);
}

/* ---- what else happens ---- */

static void primary_vm_ended(void *arg)
{
	struct primary *p = arg;

	p->vm_ended = true;
	report_phase("the VM has ended");
	report_event("vm-ended", "");
	/* A standby that we cannot reach may take over: the guest is gone here. */
	fence_stop(&p->fence);
	retry_cancel(&p->retry);
	protect_halt(&p->protect);
	protect_forget(&p->protect);
	primary_leave(p, FRAME_BYE_VM_ENDED, "the VM ended by itself", true, 0);
}

static void primary_said(void *arg, const struct qmp_msg *msg)
{
	struct primary *p = arg;

	protect_message(&p->protect, msg);
}

static void primary_silent(void *arg)
{
	struct primary *p = arg;

	protect_halt(&p->protect);
	protect_forget(&p->protect);
}

static void primary_unwatched(void *arg, const char *why)
{
	report_error("%s; the guest is not protected any more", why);
	primary_leave(arg, FRAME_BYE_ERROR, why, true, 1);
}

static void primary_asked_to_stop(void *arg, unsigned int count)
{
	struct primary *p = arg;

	if (count > 1) {
		/* Told to end before it was clear who goes on: nothing goes out. */
		p->leave_plugs = p->guard.holding;
		p->exit_code = 1;
		loop_stop(p->loop);
		return;
	}
	report_phase("stopping");
	if (p->state == PRIMARY_FENCING)
		report_warn("output stays held until the standby is fenced; signal again to leave it so (vmrepl-agent release --vm %d drops it)",
			    p->vmm.proc.pid);
	retry_cancel(&p->retry);
	primary_leave(p, FRAME_BYE_STOP, "the primary's agent was stopped", true, 0);
}

static struct json_object *primary_status(struct primary *p)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "role", json_object_new_string("primary"));
	json_object_object_add(o, "vm", json_object_new_int(p->vmm.proc.pid));
	json_object_object_add(o, "state", json_object_new_string(primary_states[p->state]));
	peer_status(&p->peer, o);
	json_object_object_add(o, "protected",
			       json_object_new_boolean(p->state == PRIMARY_PROTECTED));
	if (p->state == PRIMARY_UNPROTECTED && p->last_why[0])
		json_object_object_add(o, "why", json_object_new_string(p->last_why));
	protect_status(&p->protect, o);
	guard_status(&p->guard, o);
	fence_status(&p->fence, o);
	json_object_object_add(o, "confined", json_object_new_boolean(confined()));
	return o;
}

static struct json_object *primary_command(void *arg, const char *cmd)
{
	if (!strcmp(cmd, "status"))
		return primary_status(arg);
	if (!strcmp(cmd, "promote"))
		return control_error("this is the primary: the guest runs here already");
	return control_error("there is no command '%s'", cmd);
}

static int primary_open(struct primary *p, struct why *why)
{
	unsigned int i;
	int err;

	err = vmm_open(&p->vmm, p->options, p->loop, REFUSE_PRIMARY, primary_command, p, why);
	if (err)
		return err;
	report_phase("VM found: pid %d (%s), QEMU %s, %s, %" PRIu64 " vCPUs, %" PRIu64
		     " MiB, QMP %s", p->vmm.proc.pid, p->vmm.proc.comm, p->vmm.hello.qemu,
		     p->vmm.hello.machine, p->vmm.hello.nr_vcpus, p->vmm.hello.ram_bytes >> 20,
		     p->vmm.qmp_path);
	for (i = 0; i < p->vmm.proc.nr_taps; i++)
		report_phase("tap found: %s", p->vmm.proc.taps[i].ifname);
	p->guard.vm = &p->vmm.proc;
	p->guard.qmp = p->vmm.qmp;
	p->guard.blocks = &p->vmm.hello.blocks;
	p->guard.devices = &p->vmm.hello.devices;
	p->guard.ring_slots = p->options->ring_slots;
	p->guard.attach_flags = p->options->attach_flags;
	p->guard.worker_cpus = &p->options->worker_cpus;
	session_init(&p->guard.session);
	p->protect.phased = primary_phased;
	p->protect.again = primary_again;
	p->protect.stalled = primary_stalled;
	p->protect.failed = primary_failed;
	p->protect.gone = primary_gone;
	p->protect.idle = primary_idle;
	p->protect.arg = p;
	err = protect_open(&p->protect, p->options, p->loop, p->vmm.qmp, &p->guard, why);
	if (err)
		return err;
	p->peer.up = primary_up;
	p->peer.accepted = primary_accepted;
	p->peer.acked = primary_acked;
	p->peer.left = primary_left;
	p->peer.freed = primary_freed;
	p->peer.lost = primary_lost;
	p->peer.broken = primary_broken;
	p->peer.closed = primary_closed;
	p->peer.arg = p;
	p->peer.hello = &p->vmm.hello;
	p->peer.options = p->options;
	snprintf(p->fence.peer, sizeof(p->fence.peer), "%s", p->options->addr.text);
	p->fence.success = primary_fenced;
	p->fence.arg = p;
	fence_open(&p->fence, p->loop);
	p->retry.timer.fn = primary_connect;
	p->retry.timer.arg = p;
	retry_open(&p->retry, p->loop);
	p->watch.said = primary_said;
	p->watch.silent = primary_silent;
	p->watch.ended = primary_vm_ended;
	p->watch.failed = primary_unwatched;
	p->watch.arg = p;
	p->watch.patience_ns = p->options->max_stall_ns;
	p->stop.asked = primary_asked_to_stop;
	p->stop.arg = p;
	err = stop_open(&p->stop, p->loop);
	if (err)
		return why_set(why, -err, "cannot watch for signals: %s", strerror(-err));
	watch_open(&p->watch, p->loop, &p->vmm);
	return 0;
}

static void primary_close(struct primary *p)
{
	struct why why;

	fence_close(&p->fence);
	peer_close(&p->peer);
	/* What is under way on the connection ends within a moment. */
	while (p->peer.link)
		loop_turn(p->loop, NSEC_PER_SEC);
	if (p->leave_plugs && p->guard.holding) {
		guard_detach(&p->guard);
		report_warn("output stays held; `vmrepl-agent release --vm %d` drops it and lets the guest out again",
			    p->vmm.proc.pid);
	} else if (guard_close(&p->guard, !p->guard.holding || !p->protect.can_promote, &why)) {
		report_warn("cannot take the plug away: %s", why.text);
	}
	watch_close(&p->watch);
	/* A checkpoint still under way must not keep the guest: its pipe goes. */
	qmp_close(p->vmm.qmp);
	p->vmm.qmp = NULL;
	protect_close(&p->protect);
	stop_close(&p->stop);
	vmm_close(&p->vmm);
	loop_free(p->loop);
}

int primary_run(const struct options *options, struct loop *loop, struct fencer *fencer)
{
	static struct primary p;
	struct why why = { .text = "" };

	p.options = options;
	p.loop = loop;
	p.fence.fencer = fencer;
	p.stop.fd = -1;
	p.guard.session.fd = -1;
	p.guard.blocks = &p.vmm.hello.blocks;
	if (primary_open(&p, &why)) {
		report_error("%s", why.text);
		p.exit_code = 1;
	} else {
		primary_connect(&p);
		loop_run(p.loop);
	}
	primary_close(&p);
	return p.exit_code;
}
