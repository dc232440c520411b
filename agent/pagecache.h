/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pagecache: of the pages that were sent last, what the standby holds. Bounded: a new one
 * takes the place of the oldest of its set.
 */
#ifndef VMREPL_PAGECACHE_H
#define VMREPL_PAGECACHE_H

#include <stddef.h>
#include <stdint.h>

struct pagecache;

/* Room for @bytes of pages, and some 24 bytes more for each. NULL: no memory. */
struct pagecache *pagecache_new(size_t bytes);
/* NULL is fine. */
void pagecache_free(struct pagecache *cache);

/* The standby may hold anything. */
void pagecache_forget(struct pagecache *cache);

/*
 * What the standby holds of a page before the epoch @epoch; NULL where it is not known. A
 * page that was sent in this very epoch is none to compare with: it is not applied yet.
 */
const void *pagecache_find(const struct pagecache *cache, uint32_t block, uint64_t page,
			   uint64_t epoch);

/* It gets @data in the epoch @epoch; NULL: something that is not kept. */
void pagecache_put(struct pagecache *cache, uint32_t block, uint64_t page, uint64_t epoch,
		   const void *data);

/* What was put in that epoch the standby has dropped. */
void pagecache_torn(struct pagecache *cache, uint64_t epoch);

#endif /* VMREPL_PAGECACHE_H */
