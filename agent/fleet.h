/* SPDX-License-Identifier: GPL-2.0 */
/*
 * fleet: the PAGES frames that an outgoing epoch is sent in, while they are under way. The
 * link takes them as fast as it can, but what it has taken its transport may still read: so
 * the slots of a ring are given back in their order, when the frames that they are in are
 * back.
 *
 * Everything is allocated by fleet_new() and fleet_rings(), nothing later.
 */
#ifndef VMREPL_FLEET_H
#define VMREPL_FLEET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pageframe.h"

/* Of a frame whose pages are in no ring. */
#define FLEET_NO_RING	UINT32_MAX

struct fleet;
struct fleet_room;

/**
 * struct fleet_frame - one frame
 * @out:  it
 *
 * The rest is private.
 */
struct fleet_frame {
	struct pageframe out;

	struct fleet *fleet;
	struct fleet_frame *next;	/* of those that are free, or in its ring */
	struct fleet_room *room;	/* NULL: its pages go as they are */
	uint32_t ring;			/* or FLEET_NO_RING */
	uint64_t upto;			/* records before this are done with it */
	bool back;
	bool waits;			/* for the link to take it */
};

/**
 * fleet_new() - make one
 * @give:  all records of a ring before @upto are needed by nobody
 * @moved: the link has taken a frame, or one is back
 * @early: VMREPL_DEBUG_BREAK=give-early: give slots back when the link has taken their
 *         frame, though the kernel still reads them, which breaks I3
 *
 * Neither is called from within a call of the owner's but link_send(). NULL: no memory.
 */
struct fleet *fleet_new(void (*give)(void *arg, uint32_t ring, uint64_t upto),
			void (*moved)(void *arg), void *arg, bool early);
/* Every frame must be back. */
void fleet_free(struct fleet *fleet);

/* There are so many rings now. Nothing is under way where there were fewer. False: no memory. */
bool fleet_rings(struct fleet *fleet, unsigned int nr);
/* Where encoded pages are sent from. */
void *fleet_rooms(const struct fleet *fleet, size_t *bytes);

/* Whether there is a frame, and room for its pages where they are to be encoded. */
bool fleet_can(const struct fleet *fleet, bool encode);
/* Whether there is room for encoded pages. */
bool fleet_has_room(const struct fleet *fleet);
/* Whether the link has not taken all yet. */
bool fleet_waits(const struct fleet *fleet);

/* An empty frame, where fleet_can(). */
struct fleet_frame *fleet_get(struct fleet *fleet, uint32_t ring, bool encode);
/* It is not needed. */
void fleet_put(struct fleet_frame *frame);
/* It is about to be handed to the link; with it records before @upto of its ring are done. */
void fleet_leaves(struct fleet_frame *frame, uint64_t upto);
/* Records before @upto are in no frame that is not under way. */
void fleet_pass(struct fleet *fleet, uint32_t ring, uint64_t upto);

#endif /* VMREPL_FLEET_H */
