// SPDX-License-Identifier: GPL-2.0
/*
 * protect: the order in a checkpoint is what I1 hangs on. Freeze, then close the
 * plug's segment, while the guest stands: what it sent before is in this segment
 * and goes when this epoch is acknowledged, what it sends afterwards is not.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "devstate.h"
#include "protect.h"
#include "ramhash.h"
#include "report.h"

/* A dirty set this small goes into the first checkpoint. */
#define PROTECT_SYNCED_PAGES	2048u
#define PROTECT_ROUNDS		10u
/* What came while this process stood still itself is read by then. */
#define PROTECT_REREAD_NS	(NSEC_PER_SEC / 2)

static void protect_checkpoint(struct protect *p);
static void protect_send_end(struct protect *p);

static void protect_set_phase(struct protect *p, enum protect_phase phase)
{
	p->phase = phase;
	p->phased(p->arg);
}

static void protect_module_error(struct protect *p, int err)
{
	struct why why;

	switch (err) {
	case -ESRCH:
		protect_halt(p);
		p->gone(p->arg, "the process has no VM any more");
		break;
	case -ESTALE:
		p->again(p->arg, "a page is in no memory block that is known");
		break;
	case -EIO:
	case -ELOOP:
		p->again(p->arg, "the module's session is broken");
		break;
	case -ENOMEM:
		p->again(p->arg, "no memory for an epoch");
		break;
	default:
		why_set(&why, -err, "the module cannot take an epoch: %s", strerror(-err));
		p->again(p->arg, why.text);
		break;
	}
}

/* ---- rounds while the guest runs ---- */

static void protect_live_collected(void *arg, int err)
{
	struct protect *p = arg;

	if (!err)
		err = stream_end(p->stream, NULL, 0, 0);
	if (err) {
		protect_module_error(p, err);
		return;
	}
	p->epoch.sent = loop_now();
	p->epoch.waiting = true;
}

static void protect_stream_round(struct protect *p)
{
	bool first = p->round == 1;

	stream_begin(p->stream, p->link, &p->guard->session, p->guard->blocks,
		     p->epoch.number, STREAM_LIVE, first ? p->sums : NULL);
	stream_collect(p->stream, protect_live_collected, p);
}

/* Before the first round, which has newer pages of the same blocks. */
static void protect_copies(struct protect *p)
{
	flight_begin(&p->epoch, true);
	p->round = 0;
	stream_begin(p->stream, p->link, &p->guard->session, p->guard->blocks,
		     p->epoch.number, STREAM_LIVE | STREAM_COPIES, NULL);
	stream_collect(p->stream, protect_live_collected, p);
}

static void protect_round(struct protect *p)
{
	struct why why;
	uint32_t flags = VMREPL_FREEZE_LIVE;
	int err;

	flight_begin(&p->epoch, true);
	p->round++;
	err = session_freeze(&p->guard->session, p->epoch.number, &flags, &p->epoch.pages,
			     &p->epoch.freeze_ns);
	if (err == -ESTALE) {
		err = guard_layout(p->guard, &why);
		if (err) {
			p->again(p->arg, why.text);
			return;
		}
		err = session_freeze(&p->guard->session, p->epoch.number, &flags,
				     &p->epoch.pages, &p->epoch.freeze_ns);
	}
	if (err) {
		protect_module_error(p, err);
		return;
	}
	protect_stream_round(p);
}

/*
 * The first round's set is fixed while the guest stands and its I/O is drained:
 * from here on whatever is written takes a fault that the module sees. A device
 * that was told to write before would not. The copy is made while it runs again.
 */
static void protect_first_round(struct protect *p)
{
	struct why why;

	flight_begin(&p->epoch, true);
	p->round = 1;
	if (checkpoint_arm(&p->cp, &why) || checkpoint_fire(&p->cp, &why))
		p->failed(p->arg, why.text);
}

static void protect_forget_sums(struct protect *p)
{
	pagesums_free(p->sums);
	p->sums = NULL;
}

