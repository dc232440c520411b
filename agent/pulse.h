/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pulse: when a connection has to say something, and when it has been silent for too long.
 */
#ifndef VMREPL_PULSE_H
#define VMREPL_PULSE_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"

/**
 * struct pulse - of one connection
 * @beat:   nothing was sent for a while: time for a heartbeat
 * @silent: nothing was heard for @ns, which is too long; the last thing that is done with it
 * @patient: silence is not judged: it is us who do not listen
 * @heard:  when something came last, loop_now()
 * @said:   when something was sent last
 * @arg:    given to both
 *
 * Set the functions and @arg, and @heard and @said as it happens. The rest is private.
 */
struct pulse {
	void (*beat)(void *arg);
	void (*silent)(void *arg, uint64_t ns);
	void *arg;
	bool patient;
	uint64_t heard;
	uint64_t said;

	struct loop *loop;
	struct loop_timer tick;
	uint64_t due;
	uint64_t beat_ns;
	uint64_t timeout_ns;
};

/*
 * Begins, or goes on with other numbers: @beat_ns: say something at least this often;
 * @timeout_ns: the longest silence, 0: it is not judged.
 */
void pulse_start(struct pulse *pulse, struct loop *loop, uint64_t beat_ns, uint64_t timeout_ns);
/* Nothing happens where it was not started. */
void pulse_stop(struct pulse *pulse);

#endif /* VMREPL_PULSE_H */
