/* SPDX-License-Identifier: GPL-2.0 */
/*
 * outbox: what is to be sent on one connection, in order: frames that wait, the one that
 * is being sent, and those that are sent but whose memory the transport still reads.
 *
 *	outbox_add() --> waits --> is being sent --> @tx->sent --> lent --> @tx->done
 *			   \-> outbox_unqueue() ---------------------------/
 */
#ifndef VMREPL_OUTBOX_H
#define VMREPL_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "link.h"

/**
 * struct outbox - of one connection
 * @sent: a frame is with the transport, and the next one is on its way: 0; or -errno:
 *        nothing more can be sent
 * @back: a frame is the caller's again. May be called from within @sent's caller
 * @arg:  given to both
 *
 * Set these, @ops and @wire. The rest is private.
 */
struct outbox {
	void (*sent)(void *arg, int res);
	void (*back)(void *arg);
	void *arg;
	const struct link_ops *ops;
	struct link_wire *wire;

	struct link_tx *first;	/* what waits; the first of it may be being sent */
	struct link_tx *last;
	struct link_tx *lent;
	uint64_t seq;
	uint64_t bytes;
	bool busy;		/* the first one is */
	bool closed;
};

/* Seals and queues a frame. Returns its checksum. Nothing is sent before outbox_send(). */
uint64_t outbox_add(struct outbox *box, struct link_tx *tx, enum frame_type type,
		    uint64_t epoch);
/* Begins with what waits, unless something is being sent. */
void outbox_send(struct outbox *box);
/* Takes back all but the frame that is being sent: their numbers are free again. */
void outbox_unqueue(struct outbox *box);
/* Begins with nothing any more. */
void outbox_close(struct outbox *box);
/* Hands back what is lent, though the transport may read it still. */
void outbox_abandon(struct outbox *box);

/* A frame made of a copy of @payload, which frees itself. NULL: no memory. */
struct link_tx *outbox_copy(const void *payload, size_t len);

/* Bytes that wait or are being sent. */
static inline uint64_t outbox_bytes(const struct outbox *box)
{
	return box->bytes;
}

/* Whether nothing waits or is being sent. */
static inline bool outbox_empty(const struct outbox *box)
{
	return !box->first;
}

#endif /* VMREPL_OUTBOX_H */