static void protect_round_acked(struct protect *p)
{
	uint64_t pages = p->epoch.pages;
	bool stuck = p->round > 2 && pages > p->round_pages * 3 / 4;

	if (!p->round) {
		ramblock_free_copies(p->guard->blocks);
		protect_first_round(p);
		return;
	}
	report_event("round", "epoch:u round:u pages:u same_pages:u bytes:u ack_us:u",
		     p->epoch.number, (uint64_t)p->round, pages,
		     stream_totals(p->stream)->same_pages, stream_totals(p->stream)->bytes,
		     (loop_now() - p->epoch.started) / NSEC_PER_USEC);
	if (p->round == 1) {
		report_progress_done("first sync", pages);
		if (p->sums)
			report_phase("first sync: the standby held %" PRIu64 " of %" PRIu64 " pages already",
				     stream_totals(p->stream)->same_pages, pages);
		protect_forget_sums(p);
	}
	p->round_pages = pages;
	if ((pages >= PROTECT_SYNCED_PAGES || p->round == 1) && !stuck &&
	    p->round < PROTECT_ROUNDS) {
		protect_round(p);
		return;
	}
	report_phase("first sync done: %u rounds, %" PRIu64 " pages in the last one", p->round,
		     pages);
	report_event("synced", "rounds:u pages:u", (uint64_t)p->round, pages);
	protect_set_phase(p, PROTECT_SECURING);
	p->last_hold = 0;
	protect_checkpoint(p);
}

/* ---- checkpoints ---- */

static void protect_collected(void *arg, int err)
{
	struct protect *p = arg;

	p->epoch.collected = loop_now();
	if (err)
		protect_module_error(p, err);
	if (!p->epoch.cow) {
		p->epoch.let_go = loop_now();
		checkpoint_resume(&p->cp);
	} else if (!err && p->epoch.resumed) {
		protect_send_end(p);
	}
}

static void protect_stalled(void *arg)
{
	struct protect *p = arg;
	struct why why;

	if (loop_timer_overslept(p->loop, &p->stall, PROTECT_REREAD_NS))
		return;
	why_set(&why, ETIMEDOUT, "output of the guest was held for %" PRIu64 " ms (--max-stall): checkpoint %" PRIu64 " %s",
		p->options->max_stall_ns / NSEC_PER_MSEC, p->epoch.number,
		p->epoch.waiting ? "is not acknowledged" : "takes too long");
	p->stalled(p->arg, why.text);
}

/* Output since then, and what came later, is held. */
static void protect_watch_stall(struct protect *p, uint64_t since)
{
	if (p->guard->nr_plugs)
		loop_timer_set_at(p->loop, &p->stall, since + p->options->max_stall_ns);
}

/*
 * An epoch that was torn has closed a segment already, and the plug knows only one
 * that is closed: it goes with this one, and what came since with the next.
 */
static int protect_hold(struct protect *p, struct why *why)
{
	int err;

	if (p->held)
		return 0;
	/* Output of this epoch began where the one before was closed. */
	p->epoch.held_since = p->last_hold ? p->last_hold : loop_now();
	p->last_hold = loop_now();
	err = guard_hold(p->guard, why);
	p->held = !err;
	if (p->held && !p->stall.armed)
		protect_watch_stall(p, p->epoch.held_since);
	return err;
}

/* The guest stands. */
static void protect_stopped(void *arg)
{
	struct protect *p = arg;
	uint32_t flags;
	struct why why;
	int err;

	if (p->phase == PROTECT_OFF) {
		checkpoint_resume(&p->cp);
		return;
	}
	p->epoch.stopped = loop_now();
	/* What is taken again is taken in the way in which it cannot be torn. */
	flags = p->epoch.live ? VMREPL_FREEZE_LIVE : p->retake ? 0 : p->options->freeze_flags;
	err = session_freeze(&p->guard->session, p->epoch.number, &flags,
			     &p->epoch.pages, &p->epoch.freeze_ns);
	if (err) {
		/*
		 * The layout can only be read while QEMU answers, which it does
		 * not now: this checkpoint is given up and taken again at once.
		 */
		p->relayout = err == -ESTALE;
		if (!p->relayout)
			protect_module_error(p, err);
		checkpoint_resume(&p->cp);
		return;
	}
	if (p->epoch.live) {
		checkpoint_resume(&p->cp);
		return;
	}
	p->epoch.cow = flags & VMREPL_FREEZE_COW;
	if (protect_hold(p, &why)) {
		p->again(p->arg, why.text);
		checkpoint_resume(&p->cp);
		return;
	}
	if (p->options->debug_break == OPTIONS_BREAK_ACK_EARLY)
		guard_commit(p->guard, &why);
	ramhash_report(p->guard->vm->pid, p->guard->blocks, p->epoch.number);
	stream_begin(p->stream, p->link, &p->guard->session, p->guard->blocks,
		     p->epoch.number, p->epoch.cow ? 0 : STREAM_STANDS, NULL);
	if (p->epoch.cow) {
		p->epoch.let_go = loop_now();
		checkpoint_resume(&p->cp);
	}
	/*
	 * What went wrong while the guest was let go has ended the epoch. Until QEMU is
	 * done with its state the guest stands: no time for encoding.
	 */
	if (p->phase != PROTECT_OFF && !stream_encodes(p->stream))
		stream_collect(p->stream, protect_collected, p);
}

