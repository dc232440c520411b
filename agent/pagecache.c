// SPDX-License-Identifier: GPL-2.0
/*
 * pagecache: sets of four pages, found by a hash of where they belong.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "frame.h"
#include "pagecache.h"

#define PAGECACHE_WAYS	4u

struct pagecache_entry {
	uint64_t page;
	uint64_t epoch;		/* that it was sent in; 0: it is nobody's */
	uint32_t block;
};

struct pagecache {
	size_t nr;		/* entries, a multiple of the ways */
	bool used;		/* something was put there */
	struct pagecache_entry *entries;
	uint8_t *data;
};

struct pagecache *pagecache_new(size_t bytes)
{
	struct pagecache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return NULL;
	cache->nr = bytes / FRAME_PAGE_SIZE / PAGECACHE_WAYS * PAGECACHE_WAYS;
	if (!cache->nr)
		cache->nr = PAGECACHE_WAYS;
	cache->entries = calloc(cache->nr, sizeof(*cache->entries));
	cache->data = mmap(NULL, cache->nr * FRAME_PAGE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!cache->entries || cache->data == MAP_FAILED) {
		if (cache->data != MAP_FAILED)
			munmap(cache->data, cache->nr * FRAME_PAGE_SIZE);
		free(cache->entries);
		free(cache);
		return NULL;
	}
	return cache;
}

void pagecache_free(struct pagecache *cache)
{
	if (!cache)
		return;
	munmap(cache->data, cache->nr * FRAME_PAGE_SIZE);
	free(cache->entries);
	free(cache);
}

void pagecache_forget(struct pagecache *cache)
{
	if (!cache->used)
		return;
	cache->used = false;
	memset(cache->entries, 0, cache->nr * sizeof(*cache->entries));
}

/* Neighbours are written together: they go to neighbouring sets. */
static size_t pagecache_set(const struct pagecache *cache, uint32_t block, uint64_t page)
{
	return (page + block * 0x9e3779b9ull) % (cache->nr / PAGECACHE_WAYS) * PAGECACHE_WAYS;
}

static struct pagecache_entry *pagecache_entry(const struct pagecache *cache, uint32_t block,
					       uint64_t page)
{
	struct pagecache_entry *e = cache->entries + pagecache_set(cache, block, page);
	unsigned int i;

	if (!cache->used)
		return NULL;
	for (i = 0; i < PAGECACHE_WAYS; i++)
		if (e[i].epoch && e[i].page == page && e[i].block == block)
			return e + i;
	return NULL;
}

static uint8_t *pagecache_data(const struct pagecache *cache, const struct pagecache_entry *e)
{
	return cache->data + (size_t)(e - cache->entries) * FRAME_PAGE_SIZE;
}

const void *pagecache_find(const struct pagecache *cache, uint32_t block, uint64_t page,
			   uint64_t epoch)
{
	const struct pagecache_entry *e = pagecache_entry(cache, block, page);

	return e && e->epoch < epoch ? pagecache_data(cache, e) : NULL;
}

void pagecache_put(struct pagecache *cache, uint32_t block, uint64_t page, uint64_t epoch,
		   const void *data)
{
	struct pagecache_entry *e = pagecache_entry(cache, block, page);
	unsigned int i;

	if (!data) {
		if (e)
			e->epoch = 0;
		return;
	}
	if (!e) {
		struct pagecache_entry *set = cache->entries + pagecache_set(cache, block, page);

		for (e = set, i = 1; i < PAGECACHE_WAYS; i++)
			if (set[i].epoch < e->epoch)
				e = set + i;
	}
	cache->used = true;
	e->page = page;
	e->epoch = epoch;
	e->block = block;
	memcpy(pagecache_data(cache, e), data, FRAME_PAGE_SIZE);
}

void pagecache_torn(struct pagecache *cache, uint64_t epoch)
{
	size_t i;

	for (i = 0; cache->used && i < cache->nr; i++)
		if (cache->entries[i].epoch == epoch)
			cache->entries[i].epoch = 0;
}
