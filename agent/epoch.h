/* SPDX-License-Identifier: GPL-2.0 */
/*
 * epoch: the standby's buffer of one epoch.
 *
 * An epoch is collected frame by frame, verified as a whole at its end, and only
 * then applied: a stream that stops or lies at any byte before changes nothing
 * (I2). The rounds of a first sync (FRAME_BEGIN_LIVE) are applied as they come,
 * because there is nothing yet, or no longer, that they could harm.
 *
 * Knows no QEMU and no network: what is to be applied goes to a callback.
 */
#ifndef VMREPL_EPOCH_H
#define VMREPL_EPOCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"
#include "why.h"

/* Pages given to epoch_apply_fn at once, at most. */
#define EPOCH_BATCH	FRAME_PAGES_MAX

/* Device state of one epoch, at most. */
#define EPOCH_STATE_MAX	(256u << 20)

/**
 * struct epoch_page - a page to apply
 * @block: index into the primary's blocks
 * @page:  number of the page in it
 * @data:  4096 bytes, or NULL for zeros
 */
struct epoch_page {
	uint32_t block;
	uint64_t page;
	const void *data;
};

/**
 * epoch_apply_fn - put pages into the standby's VM
 *
 * @nr is 1 to EPOCH_BATCH; in the order in which they came. Returns 0 or -errno,
 * with a sentence.
 */
typedef int (*epoch_apply_fn)(void *arg, const struct epoch_page *pages, unsigned int nr,
			      struct why *why);

/**
 * epoch_read_fn - what the standby's VM holds
 *
 * 4096 bytes of a page that exists, after all that was applied. Returns 0 or -errno, with
 * a sentence.
 */
typedef int (*epoch_read_fn)(void *arg, uint32_t block, uint64_t page, void *data,
			     struct why *why);

/**
 * struct epoch_shape - what an epoch may hold
 * @nr_blocks: the primary's blocks
 * @pages:     pages in each
 * @max_bytes: payload of one epoch at most
 */
struct epoch_shape {
	unsigned int nr_blocks;
	const uint64_t *pages;
	uint64_t max_bytes;
};

struct epoch;

/**
 * epoch_new() - an empty buffer
 * @shape:  belongs to the caller, may change while no epoch is collected
 * @early:  VMREPL_DEBUG_BREAK=apply-early: apply pages as they come, which breaks
 *          I2
 */
struct epoch *epoch_new(const struct epoch_shape *shape, epoch_apply_fn apply,
			epoch_read_fn read, void *arg, bool early);
/* NULL is fine. */
void epoch_free(struct epoch *epoch);

/* Forgets everything; what frames were left in is let go. */
void epoch_reset(struct epoch *epoch);

/**
 * epoch_add() - the next frame of the epoch
 * @frame: valid; EPOCH_BEGIN, PAGES, STATE or EPOCH_END. PAGES are kept where they are,
 *         in their landing
 *
 * Begins with EPOCH_BEGIN on an empty buffer. With FRAME_BEGIN_STREAMS some of its PAGES
 * may come behind EPOCH_END. Returns 1 where the epoch is
 * whole and verified; 0 where more is to come; -EPROTO, -EFBIG, -ENOMEM or what
 * applying a live page returned, with a sentence: the epoch is void, reset it.
 */
int epoch_add(struct epoch *epoch, const struct frame *frame, struct why *why);

/**
 * epoch_apply() - apply a part of a whole epoch
 * @max: pages, about
 *
 * Returns 1 where there is more, 0 when all is applied, -errno.
 */
int epoch_apply(struct epoch *epoch, unsigned int max, struct why *why);

/* Its number; 0 where it is empty. */
uint64_t epoch_number(const struct epoch *epoch);
/* Whether it is a round of a first sync. */
bool epoch_live(const struct epoch *epoch);
/* Whether its guest is not to be started: somebody had stopped it. Once it is whole. */
bool epoch_stands(const struct epoch *epoch);
/* Whether it is torn, and to be dropped. */
bool epoch_torn(const struct epoch *epoch);
/* Whether it is empty. */
bool epoch_empty(const struct epoch *epoch);
/* Pages in it so far. */
uint64_t epoch_pages(const struct epoch *epoch);

/*
 * Its device state; stays the epoch's. epoch_swap_state() trades it for another
 * buffer (which the epoch uses next), so that it outlives the epoch.
 */
struct epoch_state {
	uint8_t *data;
	size_t len;
	size_t room;
};
void epoch_swap_state(struct epoch *epoch, struct epoch_state *state);
/*
 * What a delta of its device state is of: @base, which stays the caller's and may change
 * while no epoch is collected. NULL, as at first: there can be none.
 */
void epoch_compare_state(struct epoch *epoch, const struct epoch_state *base);

#endif /* VMREPL_EPOCH_H */
