// SPDX-License-Identifier: GPL-2.0
/*
 * standby: one primary at a time; what came from it is in the store, and this
 * decides when the guest runs here.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "carrier.h"
#include "census.h"
#include "confine.h"
#include "fence.h"
#include "link.h"
#include "report.h"
#include "standby.h"
#include "stop.h"
#include "store.h"
#include "takeover.h"
#include "visitors.h"
#include "vmm.h"

/* A primary that prepares its first sync. */
#define STANDBY_PREPARE_NS	(60 * NSEC_PER_SEC)

enum standby_state {
	STANDBY_WAITING,
	STANDBY_SYNCING,
	STANDBY_READY,
	STANDBY_PAUSED,
	STANDBY_FENCING,
	STANDBY_PROMOTED,
};

static const char *const standby_states[] = {
	[STANDBY_WAITING]	= "waiting",
	[STANDBY_SYNCING]	= "syncing",
	[STANDBY_READY]		= "ready",
	[STANDBY_PAUSED]	= "primary-lost",
	[STANDBY_FENCING]	= "fencing",
	[STANDBY_PROMOTED]	= "promoted",
};

struct standby {
	const struct options *options;
	struct loop *loop;
	struct vmm vmm;
	struct stop stop;
	struct loop_op *vm_op;
	struct visitors visitors;
	struct visitor *primary;	/* the one that is connected */
	bool begun;			/* its first EPOCH_BEGIN came */
	bool left;			/* it said BYE, or we did: no loss, whatever comes */
	enum standby_state state;
	char peer[LINK_PEER_LEN];

	struct hello next;	/* of the connected primary until its first epoch */
	struct store store;
	struct census *census;	/* of what the connected primary wants to know */
	struct fence fence;
	uint64_t beat_ns;
	struct takeover takeover;
	bool leaving;		/* the goodbye was said */
	int exit_code;
};

static void standby_lost(struct standby *s, const char *why);

static void standby_set_state(struct standby *s, enum standby_state state)
{
	if (s->state == state)
		return;
	s->state = state;
	report_event("state", "state:s", standby_states[state]);
}

static void standby_end(struct standby *s, int code)
{
	s->exit_code = code;
	loop_stop(s->loop);
}

static void standby_end_census(struct standby *s)
{
	census_end(s->census);
	s->census = NULL;
}

static void standby_say_bye(struct standby *s, enum frame_bye_reason reason, const char *text)
{
	struct link *link = s->primary->link;

	standby_end_census(s);
	link_send_bye(link, reason, text);
	link_watch(link, s->options->timeout_ns / 8, s->options->timeout_ns);
}

/*
 * The primary lives and its epochs cannot be taken. To drop the connection would
 * make both sides fence; instead this one gives up its right, so that the guest
 * can go on there unprotected. What still comes is read and ignored, until the
 * primary has read this and ends the connection.
 */
static void standby_give_up(struct standby *s, const char *why)
{
	store_forget(&s->store);
	store_disconnected(&s->store);
	report_warn("cannot protect the guest of the primary at %s: %s; not taking over, waiting for a primary",
		    s->peer, why);
	report_event("refused", "peer:s why:s", s->peer, why);
	s->left = true;
	standby_set_state(s, STANDBY_WAITING);
	standby_say_bye(s, FRAME_BYE_ERROR, why);
}

/*
 * Ends the program. A primary must know that we will not take over before it may
 * go on without us, so it is told and its answer waited for.
 */
static void standby_leave(struct standby *s, enum frame_bye_reason reason, const char *text,
			  int code)
{
	store_forget(&s->store);
	s->exit_code = code;
	if (!s->primary || s->left || s->leaving) {
		loop_stop(s->loop);
		return;
	}
	s->leaving = true;
	standby_say_bye(s, reason, text);
	link_resume(s->primary->link);
}