/*
 * Without the same devices the standby could not load this. Which ones there are
 * is asked only when the device state has other parts than the one before.
 */
static int protect_devices(struct protect *p, struct why *why)
{
	uint64_t sections = devstate_sections(p->cp.state, p->cp.len);
	int err;

	if (sections && sections == p->sections)
		return 0;
	err = guard_same_devices(p->guard, why);
	if (!err)
		p->sections = sections;
	return err;
}

/* QEMU has been told to stop by somebody else, or to go on. */
static void protect_set_stands(struct protect *p, bool stands)
{
	if (stands == p->stands)
		return;
	p->stands = stands;
	report_event("guest", "epoch:u stands:b", p->epoch.number, stands);
	if (stands)
		report_warn("the guest was stopped, not by us: it stays protected, and would stand on the standby, too, until somebody lets it run (`cont` in QEMU's monitor)");
	else
		report_phase("the guest was let run again");
}

/* The guest runs again. */
static void protect_resumed(void *arg, int err, const struct why *cause)
{
	struct protect *p = arg;
	struct why why;

	/* A QEMU that does not answer takes no other checkpoint, whoever waits. */
	if (p->phase == PROTECT_OFF && err != -ETIMEDOUT) {
		p->idle(p->arg);
		return;
	}
	if (err) {
		p->failed(p->arg, cause->text);
		return;
	}
	if (p->relayout) {
		p->relayout = false;
		report_event("layout", "epoch:u", p->epoch.number);
		/* Memory that is plugged in is a device, too, without a state. */
		p->sections = 0;
		if (guard_layout(p->guard, &why))
			p->again(p->arg, why.text);
		else if (p->epoch.live)
			protect_first_round(p);
		else
			protect_checkpoint(p);
		return;
	}
	if (p->epoch.live) {
		protect_stream_round(p);
		return;
	}
	p->epoch.resumed = loop_now();
	if (protect_devices(p, &why)) {
		p->again(p->arg, why.text);
		return;
	}
	protect_set_stands(p, p->cp.stands);
	if (checkpoint_arm(&p->cp, &why))
		p->failed(p->arg, why.text);
	else if (p->epoch.collected)
		protect_send_end(p);
	else if (stream_encodes(p->stream))
		stream_collect(p->stream, protect_collected, p);
}

/* All of its pages have been sent, and its state is here. */
static void protect_send_end(struct protect *p)
{
	if (stream_torn(p->stream)) {
		flight_torn(&p->epoch, &p->acked);
		encoder_torn(p->encoder, p->epoch.number);
		stream_end(p->stream, NULL, 0, FRAME_END_TORN);
		p->retake = true;
		p->epoch.waiting = true;
		return;
	}
	p->retake = false;
	if (stream_end(p->stream, p->cp.state, p->cp.len,
		       p->cp.stands ? FRAME_END_STANDS : 0)) {
		p->again(p->arg, "out of memory");
		return;
	}
	/* From its last byte on the standby can run what we have sent. */
	p->can_promote = true;
	p->epoch.sent = loop_now();
	p->epoch.waiting = true;
}

static void protect_checkpoint(struct protect *p)
{
	struct why why;

	flight_begin(&p->epoch, false);
	if (p->options->freeze_flags & VMREPL_FREEZE_COW && !p->retake)
		session_prepare(&p->guard->session);
	if (checkpoint_arm(&p->cp, &why) || checkpoint_fire(&p->cp, &why))
		p->failed(p->arg, why.text);
}

static void protect_next(void *arg)
{
	protect_checkpoint(arg);
}

