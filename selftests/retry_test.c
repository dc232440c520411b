// SPDX-License-Identifier: GPL-2.0
/*
 * retry_test: the next connection comes after a second, and later where that is no use.
 *
 *	retry_test
 *
 * Needs no privileges and no module.
 */
#include <string.h>

#include "retry.h"
#include "tap.h"

static void never(void *arg)
{
	(void)arg;
}

int main(void)
{
	struct retry r = { .timer.fn = never };
	struct loop *loop = loop_new();
	unsigned int i;
	uint64_t due;

	if (!loop)
		tap_die("no io_uring");
	retry_open(&r, loop);
	tap_ok(r.ns == NSEC_PER_SEC, "a second at first");
	retry_later(&r);
	due = r.timer.due;
	retry_slower(&r, 10 * NSEC_PER_SEC);
	retry_later(&r);
	tap_ok(r.timer.armed && r.timer.due == due, "what is under way is not put off");
	retry_cancel(&r);
	tap_ok(!r.timer.armed, "it can be called off");
	tap_ok(r.ns == 2 * NSEC_PER_SEC, "then twice as long");
	for (i = 0; i < 10; i++)
		retry_slower(&r, 10 * NSEC_PER_SEC);
	tap_ok(r.ns == 10 * NSEC_PER_SEC, "up to the bound");
	for (i = 0; i < 10; i++)
		retry_slower(&r, 300 * NSEC_PER_SEC);
	retry_slower(&r, 10 * NSEC_PER_SEC);
	tap_ok(r.ns == 300 * NSEC_PER_SEC, "a smaller bound does not make it sooner");
	retry_soon(&r);
	tap_ok(r.ns == NSEC_PER_SEC, "a second again");
	loop_free(loop);
	return tap_done();
}