/* Memory of the VM cannot be written any more: there is no standby then. */
static void standby_broken(void *arg, const struct why *why)
{
	report_error("%s", why->text);
	standby_leave(arg, FRAME_BYE_ERROR, why->text, 1);
}

static void standby_room(void *arg)
{
	struct standby *s = arg;

	if (s->primary)
		link_resume(s->primary->link);
}

/* Returns false where the frame has to wait for room. */
static bool standby_epoch_frame(struct standby *s, const struct frame *frame)
{
	struct link *link = s->primary->link;
	bool had = s->store.valid;
	struct why why;

	/* What it was told is no longer so. */
	standby_end_census(s);
	switch (store_frame(&s->store, frame, &s->next, &why)) {
	case STORE_LATER:
		return false;
	case STORE_MORE:
		if (s->begun)
			return true;
		/* Its first epoch: from here on it sends all the time. */
		s->begun = true;
		link_watch(link, s->beat_ns, s->options->timeout_ns);
		standby_set_state(s, STANDBY_SYNCING);
		report_phase("first sync from %s", s->peer);
		return true;
	case STORE_SYNCED:
	case STORE_DROPPED:
		link_send_copy(link, FRAME_ACK, frame->epoch, NULL, 0);
		return true;
	case STORE_COMMITTED:
		link_send_copy(link, FRAME_ACK, frame->epoch, NULL, 0);
		if (had)
			return true;
		standby_set_state(s, STANDBY_READY);
		report_phase("checkpoint %" PRIu64 " is complete: ready to take over",
			     s->store.number);
		return true;
	case STORE_REFUSED:
		break;
	}
	standby_give_up(s, why.text);
	return true;
}

/* What this VM holds is told where the primary wants to know, and it can be read. */
static bool standby_accept(struct standby *s)
{
	struct link *link = s->primary->link;
	char *answer;

	if (s->next.sums_key[0])
		s->census = census_new(s->loop, link, &s->store, &s->next.blocks,
				       s->next.sums_key);
	carrier_offer(link, s->beat_ns * 8, &s->next, &s->vmm.hello);
	answer = hello_write(&s->vmm.hello, s->census ? s->next.sums_key : NULL);
	if (!answer) {
		standby_end_census(s);
		return false;
	}
	link_watch(link, s->beat_ns, STANDBY_PREPARE_NS);
	link_send_copy(link, FRAME_ACCEPT, 0, answer, strlen(answer));
	free(answer);
	return true;
}

static bool standby_hello(void *arg, struct visitor *v, const struct frame *frame)
{
	struct standby *s = arg;
	struct hello hello;
	struct why why;

	if (s->state == STANDBY_PROMOTED) {
		visitors_refuse(v, "this standby was promoted and runs the guest itself");
		return false;
	}
	if (s->primary) {
		why_set(&why, EBUSY, "this standby serves another primary already, at %s", s->peer);
		visitors_refuse(v, why.text);
		return false;
	}
	if (fence_active(&s->fence)) {
		visitors_refuse(v, "this standby has lost its primary and is fencing it");
		return false;
	}
	/* What was plugged into the primary since may have been plugged in here too. */
	if (hello_parse(&hello, frame->payload, frame->length, &why) ||
	    vmm_look_again(&s->vmm, s->options, REFUSE_STANDBY, &why) ||
	    hello_match(&hello, &s->vmm.hello, &why)) {
		hello_free(&hello);
		visitors_refuse(v, why.text);
		return false;
	}
	hello_free(&s->next);
	s->next = hello;
	/* Often enough for both. */
	s->beat_ns = hello.timeout_ms * NSEC_PER_MSEC;
	if (s->options->timeout_ns < s->beat_ns)
		s->beat_ns = s->options->timeout_ns;
	s->beat_ns /= 8;
	s->primary = v;
	if (!standby_accept(s)) {
		s->primary = NULL;
		visitors_refuse(v, "this standby is out of memory");
		return false;
	}
	s->begun = false;
	s->left = false;
	store_connected(&s->store);
	snprintf(s->peer, sizeof(s->peer), "%s", link_peer(v->link));
	report_phase("primary %s: QEMU %s, %s, %" PRIu64 " vCPUs, %" PRIu64 " MiB", s->peer,
		     hello.qemu, hello.machine, hello.nr_vcpus, hello.ram_bytes >> 20);
	report_event("primary", "peer:s machine:s vcpus:u ram_bytes:u", s->peer, hello.machine,
		     hello.nr_vcpus, hello.ram_bytes);
	if (s->state == STANDBY_PAUSED)
		report_phase("the primary is back");
	return true;
}

