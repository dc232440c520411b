/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lanes: a link's streams (--streams): connections of their own that carry its PAGES
 * frames and nothing else, so that what is said on the link itself waits behind no page.
 *
 * Each is a struct link, which begins with JOIN: the token that ACCEPT had, and the same in
 * answer. Frames of one lane come in order; of two they may overtake each other and what
 * comes on the link, so those of an epoch are put off until it has begun there.
 *
 * A lane that is lost says nothing about the other side: who decides that is the link.
 *
 * What owners use is link_offer_lanes() and the like, in link.h; this is for link.c.
 */
#ifndef VMREPL_LANES_H
#define VMREPL_LANES_H

#include <stdbool.h>
#include <stdint.h>

#include "link.h"

struct lanes;

/**
 * struct lanes_handlers - what lanes tell their link
 * @frame:  PAGES, as in struct link_handlers; never put off
 * @lost:   one is of no more use; a sentence
 * @closed: another one is gone; the last thing that is done with it
 */
struct lanes_handlers {
	void (*frame)(void *arg, const struct frame *frame);
	void (*lost)(void *arg, const char *why);
	void (*closed)(void *arg);
};

/* NULL: no memory. */
struct lanes *lanes_new(struct loop *loop, const struct lanes_handlers *handlers, void *arg);
/* None is left, see lanes_busy(). NULL is fine, here and below. */
void lanes_free(struct lanes *lanes);

/* Accepting side: there may be @nr; draws the token. Returns 0 or -errno: there may be none. */
int lanes_offer(struct lanes *lanes, unsigned int nr, uint8_t *token);
/* It has joined with @frame, a JOIN; false: it may not. The link is ours then. */
bool lanes_adopt(struct lanes *lanes, struct link *link, const struct frame *frame);
/* The epoch has begun on the link. */
void lanes_begin(struct lanes *lanes, uint64_t epoch);

/* Connecting side: see link_dial_lanes(). */
void lanes_dial(struct lanes *lanes, const struct link_ops *ops, const struct link_addr *addr,
		unsigned int nr, const uint8_t *token,
		void (*done)(void *arg, const char *why), void *arg);
/* As link_send(); they are lanes_open(). */
uint64_t lanes_send(struct lanes *lanes, struct link_tx *tx, uint64_t epoch);

/* Whether pages go by them: how many there are. */
unsigned int lanes_open(const struct lanes *lanes);
/* As link_rate(), of all. */
uint64_t lanes_rate(const struct lanes *lanes);

/* As link_full(). */
bool lanes_full(const struct lanes *lanes);

/* What waits on them comes back, not sent; no page goes by them any more. */
void lanes_unqueue(struct lanes *lanes);
/* Ends them; nothing is told but @closed. */
void lanes_close(struct lanes *lanes);
/* Whether something of them is left. */
bool lanes_busy(const struct lanes *lanes);

#endif /* VMREPL_LANES_H */
