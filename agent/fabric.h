/* SPDX-License-Identifier: GPL-2.0 */
/*
 * fabric: a queue pair between primary and standby, connected by rdma_cm(7), for data
 * that goes past their connection. The standby offers it there, the primary joins.
 *
 * Who knows the offer's token, which went over the connection, may attach to it, and only
 * one can. Nothing on the fabric is encrypted, the token neither: who can send on the
 * fabric as if he were one of the two hosts can read and write what the other one has
 * registered, and no more.
 *
 * All calls and callbacks are in the loop's thread.
 */
#ifndef VMREPL_FABRIC_H
#define VMREPL_FABRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "loop.h"
#include "why.h"

#define FABRIC_TOKEN_BYTES	16
/* Slots that a standby offers; the most that a primary believes in. */
#define FABRIC_SLOTS		32u
#define FABRIC_SLOTS_MAX	4096u

/**
 * struct fabric_offer - what the primary has to know
 * @port:    of rdma_cm's RDMA_PS_TCP, at the standby's address of the connection
 * @slots:   in the landing buffer, 1 to FABRIC_SLOTS_MAX, of PLACED_SLOT bytes each
 * @key:     of the buffer's memory, for RDMA writes
 * @address: where it begins, below 2^63
 * @token:   goes with the request for the connection
 */
struct fabric_offer {
	uint16_t port;
	uint32_t slots;
	uint32_t key;
	uint64_t address;
	uint8_t token[FABRIC_TOKEN_BYTES];
};

/**
 * struct fabric_handlers - what a fabric tells its owner
 * @joined: the primary's end, once: NULL, it is connected; or a sentence, and
 *          fabric_close() is all that can be done with it
 * @moved:  look again, as in qpair_new(), which says what
 *
 * It may be closed from within both.
 */
struct fabric_handlers {
	void (*joined)(void *arg, const char *why);
	void (*moved)(void *arg);
};

struct fabric;
struct qpair;

/**
 * fabric_offer() - the standby's end
 * @local:      its address of the connection
 * @timeout_ns: the queue pair gives up what is not acknowledged for half of it, about
 * @offer:      out
 *
 * Registers the landing buffer. Returns NULL with a sentence in @why, where there is no
 * device with that address, say.
 */
struct fabric *fabric_offer(struct loop *loop, const struct sockaddr_storage *local,
			    uint64_t timeout_ns, const struct fabric_handlers *handlers,
			    void *arg, struct fabric_offer *offer, struct why *why);

/**
 * fabric_join() - the primary's end
 * @peer: the standby's address of the connection
 *
 * Returns NULL with a sentence in @why; else @joined comes, within 5 s.
 */
struct fabric *fabric_join(struct loop *loop, const struct sockaddr_storage *peer,
			   uint64_t timeout_ns, const struct fabric_handlers *handlers,
			   void *arg, const struct fabric_offer *offer, struct why *why);

/* Ends it: nothing touches registered memory any more. NULL is fine. */
void fabric_close(struct fabric *fabric);

/* Once @joined: what carries the data. */
struct qpair *fabric_qpair(struct fabric *fabric);
/* Whether it is connected, and not broken. */
bool fabric_joined(const struct fabric *fabric);

#endif /* VMREPL_FABRIC_H */
