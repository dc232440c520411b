// SPDX-License-Identifier: GPL-2.0
/*
 * bench: what a checkpoint costs, by method. One line of CSV for each method and
 * number of pages, medians over some epochs. See usage().
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"
#include "method.h"
#include "tap.h"

#define MAX_EPOCHS	64

static const struct method *const methods[] = {
	&method_log, &method_ring, &method_pause, &method_pause_hash, &method_cow,
	&method_cow_busy, &method_cow_hash,
};

#define NR_METHODS	(sizeof(methods) / sizeof(*methods))

static void usage(void)
{
	fprintf(stderr, "usage: bench VCPUS RAM_MIB EPOCHS METHOD[,...] PAGES...\n");
	exit(2);
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint64_t median(uint64_t *v, int n)
{
	qsort(v, n, sizeof(*v), by_value);
	return v[n / 2];
}

static void measure(struct load *l, const struct method *method, void *m,
		    uint64_t dirty, uint64_t ram_mib, int epochs)
{
	uint64_t write[MAX_EPOCHS], found[MAX_EPOCHS], pause[MAX_EPOCHS];
	uint64_t total[MAX_EPOCHS], pages[MAX_EPOCHS];
	struct cost cost = {};

	load_set(l, dirty);
	/* One that does not count: the guest maps what it has not touched yet. */
	for (int i = -1; i < epochs; i++) {
		uint64_t start = now_ns(), at = i < 0 ? 0 : i;

		load_epoch(l);
		write[at] = now_ns() - start;
		if (method->prepare)
			method->prepare(m, &cost);
		if (method->nth)
			load_epoch_nth(l, method->nth);
		method->freeze(m, &cost);
		if (method->drain)
			method->drain(m, &cost);
		found[at] = cost.found;
		pause[at] = cost.pause;
		total[at] = cost.total;
		pages[at] = cost.pages;
	}
	printf("%s,%d,%lu,%lu,%d,%lu,%lu,%lu,%lu,%lu\n", method->name, l->vcpus,
	       ram_mib, dirty, epochs, median(pages, epochs), median(write, epochs),
	       median(found, epochs), median(pause, epochs), median(total, epochs));
	fflush(stdout);
}

static bool listed(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *at = list; (at = strstr(at, name)); at += n)
		if ((at == list || at[-1] == ',') && (!at[n] || at[n] == ','))
			return true;
	return false;
}

int main(int argc, char **argv)
{
	struct load l = { .cpu = -1 };
	uint64_t ram_mib;
	int epochs;

	if (argc < 6)
		usage();
	l.vcpus = atoi(argv[1]);
	ram_mib = strtoul(argv[2], NULL, 10);
	epochs = atoi(argv[3]);
	if (l.vcpus < 1 || l.vcpus > VMM_MAX_VCPUS || epochs < 1 ||
	    epochs > MAX_EPOCHS || !ram_mib || ram_mib > 4096)
		usage();
	for (unsigned int i = 0; i < NR_METHODS; i++) {
		const struct method *method = methods[i];
		void *m;

		if (!listed(argv[4], method->name))
			continue;
		/* A guest of its own: what one leaves behind is not the next one's. */
		load_create(&l, ram_mib, method->ring ? METHOD_RING_BYTES : 0);
		m = method->open(&l);
		for (int k = 5; k < argc; k++)
			measure(&l, method, m, strtoul(argv[k], NULL, 10), ram_mib,
				epochs);
		method->close(m);
		load_destroy(&l);
	}
	return 0;
}
