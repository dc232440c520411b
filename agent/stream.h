/* SPDX-License-Identifier: GPL-2.0 */
/*
 * stream: one outgoing epoch, from the module's rings into the link.
 *
 * Pages are sent from where the module put them; a ring's slots are given back
 * when the transport does not read them any more. Everything that is needed while the
 * guest stands was allocated by stream_new().
 */
#ifndef VMREPL_STREAM_H
#define VMREPL_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "link.h"
#include "pagesums.h"
#include "ramblock.h"
#include "session.h"

/**
 * struct stream_totals - of the epoch so far
 * @pages:       page records
 * @zero_pages:  those that are zeros
 * @same_pages:  those left out: the standby holds them
 * @state_bytes: device state
 * @state_sent:  on the wire for it, frames' headers with them
 * @bytes:       on the wire
 */
struct stream_totals {
	uint64_t pages;
	uint64_t zero_pages;
	uint64_t same_pages;
	uint64_t state_bytes;
	uint64_t state_sent;
	uint64_t bytes;
};

struct stream;
struct encoder;

/* @encoder stays the caller's. @early: as in fleet_new(). NULL: no memory. */
struct stream *stream_new(struct loop *loop, struct encoder *encoder, bool early);
/* Live rounds take no more of the link than so many bytes a second; 0: what it carries. */
void stream_limit(struct stream *stream, uint64_t rate);
/* Every frame must be back from the link. NULL is fine. */
void stream_free(struct stream *stream);

/*
 * Once for each connection, before its first epoch: where pages can go past it they will be
 * sent from the session's rings, and from where they are encoded. The small blocks' copies
 * go over the connection.
 */
void stream_lend(struct stream *stream, struct link *link, const struct session *session);

/* A round of the first sync. */
#define STREAM_LIVE		(1u << 0)
/*
 * Send the @copy of every small block and nothing else: no ring is looked at. They stay until
 * the epoch is acknowledged. The rings have these pages, too, and newer, and of one epoch's
 * pages none comes before another.
 */
#define STREAM_COPIES		(1u << 1)
/* The guest stands until all is collected: nothing is encoded meanwhile. */
#define STREAM_STANDS		(1u << 2)

/**
 * stream_begin() - start an epoch
 * @blocks: names the pages
 * @flags:  STREAM_*
 * @held:   what the standby holds already, which is left out; must stay until the epoch
 *          is collected or abandoned. NULL: nothing
 */
void stream_begin(struct stream *stream, struct link *link, struct session *session,
		  struct ramblock_table *blocks, uint64_t epoch, uint32_t flags,
		  struct pagesums *held);

/**
 * stream_collect() - take the rings' records until each has shown its end
 * @done: called once, maybe from within: 0; -ESRCH the VM is gone; -EIO the
 *        session is broken; -ESTALE a page is in no known block; -ELOOP records
 *        of another epoch
 */
void stream_collect(struct stream *stream, void (*done)(void *arg, int err), void *arg);

/*
 * Forgets the epoch: @done is not called any more, nothing more is taken. What
 * is in the link stays there.
 */
void stream_abandon(struct stream *stream);

/*
 * Sends the device state and the end. @state stays the caller's and must stay
 * until the epoch is acknowledged or the link is closed. @flags: FRAME_END_*.
 * Returns 0 or -ENOMEM.
 */
int stream_end(struct stream *stream, const uint8_t *state, size_t len, uint32_t flags);

/*
 * After stream_begin(): whether its pages will be encoded, which takes time. Who cannot
 * have that yet calls stream_collect() later.
 */
bool stream_encodes(const struct stream *stream);

/* After stream_collect(): what was sent is not the checkpoint, see VMREPL_REC_TORN. */
bool stream_torn(const struct stream *stream);

const struct stream_totals *stream_totals(const struct stream *stream);

#endif /* VMREPL_STREAM_H */
