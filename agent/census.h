/* SPDX-License-Identifier: GPL-2.0 */
/*
 * census: the standby tells a primary what is in its VM's memory (pagesums.h), before the
 * first epoch of a connection. It goes through the loop a piece at a time.
 *
 * Only pages that are there are read: to read others would make them. A page that
 * cannot be read is not told of, and comes over the link then.
 */
#ifndef VMREPL_CENSUS_H
#define VMREPL_CENSUS_H

#include "link.h"
#include "loop.h"
#include "ramblock.h"
#include "store.h"

struct census;

/**
 * census_new() - begin
 * @store:  whose VM; it begins when all that is committed is in its memory
 * @blocks: names its pages, with their addresses; stays the caller's, until the end
 * @key:    of the primary, as text
 *
 * Returns NULL: no memory, or no @key.
 */
struct census *census_new(struct loop *loop, struct link *link, const struct store *store,
			  const struct ramblock_table *blocks, const char *key);

/*
 * Ends it, done or not: what is in its memory changes from now on. What the link has of
 * it is freed with its last byte. NULL is fine.
 */
void census_end(struct census *census);

#endif /* VMREPL_CENSUS_H */
