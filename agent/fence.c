// SPDX-License-Identifier: GPL-2.0
/*
 * fence: when the command is run, and what its end means.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fence.h"
#include "report.h"

static void fence_run(void *arg);

static void fence_retry(struct fence *fence)
{
	fence->timer.fn = fence_run;
	loop_timer_set(fence->loop, &fence->timer, FENCE_RETRY_NS);
}

static void fence_failed(struct fence *fence, const char *verdict, uint64_t value)
{
	report_event("fence-failed", "verdict:s value:u", verdict, value);
	fence_retry(fence);
}

/*
 * Nothing is fenced any more; what waits for it waits, until somebody who has fenced by hand
 * says so.
 */
static void fence_gone(struct fence *fence)
{
	if (fence->gone)
		return;
	fence->gone = true;
	report_warn("the process that runs the fence command (vmrepl-fencer) is gone: this agent cannot fence any more. Do not end this agent while it is needed; see FENCING in vmrepl-agent(8)");
	report_event("fencer-gone", "");
}

static void fence_fencer_ended(void *arg, int res)
{
	struct fence *fence = arg;

	(void)res;
	fence->end = NULL;
	fence_gone(fence);
}

static void fence_ended(void *arg, int res)
{
	struct fence *fence = arg;
	const struct fencer_answer *answer = &fence->answer;

	fence->op = NULL;
	loop_timer_cancel(fence->loop, &fence->timer);
	if (res != sizeof(*answer)) {
		fence_gone(fence);
		return;
	}
	switch (answer->verdict) {
	case FENCER_EXITED:
		if (!answer->value) {
			fence->active = false;
			report_event("fenced", "runs:u", (uint64_t)fence->runs);
			fence->success(fence->arg);
			return;
		}
		report_warn("fence command failed with exit code %d; trying again in %" PRIu64 " s",
			    answer->value, FENCE_RETRY_NS / NSEC_PER_SEC);
		fence_failed(fence, "exit", (uint64_t)answer->value);
		return;
	case FENCER_SIGNALLED:
		report_warn("fence command was ended by signal %d; trying again in %" PRIu64 " s",
			    answer->value, FENCE_RETRY_NS / NSEC_PER_SEC);
		fence_failed(fence, "signal", (uint64_t)answer->value);
		return;
	default:
		report_warn("cannot run the fence command: %s; trying again in %" PRIu64 " s",
			    strerror(answer->value), FENCE_RETRY_NS / NSEC_PER_SEC);
		fence_failed(fence, "errno", (uint64_t)answer->value);
		return;
	}
}

static void fence_hangs(void *arg)
{
	struct fence *fence = arg;

	report_warn("fence command runs for %" PRIu64 " s, killing it", FENCE_RUN_NS / NSEC_PER_SEC);
	fencer_kill(fence->fencer);
}

static void fence_run(void *arg)
{
	struct fence *fence = arg;

	if (fence->gone || fencer_run(fence->fencer, fence->peer)) {
		fence_gone(fence);
		return;
	}
	fence->runs++;
	fence->op = loop_recv(fence->loop, fencer_fd(fence->fencer), &fence->answer,
			      sizeof(fence->answer), fence_ended, fence);
	fence->timer.fn = fence_hangs;
	loop_timer_set(fence->loop, &fence->timer, FENCE_RUN_NS);
}

void fence_open(struct fence *fence, struct loop *loop)
{
	fence->loop = loop;
	/* No event but those that come unasked: the other end is closed. */
	if (fence->fencer)
		fence->end = loop_poll(loop, fencer_fd(fence->fencer), 0, fence_fencer_ended,
				       fence);
}

void fence_start(struct fence *fence, uint64_t delay_ns)
{
	if (fence->active)
		return;
	fence->active = true;
	fence->timer.fn = fence_run;
	fence->timer.arg = fence;
	loop_timer_set(fence->loop, &fence->timer, delay_ns);
}

bool fence_stop(struct fence *fence)
{
	if (!fence->active)
		return true;
	if (fence->op)
		return false;
	loop_timer_cancel(fence->loop, &fence->timer);
	fence->active = false;
	return true;
}

void fence_close(struct fence *fence)
{
	loop_cancel(fence->loop, fence->end);
	fence->end = NULL;
	if (!fence->active)
		return;
	loop_timer_cancel(fence->loop, &fence->timer);
	if (fence->op) {
		loop_cancel(fence->loop, fence->op);
		fence->op = NULL;
		fencer_kill(fence->fencer);
	}
	fence->active = false;
}

void fence_status(const struct fence *fence, struct json_object *o)
{
	json_object_object_add(o, "fence", json_object_new_boolean(fence->fencer && !fence->gone));
	json_object_object_add(o, "fence-runs", json_object_new_uint64(fence->runs));
}

bool fence_active(const struct fence *fence)
{
	return fence->active;
}

unsigned int fence_runs(const struct fence *fence)
{
	return fence->runs;
}
