// SPDX-License-Identifier: GPL-2.0
/*
 * fleet: a list for each ring, in the order of its records.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "fleet.h"

/* Frames under way at most: 64 MiB. */
#define FLEET_FRAMES	64u
/* Of these so many encoded: only a link that is slow has any, and a few keep it busy. */
#define FLEET_ROOMS	8u

/* Where a frame's encoded pages are. */
struct fleet_room {
	struct fleet_room *next;
	uint8_t data[PAGEFRAME_ROOM];
};

struct fleet_ring {
	struct fleet_frame *first;
	struct fleet_frame *last;
};

struct fleet {
	void (*give)(void *arg, uint32_t ring, uint64_t upto);
	void (*moved)(void *arg);
	void *arg;
	bool early;
	struct fleet_frame *free;
	unsigned int waiting;		/* for the link to take them */
	struct fleet_frame frames[FLEET_FRAMES];
	struct fleet_room *rooms;	/* free ones */
	struct fleet_room *mapped;
	struct fleet_ring *rings;
	unsigned int nr_rings;
};

void fleet_put(struct fleet_frame *frame)
{
	struct fleet *fleet = frame->fleet;

	if (frame->room) {
		frame->room->next = fleet->rooms;
		fleet->rooms = frame->room;
		frame->room = NULL;
	}
	frame->next = fleet->free;
	fleet->free = frame;
}

/* @tx is the first member of its first member. */
static struct fleet_frame *fleet_frame(struct link_tx *tx)
{
	return (struct fleet_frame *)tx;
}

static void fleet_taken(struct fleet_frame *frame)
{
	if (frame->waits)
		frame->fleet->waiting--;
	frame->waits = false;
}

static void fleet_sent(struct link_tx *tx)
{
	struct fleet_frame *frame = fleet_frame(tx);
	struct fleet *fleet = frame->fleet;

	fleet_taken(frame);
	if (fleet->early && frame->ring != FLEET_NO_RING)
		fleet->give(fleet->arg, frame->ring, frame->upto);
	fleet->moved(fleet->arg);
}

/* Whether it was sent or not: nobody reads its pages any more. */
static void fleet_back(struct link_tx *tx, bool whole)
{
	struct fleet_frame *frame = fleet_frame(tx);
	struct fleet *fleet = frame->fleet;
	uint32_t index = frame->ring;

	(void)whole;
	fleet_taken(frame);
	frame->back = true;
	if (index == FLEET_NO_RING) {
		fleet_put(frame);
	} else {
		struct fleet_ring *ring = &fleet->rings[index];

		while (ring->first && ring->first->back) {
			frame = ring->first;
			ring->first = frame->next;
			if (!fleet->early)
				fleet->give(fleet->arg, index, frame->upto);
			fleet_put(frame);
		}
	}
	fleet->moved(fleet->arg);
}

struct fleet *fleet_new(void (*give)(void *arg, uint32_t ring, uint64_t upto),
			void (*moved)(void *arg), void *arg, bool early)
{
	struct fleet *fleet = calloc(1, sizeof(*fleet));
	unsigned int i;

	if (!fleet)
		return NULL;
	fleet->give = give;
	fleet->moved = moved;
	fleet->arg = arg;
	fleet->early = early;
	/* Not touched until it is used, which is not while the guest stands. */
	fleet->mapped = mmap(NULL, FLEET_ROOMS * sizeof(struct fleet_room),
			     PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fleet->mapped == MAP_FAILED) {
		free(fleet);
		return NULL;
	}
	for (i = 0; i < FLEET_ROOMS; i++) {
		fleet->mapped[i].next = fleet->rooms;
		fleet->rooms = &fleet->mapped[i];
	}
	for (i = 0; i < FLEET_FRAMES; i++) {
		struct fleet_frame *frame = &fleet->frames[i];

		pageframe_init(&frame->out);
		frame->out.tx.sent = fleet_sent;
		frame->out.tx.done = fleet_back;
		frame->fleet = fleet;
		fleet_put(frame);
	}
	return fleet;
}

void fleet_free(struct fleet *fleet)
{
	free(fleet->rings);
	munmap(fleet->mapped, FLEET_ROOMS * sizeof(struct fleet_room));
	free(fleet);
}

bool fleet_rings(struct fleet *fleet, unsigned int nr)
{
	if (nr <= fleet->nr_rings)
		return true;
	free(fleet->rings);
	fleet->rings = calloc(nr, sizeof(*fleet->rings));
	fleet->nr_rings = fleet->rings ? nr : 0;
	return fleet->nr_rings;
}

void *fleet_rooms(const struct fleet *fleet, size_t *bytes)
{
	*bytes = FLEET_ROOMS * sizeof(struct fleet_room);
	return fleet->mapped;
}

bool fleet_has_room(const struct fleet *fleet)
{
	return fleet->rooms;
}

bool fleet_can(const struct fleet *fleet, bool encode)
{
	return fleet->free && (!encode || fleet->rooms);
}

bool fleet_waits(const struct fleet *fleet)
{
	return fleet->waiting;
}

struct fleet_frame *fleet_get(struct fleet *fleet, uint32_t ring, bool encode)
{
	struct fleet_frame *frame = fleet->free;

	fleet->free = frame->next;
	frame->next = NULL;
	frame->ring = ring;
	frame->back = false;
	frame->room = encode ? fleet->rooms : NULL;
	if (frame->room)
		fleet->rooms = frame->room->next;
	pageframe_begin(&frame->out, frame->room ? frame->room->data : NULL);
	return frame;
}

void fleet_leaves(struct fleet_frame *frame, uint64_t upto)
{
	struct fleet_ring *ring;

	frame->waits = true;
	frame->fleet->waiting++;
	if (frame->ring == FLEET_NO_RING)
		return;
	frame->upto = upto;
	ring = &frame->fleet->rings[frame->ring];
	if (ring->first)
		ring->last->next = frame;
	else
		ring->first = frame;
	ring->last = frame;
}

void fleet_pass(struct fleet *fleet, uint32_t index, uint64_t upto)
{
	struct fleet_ring *ring = &fleet->rings[index];

	if (ring->first)
		ring->last->upto = upto;
	else
		fleet->give(fleet->arg, index, upto);
}
