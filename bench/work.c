// SPDX-License-Identifier: GPL-2.0
/*
 * work: what the guest loses. One vCPU has so much to do, writing to the same pages
 * again and again; how long does it take while
 *
 *	none	nobody looks
 *	log	its VMM gets and clears KVM's dirty log every 100 ms, and does nothing with it
 *	pause	the module takes a checkpoint every 100 ms, copied in the pause
 *	cow	the same, copied on write
 *
 * The agent looks at every record and drops the page. Reported are the time from
 * the first instruction to the last, and what of it the vCPU's thread was on a CPU or
 * stood still for a checkpoint: the second is what counts where the workers have no
 * CPU of their own.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "load.h"
#include "method.h"
#include "tap.h"

#define EPOCH_NS	100000000

static const struct {
	const char *name;
	const struct method *method;
	bool stops;
} ways[] = {
	{ "none", NULL, false },
	{ "log", &method_log_only, false },
	{ "pause", &method_pause, true },
	{ "cow", &method_cow, true },
};

#define NR_WAYS		(sizeof(ways) / sizeof(*ways))

/* Every EPOCH_NS until the guest is done. Return: how long it stood still. */
static uint64_t epochs(struct load *l, unsigned int way, void *m, int *count)
{
	struct itimerspec every = {
		.it_interval.tv_nsec = EPOCH_NS, .it_value.tv_nsec = EPOCH_NS,
	};
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	uint64_t stood = 0, ticks;

	if (timer < 0 || timerfd_settime(timer, 0, &every, NULL))
		tap_die("timer: %s", strerror(errno));
	for (*count = 0; read(timer, &ticks, sizeof(ticks)) > 0 && !load_done(l);
	     (*count)++) {
		struct cost cost = {};
		uint64_t start;

		if (!m)
			continue;
		if (ways[way].method->prepare)
			ways[way].method->prepare(m, &cost);
		start = now_ns();
		if (ways[way].stops)
			load_pause(l);
		ways[way].method->freeze(m, &cost);
		if (ways[way].stops) {
			load_resume(l);
			stood += now_ns() - start;
		}
		if (ways[way].method->drain)
			ways[way].method->drain(m, &cost);
	}
	close(timer);
	return stood;
}

static void measure(unsigned int way, uint64_t ram_mib, uint64_t pages,
		    uint64_t passes, uint64_t spin, int cpu)
{
	struct load l = { .vcpus = 1, .cpu = cpu };
	const struct sched_param first = { .sched_priority = 1 };
	uint64_t start, took, stood, busy;
	void *m = NULL;
	int count;

	load_create(&l, ram_mib, 0);
	load_set(&l, pages);
	if (ways[way].method)
		m = ways[way].method->open(&l);
	load_epoch(&l);
	/*
	 * With one CPU for all, what a freeze wakes would otherwise run before it has
	 * returned. The vCPU's thread is there already, and stays an ordinary one.
	 */
	if (sched_setscheduler(0, SCHED_FIFO, &first))
		tap_die("SCHED_FIFO: %s", strerror(errno));
	start = now_ns();
	load_start(&l, passes, spin);
	stood = epochs(&l, way, m, &count);
	busy = load_wait(&l);
	took = load_ended(&l) - start;
	printf("%s,%lu,%lu,%lu,%lu,%d,%lu,%lu,%lu\n", ways[way].name, ram_mib,
	       pages, passes, spin, count, took, busy, stood);
	fflush(stdout);
	if (m)
		ways[way].method->close(m);
	load_destroy(&l);
	sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){ 0 });
}

int main(int argc, char **argv)
{
	if (argc < 7) {
		fprintf(stderr, "usage: work RAM_MIB PAGES PASSES SPIN CPU WAY...\n");
		return 2;
	}
	for (int i = 6; i < argc; i++) {
		unsigned int way = 0;

		while (way < NR_WAYS && strcmp(ways[way].name, argv[i]))
			way++;
		if (way == NR_WAYS)
			tap_die("there is no way '%s'", argv[i]);
		measure(way, strtoul(argv[1], NULL, 10), strtoul(argv[2], NULL, 10),
			strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10),
			atoi(argv[5]));
	}
	return 0;
}
