/* SPDX-License-Identifier: GPL-2.0 */
/*
 * plug: hold what a guest sends until its epoch is committed.
 *
 * What a guest sends through a tap is ingress on the host. It is redirected to
 * an ifb whose root is the `plug` qdisc, and comes back to the tap's ingress
 * from there:
 *
 *	tap -> clsact/ingress: matchall -> mirred redirect -> ifb (plug)
 *	       bridge  <- tap's receive path, past the filters <-'
 *
 * One struct plug is one tap. Segments: plug_buffer() closes the one that is
 * filling and opens the next; plug_release_one() lets the closed one go. Only
 * one closed segment at a time: sch_plug keeps the count of one only, so a
 * plug_buffer() with one closed and unreleased fails with EBUSY.
 *
 * All calls are synchronous netlink, bounded as netlink.h says. On the freeze
 * path (buffer, release) nothing is allocated.
 *
 * If the agent dies, the plug stays and holds (that is what it is for);
 * plug_cleanup() takes it away.
 */
#ifndef AGENT_PLUG_H
#define AGENT_PLUG_H

#include <stdbool.h>
#include <stdint.h>

#include "why.h"

struct plug;

/* Output held at most, bytes; what comes beyond is dropped, as by a full NIC. */
#define PLUG_LIMIT	(256u << 20)

/**
 * struct plug_held - what is in the plug
 * @packets:	packets (a GSO packet counts as one)
 * @bytes:	bytes
 * @drops:	packets dropped since plug_open() because of PLUG_LIMIT
 */
struct plug_held {
	uint64_t packets;
	uint64_t bytes;
	uint64_t drops;
};

/**
 * plug_open - put a plug on a tap
 * @ifname:	the tap, in our network namespace
 *
 * Output still flows afterwards (through the plug) until plug_buffer().
 * What an agent that was killed had left there is an error (EEXIST): call
 * plug_cleanup() first.
 *
 * Errors: NULL with errno set and @why filled; nothing stays behind.
 */
struct plug *plug_open(const char *ifname, struct why *why);

/**
 * plug_buffer - close the filling segment, begin the next; hold from now on
 *
 * From an open plug (after plug_open() or plug_release_all()) this starts the
 * holding; packets that are on their way out then are waited for (bounded by
 * 100 ms), so the guest should be stopped.
 *
 * Errors: EBUSY a closed segment is not released yet; EAGAIN the way out does
 * not drain; the kernel's.
 */
int plug_buffer(struct plug *p, struct why *why);

/**
 * plug_release_one - let the closed segment go
 *
 * Without a closed segment (after plug_release_all()) nothing happens.
 */
int plug_release_one(struct plug *p, struct why *why);

/* Let everything go, and what comes, until the next plug_buffer(). */
int plug_release_all(struct plug *p, struct why *why);

/* What is held now. */
int plug_held(struct plug *p, struct plug_held *held, struct why *why);

/* Name of the ifb. */
const char *plug_ifb(const struct plug *p);
/* Index of the tap that it was put on. */
unsigned int plug_tap_index(const struct plug *p);

/**
 * plug_close - take the plug away, in mirror order; frees @p in any case
 * @p:		may be NULL
 * @release:	true: what is held goes out first; false: it is dropped
 *
 * Returns 0 or the first error met; goes on after errors. That the tap is gone
 * already is no error.
 */
int plug_close(struct plug *p, bool release, struct why *why);

/**
 * plug_cleanup - remove what a killed agent left on a tap
 * @ifname:	the tap; NULL: all plugs whose tap is gone
 *
 * What is held is dropped. Call it only where no other agent can be at work on
 * the tap, that is after VMREPL_ATTACH has succeeded or failed otherwise than
 * with EBUSY.
 *
 * Returns 1 something was removed; 0 there was nothing; negative errno.
 */
int plug_cleanup(const char *ifname, struct why *why);

#endif /* AGENT_PLUG_H */
