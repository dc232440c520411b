/* SPDX-License-Identifier: GPL-2.0 */
/*
 * peer: the standby as the primary talks with it, on one connection after the
 * other: greeting, answers, goodbye. When to connect, and what an answer means for
 * the VM and its output, is the owner's.
 *
 *	peer_connect() --> up --> accepted --> acked ... --> lost --> closed
 *						   \-> peer_leave() --> freed -/
 */
#ifndef VMREPL_PEER_H
#define VMREPL_PEER_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

#include "hello.h"
#include "link.h"
#include "loop.h"
#include "options.h"
#include "pagesums.h"
#include "why.h"

/**
 * struct peer - of one primary
 * @up:      connected; false: it is not to be greeted, peer_close() was called, or
 *           peer_leave()
 * @accepted: it agrees; now the VM may be touched. @beat_ns: send at least this
 *           often from the first epoch on. False: peer_leave() was called
 * @acked:   it has the epoch; false: it cannot have
 * @left:    it said BYE: it will not take over, whatever comes. @lost follows
 * @freed:   it has answered our BYE. @closed follows
 * @lost:    the connection has ended, in any other way than peer_close(): a sentence
 * @broken:  it lives, but pages have got lost on the way to it: a sentence
 * @closed:  nothing of the connection is left
 * @arg:     given to all
 * @hello:   what it is told of us; the owner's
 * @options: the owner's
 *
 * Set these before peer_connect(). @link is for sending epochs, NULL where there is
 * no connection; @agreed: on this connection it has accepted; @sums: when @accepted is
 * called, what it holds, or NULL: who wants it takes it away. The rest is private.
 */
struct peer {
	bool (*up)(void *arg);
	bool (*accepted)(void *arg, uint64_t beat_ns);
	bool (*acked)(void *arg, uint64_t epoch);
	void (*left)(void *arg, enum frame_bye_reason reason);
	void (*freed)(void *arg);
	void (*lost)(void *arg, const char *why);
	void (*broken)(void *arg, const char *why);
	void (*closed)(void *arg);
	void *arg;
	const struct hello *hello;
	const struct options *options;

	struct link *link;
	bool agreed;
	struct pagesums *sums;

	struct loop *loop;
	char sums_key[PAGESUMS_KEY_LEN + 1];
	bool counting;		/* it tells what it holds */
	uint64_t count_began;
	bool joining;		/* accepted; waits for carrier_join() */
	uint64_t beat_ns;
	bool leaving;		/* BYE is said */
	struct loop_timer answer;	/* to it */
	struct loop_timer streamless;
	struct why why;			/* @broken's */
};

/* Begins a connection; there is none. @lost may be called from within. */
void peer_connect(struct peer *peer, struct loop *loop);

/*
 * Says goodbye. What comes next is its answer, or its loss, if only because no answer
 * comes within --max-stall. False: nobody has to
 * be told, the connection, if there is one, ends at once.
 */
bool peer_leave(struct peer *peer, enum frame_bye_reason reason, const char *text);

/* Ends the connection, if there is one; no @lost. */
void peer_close(struct peer *peer);

/* The standby's address, while there is a connection. */
const char *peer_name(const struct peer *peer);
/* Adds peer, key, connected and what carrier_status() does to @o. */
void peer_status(const struct peer *peer, struct json_object *o);
/* Nanoseconds since it was heard last; 0 where there is no connection. */
uint64_t peer_silence(const struct peer *peer);

#endif /* VMREPL_PEER_H */