static void standby_bye(struct standby *s, const struct frame *frame)
{
	char text[FRAME_TEXT_MAX + 1];

	frame_get_text(frame, text, sizeof(text));
	standby_end_census(s);
	store_forget(&s->store);
	s->left = true;
	link_send_copy(s->primary->link, FRAME_BYE_ACK, 0, NULL, 0);
	standby_set_state(s, STANDBY_WAITING);
	report_phase("the primary ended protection: %s; not taking over, waiting for a primary", text);
	report_event("bye", "reason:u text:s", (uint64_t)frame_get_bye(frame).reason, text);
}

static bool standby_frame(void *arg, struct visitor *v, const struct frame *frame)
{
	struct standby *s = arg;

	if (frame->type == FRAME_BYE_ACK && s->leaving) {
		loop_stop(s->loop);
		return true;
	}
	if (frame->type == FRAME_BYE_ACK && s->left) {
		link_close(v->link);
		return true;
	}
	if (s->left || s->leaving)
		return true;
	switch (frame->type) {
	case FRAME_EPOCH_BEGIN:
	case FRAME_PAGES:
	case FRAME_STATE:
	case FRAME_EPOCH_END:
		return standby_epoch_frame(s, frame);
	case FRAME_BYE:
		standby_bye(s, frame);
		return true;
	default: {
		struct why why;

		why_set(&why, EPROTO, "it sent %s, which is not for a standby",
			frame_name(frame->type));
		standby_give_up(s, why.text);
		return true;
	}
	}
}

/* Another connection of the primary's, for pages. */
static bool standby_join(void *arg, struct visitor *v, const struct frame *frame)
{
	struct standby *s = arg;

	return s->primary && !s->left && !s->leaving &&
	       link_adopt_lane(s->primary->link, v->link, frame);
}

/* It is not the primary that is lost: that one finds it out itself, and starts over. */
static void standby_lanes_lost(void *arg, struct visitor *v, const char *why)
{
	struct standby *s = arg;

	if (v != s->primary || s->left || s->leaving)
		return;
	report_warn("lost the streams of pages from %s: %s", s->peer, why);
	report_event("streams-lost", "peer:s why:s", s->peer, why);
}

static void standby_down(void *arg, struct visitor *v, const char *why)
{
	struct standby *s = arg;

	if (v != s->primary)
		return;
	s->takeover.silence = loop_now() - link_last_rx(v->link);
	standby_lost(s, why);
}

static void standby_closed(void *arg, struct visitor *v)
{
	struct standby *s = arg;

	if (s->primary != v)
		return;
	standby_end_census(s);
	s->primary = NULL;
}

static int standby_promote(struct standby *s, struct why *why)
{
	int err = takeover_run(&s->takeover, &s->vmm, &s->store, why);

	if (!err) {
		standby_set_state(s, STANDBY_PROMOTED);
		return 0;
	}
	report_error("cannot take over: %s", why->text);
	report_event("promote-failed", "why:s", why->text);
	standby_end(s, 1);
	return err;
}

static void standby_fenced(void *arg)
{
	struct standby *s = arg;
	struct why why;

	/* Its own VM, or its right to run it, may be gone since it was lost. */
	if (!s->store.valid)
		return;
	report_phase("fenced: the primary is off");
	standby_promote(s, &why);
}

