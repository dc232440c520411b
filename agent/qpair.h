/* SPDX-License-Identifier: GPL-2.0 */
/*
 * qpair: a reliable connected queue pair that carries data one way: the writer puts it
 * into slots of the reader's landing buffer by RDMA write, the last one of each with an
 * immediate, and the reader gives slots back by empty sends with one. See ibv_post_send(3).
 *
 * Who connects it is fabric's. Nothing is allocated once it is open. All calls and
 * callbacks are in the loop's thread.
 */
#ifndef VMREPL_QPAIR_H
#define VMREPL_QPAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "loop.h"
#include "why.h"

struct ibv_context;
struct rdma_cm_id;
struct qpair;

/**
 * qpair_new() - what a queue pair needs of a device
 * @moved: a write is done, a slot was given back, data has landed, or it is broken; the
 *         last thing that is done with it: it may be freed from within
 *
 * Returns NULL with a sentence in @why.
 */
struct qpair *qpair_new(struct loop *loop, struct ibv_context *device,
			void (*moved)(void *arg), void *arg, struct why *why);
/*
 * Also where it is open: nothing touches its memory, or what it was lent, any more.
 * @id has it, or is NULL. NULL is fine.
 */
void qpair_free(struct qpair *q, struct rdma_cm_id *id);

/*
 * Reader: makes the landing buffer of @slots slots and registers it. Returns 0 or
 * -errno with a sentence.
 */
int qpair_land(struct qpair *q, uint32_t slots, uint64_t *address, uint32_t *key,
	       struct why *why);
/* Writer: where the reader's is. */
void qpair_aim(struct qpair *q, uint32_t slots, uint64_t address, uint32_t key);

/* Makes it, for @id to connect. After one of the two above. Errors: with a sentence. */
int qpair_open(struct qpair *q, struct rdma_cm_id *id, struct why *why);

/*
 * Writer: data will be sent from there, and it stays until qpair_free(). Registers, and so
 * pins, the memory. Errors: with a sentence.
 */
int qpair_lend(struct qpair *q, void *mem, size_t bytes, struct why *why);
/* Whether all of it was lent, and is in no more than FRAME_PAGES_MAX parts. */
bool qpair_holds(const struct qpair *q, const struct iovec *iov, int n);

/* Writer: whether a slot is free and no write is under way. */
bool qpair_room(const struct qpair *q);
/*
 * Writes what qpair_holds(), PLACED_SLOT bytes at most, into the next slot, while there is
 * qpair_room(). Returns 0 and its @number, or -errno: then the queue pair is broken.
 */
int qpair_write(struct qpair *q, const struct iovec *iov, int n, uint64_t *number);
/* Whether the last write is under way: its memory must stay as it is. */
bool qpair_writing(const struct qpair *q);
/* Bytes of all writes so far that are done. */
uint64_t qpair_sent(const struct qpair *q);
/* Bytes a second of the writes so far, an average over the last; 0: none yet. */
uint64_t qpair_rate(const struct qpair *q);

/* Reader: the slot to be read next, or NULL where it has not landed yet. @number: its. */
const uint8_t *qpair_slot(const struct qpair *q, uint64_t *number);
/* It was read: the writer may have it. */
void qpair_give(struct qpair *q);

/**
 * struct qpair_rest - what had landed when a queue pair broke, and was not read yet
 * @mem:    the landing buffer; NULL: there is none
 * @slots:  in it
 * @landed: numbers before this one are there
 * @read:   and these were read
 */
struct qpair_rest {
	uint8_t *mem;
	uint32_t slots;
	uint64_t landed;
	uint64_t read;
};

/* Reader, of one that is broken: takes the landing buffer out, before qpair_free(). */
void qpair_leave(struct qpair *q, struct qpair_rest *rest);
/* As qpair_slot() and qpair_give(). */
const uint8_t *qpair_rest_slot(const struct qpair_rest *rest, uint64_t *number);
void qpair_rest_free(struct qpair_rest *rest);

/* Why it is of no more use, a sentence; NULL: it is not broken. */
const char *qpair_broken(const struct qpair *q);
/* It is, by what was seen elsewhere; only the first reason is kept. */
void qpair_break(struct qpair *q, const char *why);

#endif /* VMREPL_QPAIR_H */