bool protect_acked(struct protect *p, uint64_t epoch)
{
	uint64_t due;
	struct why why;

	/* An answer to what was given up meanwhile is in order, and void. */
	if (p->phase == PROTECT_OFF)
		return true;
	if (!p->epoch.waiting || epoch != p->epoch.number)
		return false;
	p->epoch.waiting = false;
	if (p->epoch.live) {
		protect_round_acked(p);
		return true;
	}
	/* The standby has dropped it; what was in it is in the next one again. */
	if (p->retake) {
		protect_checkpoint(p);
		return true;
	}
	if (guard_commit(p->guard, &why)) {
		p->again(p->arg, why.text);
		return true;
	}
	p->held = false;
	protect_watch_stall(p, p->last_hold);
	flight_acked(&p->epoch, &p->cp, stream_totals(p->stream), &p->acked);
	if (p->phase == PROTECT_SECURING) {
		protect_set_phase(p, PROTECT_ON);
		loop_timer_set(p->loop, &p->line, NSEC_PER_SEC);
	}
	due = protect_due(p->epoch.started, p->epoch.resumed, p->options->interval_ns,
			  p->cp.pause_ns);
	loop_timer_set_at(p->loop, &p->next, due);
	return true;
}

static void protect_line(void *arg)
{
	struct protect *p = arg;

	if (p->phase == PROTECT_SYNCING) {
		if (p->round)
			report_progress(p->round == 1 ? "first sync" : "catching up",
					stream_totals(p->stream)->pages +
					stream_totals(p->stream)->same_pages, p->epoch.pages);
		loop_timer_set(p->loop, &p->line, NSEC_PER_SEC / 10);
		return;
	}
	loop_timer_set(p->loop, &p->line, NSEC_PER_SEC);
	if (p->phase == PROTECT_ON)
		acked_line(&p->acked);
}

void protect_status(const struct protect *p, struct json_object *o)
{
	acked_status(&p->acked, o);
	/* Nobody looks at it while it is not protected. */
	if (p->phase != PROTECT_OFF)
		json_object_object_add(o, "guest",
				       json_object_new_string(p->stands ? "stands" : "runs"));
	encoder_status(p->encoder, o);
}

/* ---- beginning and end ---- */

void protect_start(struct protect *p, struct link *link, struct pagesums *sums)
{
	p->link = link;
	p->sums = sums;
	encoder_forget(p->encoder);
	stream_lend(p->stream, link, &p->guard->session);
	p->relayout = false;
	p->held = false;
	p->retake = false;
	p->sections = 0;
	p->stands = false;
	protect_set_phase(p, PROTECT_SYNCING);
	loop_timer_set(p->loop, &p->line, NSEC_PER_SEC / 10);
	protect_copies(p);
}

void protect_halt(struct protect *p)
{
	if (p->phase == PROTECT_OFF)
		return;
	p->phase = PROTECT_OFF;
	p->epoch.waiting = false;
	loop_timer_cancel(p->loop, &p->stall);
	loop_timer_cancel(p->loop, &p->next);
	loop_timer_cancel(p->loop, &p->line);
	stream_abandon(p->stream);
	protect_forget_sums(p);
	checkpoint_resume(&p->cp);
}

bool protect_busy(const struct protect *p)
{
	return checkpoint_busy(&p->cp);
}

void protect_forget(struct protect *p)
{
	checkpoint_forget(&p->cp);
}

int protect_disarm(struct protect *p, struct why *why)
{
	return checkpoint_disarm(&p->cp, why);
}

void protect_message(struct protect *p, const struct qmp_msg *msg)
{
	checkpoint_message(&p->cp, msg);
}

int protect_open(struct protect *p, const struct options *options, struct loop *loop,
		 struct qmp *qmp, struct guard *guard, struct why *why)
{
	p->options = options;
	p->loop = loop;
	p->guard = guard;
	p->stall.fn = protect_stalled;
	p->stall.arg = p;
	p->next.fn = protect_next;
	p->next.arg = p;
	p->line.fn = protect_line;
	p->line.arg = p;
	p->cp.stopped = protect_stopped;
	p->cp.done = protect_resumed;
	p->cp.arg = p;
	p->encoder = encoder_new(options->compress, options->delta_cache);
	if (p->encoder)
		p->stream = stream_new(loop, p->encoder,
				       options->debug_break == OPTIONS_BREAK_GIVE_EARLY);
	if (!p->stream)
		return why_set(why, ENOMEM, "out of memory");
	stream_limit(p->stream, options->sync_rate);
	return checkpoint_open(&p->cp, loop, qmp, why);
}

void protect_close(struct protect *p)
{
	checkpoint_close(&p->cp);
	stream_free(p->stream);
	p->stream = NULL;
	encoder_free(p->encoder);
	p->encoder = NULL;
}