/* The primary is gone without a goodbye. */
static void standby_lost(struct standby *s, const char *why)
{
	standby_end_census(s);
	s->primary = NULL;
	store_disconnected(&s->store);
	if (s->leaving)
		loop_stop(s->loop);
	if (s->left || s->leaving)
		return;
	report_warn("lost the primary at %s: %s", s->peer, why);
	report_event("lost", "peer:s why:s silence_us:u promotable:b", s->peer, why,
		     s->takeover.silence / NSEC_PER_USEC, s->store.valid);
	if (!s->store.valid) {
		standby_set_state(s, STANDBY_WAITING);
		report_warn("there was no complete checkpoint yet: waiting for the primary");
		return;
	}
	s->takeover.lost_at = loop_now();
	if (s->options->fence_command) {
		standby_set_state(s, STANDBY_FENCING);
		report_phase("fencing the primary in %" PRIu64 " ms",
			     s->options->fence_delay_ns / NSEC_PER_MSEC);
		snprintf(s->fence.peer, sizeof(s->fence.peer), "%s", s->peer);
		fence_start(&s->fence, s->options->fence_delay_ns);
		return;
	}
	standby_set_state(s, STANDBY_PAUSED);
	report_warn("the guest stays paused here at checkpoint %" PRIu64 ": without --fence-command "
		    "nobody knows whether it still runs there. If you know that it does not: "
		    "vmrepl-agent promote --vm %d", s->store.number, s->vmm.proc.pid);
}

static struct json_object *standby_status(struct standby *s)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "role", json_object_new_string("standby"));
	json_object_object_add(o, "vm", json_object_new_int(s->vmm.proc.pid));
	json_object_object_add(o, "state", json_object_new_string(standby_states[s->state]));
	json_object_object_add(o, "listen", json_object_new_string(s->options->addr.text));
	json_object_object_add(o, "key", json_object_new_string(link_key(&s->options->addr)));
	if (s->peer[0])
		json_object_object_add(o, "peer", json_object_new_string(s->peer));
	json_object_object_add(o, "connected", json_object_new_boolean(s->primary != NULL));
	carrier_status(s->primary ? s->primary->link : NULL, o);
	json_object_object_add(o, "promotable",
			       json_object_new_boolean(s->store.valid &&
						       s->state != STANDBY_PROMOTED));
	json_object_object_add(o, "checkpoint", json_object_new_uint64(s->store.number));
	json_object_object_add(o, "applied", json_object_new_boolean(store_applied(&s->store)));
	fence_status(&s->fence, o);
	json_object_object_add(o, "confined", json_object_new_boolean(confined()));
	if (!s->store.valid && s->state != STANDBY_PROMOTED)
		json_object_object_add(o, "note", json_object_new_string("no complete checkpoint yet"));
	return o;
}

static struct json_object *standby_promote_asked(struct standby *s)
{
	struct why why;

	if (s->state == STANDBY_PROMOTED)
		return control_error("it was promoted already");
	if (s->primary)
		return control_error("the primary at %s is connected; stop its agent or its host first",
				     s->peer);
	if (!s->store.valid)
		return control_error("there is no complete checkpoint yet");
	if (!fence_stop(&s->fence))
		return control_error("the fence command is running at this moment; wait for it");
	report_warn("promoted by hand");
	s->takeover.lost_at = 0;
	if (standby_promote(s, &why))
		return control_error("%s", why.text);
	return standby_status(s);
}

static struct json_object *standby_command(void *arg, const char *cmd)
{
	struct standby *s = arg;

	if (!strcmp(cmd, "status"))
		return standby_status(s);
	if (!strcmp(cmd, "promote"))
		return standby_promote_asked(s);
	return control_error("there is no command '%s'", cmd);
}

