// SPDX-License-Identifier: GPL-2.0
/*
 * fleet_test: a ring's slots are given back in their order, and not before nobody reads
 * them, in whatever order frames are taken and come back.
 *
 *	fleet_test
 *
 * With VMREPL_DEBUG_BREAK=give-early the test fails. Needs no privileges and no module.
 */
#include <stdlib.h>
#include <string.h>

#include "fleet.h"
#include "tap.h"

#define RINGS	3u
#define FRAMES	64u
#define TURNS	2000u

static uint64_t given[RINGS];
static unsigned int moves, backwards;

static void give(void *arg, uint32_t ring, uint64_t upto)
{
	(void)arg;
	backwards += upto < given[ring];
	given[ring] = upto;
}

static void moved(void *arg)
{
	(void)arg;
	moves++;
}

/* What is under way, and where it is. */
static struct sent {
	struct fleet_frame *frame;
	uint32_t ring;
	uint64_t from;
	bool taken;
} sent[FRAMES];
static unsigned int nr;

static void leaves(struct fleet *fleet, uint32_t ring, uint64_t from, uint64_t upto)
{
	struct fleet_frame *frame = fleet_get(fleet, ring, false);

	sent[nr++] = (struct sent) { frame, ring, from, false };
	fleet_leaves(frame, upto);
}

static void taken(unsigned int i)
{
	sent[i].taken = true;
	sent[i].frame->out.tx.sent(&sent[i].frame->out.tx);
}

static void back(unsigned int i)
{
	struct link_tx *tx = &sent[i].frame->out.tx;
	bool whole = sent[i].taken;

	sent[i] = sent[--nr];
	tx->done(tx, whole);
}

/* Whether something that is under way was given back. */
static bool read_after(void)
{
	for (unsigned int i = 0; i < nr; i++)
		if (sent[i].ring < RINGS && given[sent[i].ring] > sent[i].from)
			return true;
	return false;
}

static void test_order(struct fleet *fleet)
{
	leaves(fleet, 0, 0, 10);
	leaves(fleet, 0, 10, 20);
	leaves(fleet, 1, 0, 5);
	tap_ok(fleet_waits(fleet), "they wait for the link");
	taken(0);
	taken(1);
	taken(2);
	tap_ok(!fleet_waits(fleet) && moves == 3, "it takes them");
	tap_ok(!given[0] && !given[1], "what it has taken is still read");
	back(1);
	tap_ok(!given[0], "the second is back before the first: nothing is given back");
	fleet_pass(fleet, 0, 25);
	tap_ok(!given[0], "records behind it, that are in no frame, wait as well");
	back(0);
	tap_ok(given[0] == 25, "the first is: all of them are");
	back(0);
	tap_ok(given[1] == 5, "each ring by itself");
	fleet_pass(fleet, 1, 7);
	tap_ok(given[1] == 7, "where nothing is under way at once");
}

/* All kinds of orders. */
static void test_chance(struct fleet *fleet)
{
	uint64_t next[RINGS] = { given[0] + 100, given[1] + 100, given[2] + 100 };
	unsigned int early = 0, turns, i;

	srand(1);
	for (turns = 0; turns < TURNS; turns++) {
		uint32_t ring = (uint32_t)rand() % (RINGS + 1);
		unsigned int what = (unsigned int)rand() % 4;

		i = nr ? (unsigned int)rand() % nr : 0;
		if (what < 2 && fleet_can(fleet, false) && nr < FRAMES) {
			if (ring == RINGS) {
				leaves(fleet, FLEET_NO_RING, 0, 0);
			} else {
				leaves(fleet, ring, next[ring], next[ring] + 7);
				next[ring] += 7;
			}
		} else if (what == 2 && nr && !sent[i].taken) {
			taken(i);
		} else if (nr) {
			/* Also one that was never taken: the link is gone. */
			back(i);
		}
		early += read_after();
	}
	tap_ok(!early && !backwards, "%u times in any order: none early", turns);
	while (nr)
		back(0);
	for (i = 0; i < RINGS && given[i] == next[i]; i++)
		;
	tap_ok(i == RINGS && !fleet_waits(fleet), "when all are back all is given back");
	for (i = 0; fleet_can(fleet, false); i++)
		leaves(fleet, FLEET_NO_RING, 0, 0);
	tap_ok(i == FRAMES, "no frame was lost");
	while (nr)
		back(0);
}

int main(void)
{
	const char *debug = getenv("VMREPL_DEBUG_BREAK");
	struct fleet *fleet = fleet_new(give, moved, NULL,
					debug && !strcmp(debug, "give-early"));

	if (!fleet || !fleet_rings(fleet, RINGS))
		tap_die("no memory");
	test_order(fleet);
	test_chance(fleet);
	fleet_free(fleet);
	return tap_done();
}
