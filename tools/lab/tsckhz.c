// SPDX-License-Identifier: GPL-2.0
/*
 * tsckhz: prints how often this machine's time stamp counter counts in a millisecond.
 *
 * An emulated host's counter is the machine's own. Its kernel would measure it against
 * a timer that the emulator runs, and on a busy machine be wrong by a factor: then its clock
 * runs that much too fast, with all that anybody in it waits for.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

#define WAIT_NS		50000000
#define TRIES		64

struct instant {
	uint64_t ns;
	uint64_t tsc;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

/* Both clocks at once: the try that was interrupted least. */
static struct instant look(void)
{
	uint64_t least = UINT64_MAX;
	struct instant best = { 0 };
	int i;

	for (i = 0; i < TRIES; i++) {
		uint64_t before = now_ns(), tsc = __rdtsc(), after = now_ns();

		if (after - before >= least)
			continue;
		least = after - before;
		best = (struct instant){ .ns = before + (after - before) / 2, .tsc = tsc };
	}
	return best;
}

int main(void)
{
	struct timespec wait = { .tv_nsec = WAIT_NS };
	struct instant a = look(), b;

	nanosleep(&wait, NULL);
	b = look();
	printf("%.0f\n", (double)(b.tsc - a.tsc) * 1e6 / (double)(b.ns - a.ns));
	return 0;
}