static void standby_vm_ended(void *arg, int res)
{
	struct standby *s = arg;

	s->vm_op = NULL;
	if (res < 0) {
		report_error("cannot watch the standby's QEMU (process %d): %s", s->vmm.proc.pid,
			     strerror(-res));
		standby_leave(s, FRAME_BYE_ERROR, "the standby's QEMU cannot be watched", 1);
		return;
	}
	report_event("vm-ended", "");
	if (s->state == STANDBY_PROMOTED) {
		report_phase("the VM has ended");
		standby_end(s, 0);
		return;
	}
	report_error("the standby's QEMU (process %d) has ended; start it again with -incoming defer, then this agent",
		     s->vmm.proc.pid);
	standby_leave(s, FRAME_BYE_VM_ENDED, "the standby's QEMU has ended", 1);
}

static void standby_asked_to_stop(void *arg, unsigned int count)
{
	struct standby *s = arg;

	if (count > 1) {
		standby_end(s, 1);
		return;
	}
	if (s->primary)
		report_phase("stopping: telling the primary");
	standby_leave(s, FRAME_BYE_STOP, "the standby's agent was stopped", 0);
}

static void standby_close(struct standby *s)
{
	fence_close(&s->fence);
	visitors_close(&s->visitors);
	loop_cancel(s->loop, s->vm_op);
	stop_close(&s->stop);
	store_close(&s->store);
	hello_free(&s->next);
	vmm_close(&s->vmm);
	loop_free(s->loop);
}

int standby_run(const struct options *options, struct loop *loop, struct fencer *fencer)
{
	static struct standby s;
	struct why why = { .text = "" };
	int err;

	s.options = options;
	s.loop = loop;
	s.stop.fd = -1;
	s.exit_code = 1;
	s.store.room = standby_room;
	s.store.broken = standby_broken;
	s.store.arg = &s;
	s.fence.fencer = fencer;
	s.fence.success = standby_fenced;
	s.fence.arg = &s;
	fence_open(&s.fence, loop);
	ramblock_init(&s.next.blocks);
	err = vmm_open(&s.vmm, options, s.loop, REFUSE_STANDBY, standby_command, &s, &why);
	if (!err)
		err = store_open(&s.store, s.loop, s.vmm.proc.pid, options->max_epoch,
				 options->debug_break == OPTIONS_BREAK_APPLY_EARLY, &why);
	if (err)
		goto fail;
	s.visitors.hello = standby_hello;
	s.visitors.frame = standby_frame;
	s.visitors.join = standby_join;
	s.visitors.lanes_lost = standby_lanes_lost;
	s.visitors.down = standby_down;
	s.visitors.closed = standby_closed;
	s.visitors.arg = &s;
	err = visitors_open(&s.visitors, s.loop, options->ops, &options->addr, &why);
	if (err)
		goto fail;
	s.stop.asked = standby_asked_to_stop;
	s.stop.arg = &s;
	err = stop_open(&s.stop, s.loop);
	if (err) {
		why_set(&why, -err, "cannot watch for signals: %s", strerror(-err));
		goto fail;
	}
	s.vm_op = loop_poll(s.loop, s.vmm.proc.pidfd, POLLIN, standby_vm_ended, &s);
	report_phase("standby for process %d: QEMU %s, %s, %" PRIu64 " vCPUs, %" PRIu64
		     " MiB; listening on %s%s", s.vmm.proc.pid, s.vmm.hello.qemu, s.vmm.hello.machine,
		     s.vmm.hello.nr_vcpus, s.vmm.hello.ram_bytes >> 20, options->addr.text,
		     options->fence_command ? "" : "; no fence command: takes over by hand only");
	report_event("listening", "listen:s", options->addr.text);
	loop_run(s.loop);
	standby_close(&s);
	return s.exit_code;
fail:
	report_error("%s", why.text);
	standby_close(&s);
	return 1;
}
