// SPDX-License-Identifier: GPL-2.0
/*
 * landing: what was reserved is touched at once, so that nothing has to be found for an
 * epoch of the usual size.
 */
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "landing.h"

static struct landing *landing_free;
static size_t landing_nr_free;
static size_t landing_keep;

static struct landing *landing_map(bool populate)
{
	void *mem = mmap(NULL, LANDING_MAP, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | (populate ? MAP_POPULATE : 0), -1, 0);

	return mem == MAP_FAILED ? NULL : mem;
}

/* What one large epoch needed is not kept, and locked, for ever. */
static void landing_give(struct landing *landing)
{
	if (landing_nr_free >= landing_keep) {
		munmap(landing, LANDING_MAP);
		return;
	}
	landing->next = landing_free;
	landing_free = landing;
	landing_nr_free++;
}

static struct landing *landing_take(void)
{
	struct landing *landing = landing_free;

	if (landing) {
		landing_free = landing->next;
		landing_nr_free--;
	}
	return landing;
}

int landing_reserve(size_t bytes)
{
	landing_keep = (bytes + LANDING_MAP - 1) / LANDING_MAP;
	while (landing_nr_free < landing_keep) {
		struct landing *landing = landing_map(true);

		if (!landing)
			return -ENOMEM;
		landing_give(landing);
	}
	while (landing_nr_free > landing_keep)
		munmap(landing_take(), LANDING_MAP);
	return 0;
}

struct landing *landing_get(void)
{
	struct landing *landing = landing_take();

	if (!landing)
		landing = landing_map(false);
	if (landing) {
		landing->refs = 1;
		landing->mark = 0;
	}
	return landing;
}

void landing_put(struct landing *landing)
{
	if (landing && !--landing->refs)
		landing_give(landing);
}
