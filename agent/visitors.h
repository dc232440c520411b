/* SPDX-License-Identifier: GPL-2.0 */
/*
 * visitors: the standby's port, and who has come to it. Of them at most one becomes the
 * primary, some become its streams; the others have a few seconds to say HELLO or JOIN.
 *
 * Anybody may connect, so there are few places, and when they are taken the one goes
 * that has waited longest of the address that has most of them: an address that
 * floods the port drives itself out. A flood from the primary's own address, or from
 * many, can still keep the primary out while it lasts.
 */
#ifndef VMREPL_VISITORS_H
#define VMREPL_VISITORS_H

#include <stdbool.h>
#include <stdint.h>

#include "link.h"
#include "loop.h"
#include "why.h"

/* Connections that have said neither HELLO nor JOIN, or were refused. */
#define VISITORS_WAITING	8u
/* Those, the primary, and what is still being closed. */
#define VISITORS_PLACES		(2 * VISITORS_WAITING)
#define VISITORS_GREET_NS	(5 * NSEC_PER_SEC)

struct visitors;

/**
 * struct visitor - one connection
 * @link: to it
 *
 * The rest is private.
 */
struct visitor {
	struct link *link;

	struct visitors *visitors;
	struct loop_timer greet;
	uint64_t since;
	bool greeted;		/* the owner has taken it */
	bool refused;		/* or not, or it is being closed */
};

/**
 * struct visitors - of one standby
 * @hello:  it says HELLO, in @frame; true: it is taken, else visitors_refuse() was called
 * @join:   it says JOIN; true: its link was adopted and is no visitor's any more
 * @frame:  the next frame of one that was taken, see struct link_handlers
 * @down:   the connection of one that was taken is lost
 * @lanes_lost: its streams are
 * @closed: and is about to be forgotten
 * @arg:    given to all
 *
 * Set these before visitors_open(). The rest is private.
 */
struct visitors {
	bool (*hello)(void *arg, struct visitor *visitor, const struct frame *frame);
	bool (*join)(void *arg, struct visitor *visitor, const struct frame *frame);
	bool (*frame)(void *arg, struct visitor *visitor, const struct frame *frame);
	void (*down)(void *arg, struct visitor *visitor, const char *why);
	void (*lanes_lost)(void *arg, struct visitor *visitor, const char *why);
	void (*closed)(void *arg, struct visitor *visitor);
	void *arg;

	struct loop *loop;
	const struct link_ops *ops;
	struct link_door *door;
	struct visitor places[VISITORS_PLACES];
};

/* Opens the port. Returns 0 or -errno with a sentence; visitors_close() in any case. */
int visitors_open(struct visitors *visitors, struct loop *loop, const struct link_ops *ops,
		  const struct link_addr *addr, struct why *why);
/* Ends all connections, and waits for that. */
void visitors_close(struct visitors *visitors);

/* Tells it why, and ends the connection. */
void visitors_refuse(struct visitor *visitor, const char *sentence);

#endif /* VMREPL_VISITORS_H */
