// SPDX-License-Identifier: GPL-2.0
/*
 * pulse: one timer, as often as a heartbeat may be due.
 */
#include "pulse.h"

static void pulse_tick(void *arg)
{
	struct pulse *pulse = arg;
	uint64_t now = loop_now();
	/*
	 * A tick that comes late means that this process stood still itself,
	 * and what came meanwhile may not have been read: judge at the next.
	 */
	bool late = now - pulse->due > pulse->beat_ns;

	if (pulse->timeout_ns && !late && !pulse->patient &&
	    now - pulse->heard > pulse->timeout_ns) {
		pulse->silent(pulse->arg, now - pulse->heard);
		return;
	}
	if (now - pulse->said >= pulse->beat_ns / 2)
		pulse->beat(pulse->arg);
	pulse->due = now + pulse->beat_ns;
	loop_timer_set(pulse->loop, &pulse->tick, pulse->beat_ns);
}

void pulse_start(struct pulse *pulse, struct loop *loop, uint64_t beat_ns, uint64_t timeout_ns)
{
	pulse->loop = loop;
	pulse->tick.fn = pulse_tick;
	pulse->tick.arg = pulse;
	pulse->beat_ns = beat_ns;
	pulse->timeout_ns = timeout_ns;
	pulse->heard = loop_now();
	pulse->due = pulse->heard;
	loop_timer_set(loop, &pulse->tick, 0);
}

void pulse_stop(struct pulse *pulse)
{
	if (pulse->loop)
		loop_timer_cancel(pulse->loop, &pulse->tick);
}
