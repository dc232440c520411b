// SPDX-License-Identifier: GPL-2.0
/*
 * pagesums: a table for each block of guest RAM. It is mapped, not allocated, so that
 * what is not told of takes no memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <xxhash.h>

#include "pagesums.h"

_Static_assert(PAGESUMS_SECRET >= XXH3_SECRET_SIZE_MIN, "what XXH3 wants");

struct pagesums_block {
	struct frame_sum *sums;		/* NULL: not guest RAM */
	uint64_t pages;
	uint64_t before;		/* in the blocks before it */
};

struct pagesums {
	struct pagesums_key key;
	uint64_t told;
	uint64_t position;
	uint64_t pages;
	unsigned int nr;
	struct pagesums_block blocks[];
};

int pagesums_draw(char text[PAGESUMS_KEY_LEN + 1])
{
	static const char digits[] = "0123456789abcdef";
	struct pagesums_key key;
	unsigned int i;

	/* At most 256 bytes come whole (getrandom(2)). */
	if (getrandom(&key, sizeof(key), 0) != sizeof(key))
		return -errno;
	for (i = 0; i < PAGESUMS_SECRET; i++) {
		text[2 * i] = digits[key.secret[i] >> 4];
		text[2 * i + 1] = digits[key.secret[i] & 15];
	}
	text[PAGESUMS_KEY_LEN] = '\0';
	return 0;
}

static int pagesums_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool pagesums_read(struct pagesums_key *key, const char *text)
{
	unsigned int i;

	if (strlen(text) != PAGESUMS_KEY_LEN)
		return false;
	for (i = 0; i < PAGESUMS_SECRET; i++) {
		int high = pagesums_digit(text[2 * i]);
		int low = pagesums_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		key->secret[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static bool pagesums_none(const struct frame_sum *sum)
{
	return !sum->low && !sum->high;
}

struct frame_sum pagesums_of(const struct pagesums_key *key, const void *page)
{
	XXH128_hash_t hash = XXH3_128bits_withSecret(page, FRAME_PAGE_SIZE, key->secret,
						     sizeof(key->secret));
	struct frame_sum sum = { .low = hash.low64, .high = hash.high64 };

	if (pagesums_none(&sum))
		sum.low = 1;
	return sum;
}

struct pagesums *pagesums_new(const struct ramblock_table *blocks, const char *text)
{
	struct pagesums *sums = calloc(1, sizeof(*sums) + blocks->nr * sizeof(*sums->blocks));
	unsigned int i;

	if (!sums)
		return NULL;
	if (!pagesums_read(&sums->key, text))
		goto fail;
	for (i = 0; i < blocks->nr; i++) {
		struct pagesums_block *block = &sums->blocks[i];

		sums->nr++;
		block->before = sums->pages;
		if (!blocks->blocks[i].big)
			continue;
		block->pages = blocks->blocks[i].size / RAMBLOCK_PAGE;
		sums->pages += block->pages;
		block->sums = mmap(NULL, block->pages * sizeof(*block->sums),
				   PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (block->sums == MAP_FAILED) {
			block->sums = NULL;
			goto fail;
		}
	}
	return sums;
fail:
	pagesums_free(sums);
	return NULL;
}

void pagesums_free(struct pagesums *sums)
{
	unsigned int i;

	if (!sums)
		return;
	for (i = 0; i < sums->nr; i++)
		if (sums->blocks[i].sums)
			munmap(sums->blocks[i].sums,
			       sums->blocks[i].pages * sizeof(*sums->blocks[i].sums));
	explicit_bzero(&sums->key, sizeof(sums->key));
	free(sums);
}

int pagesums_take(struct pagesums *sums, const struct frame *frame)
{
	struct frame_sums head = frame_get_sums(frame);
	struct pagesums_block *block;
	uint32_t i;

	if (!head.nr)
		return 1;
	if (head.block >= sums->nr)
		return -EPROTO;
	block = &sums->blocks[head.block];
	if (head.page > block->pages || head.nr > block->pages - head.page)
		return -EPROTO;
	for (i = 0; i < head.nr; i++) {
		struct frame_sum sum = frame_get_sum(frame, i);

		sums->told += !pagesums_none(&sum);
		block->sums[head.page + i] = sum;
	}
	sums->position = block->before + head.page + head.nr;
	return 0;
}

bool pagesums_holds(const struct pagesums *sums, uint32_t block, uint64_t page, const void *data)
{
	const struct pagesums_block *b = &sums->blocks[block];
	struct frame_sum sum;

	if (block >= sums->nr || page >= b->pages || pagesums_none(&b->sums[page]))
		return false;
	sum = pagesums_of(&sums->key, data);
	return sum.low == b->sums[page].low && sum.high == b->sums[page].high;
}

uint64_t pagesums_told(const struct pagesums *sums)
{
	return sums->told;
}

uint64_t pagesums_position(const struct pagesums *sums)
{
	return sums->position;
}

uint64_t pagesums_pages(const struct pagesums *sums)
{
	return sums->pages;
}
