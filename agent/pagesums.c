// SPDX-License-Identifier: GPL-2.0
/*
 * pagesums: a table for each block of guest RAM. It is mapped, not allocated, so that
 * what is not told of takes no memory.
 */
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "pagesums.h"

#define PAGESUMS_KEY_BYTES	16u

_Static_assert(PAGESUMS_KEY_LEN == 2 * PAGESUMS_KEY_BYTES, "two digits a byte");

struct pagesums_key {
	gnutls_hmac_hd_t mac;
};

struct pagesums_block {
	struct frame_sum *sums;		/* NULL: not guest RAM */
	uint64_t pages;
	uint64_t before;		/* in the blocks before it */
};

struct pagesums {
	struct pagesums_key *key;
	uint64_t told;
	uint64_t position;
	uint64_t pages;
	unsigned int nr;
	struct pagesums_block blocks[];
};

int pagesums_draw(char text[PAGESUMS_KEY_LEN + 1])
{
	uint8_t bytes[PAGESUMS_KEY_BYTES];
	gnutls_datum_t key = { .data = bytes, .size = sizeof(bytes) };
	size_t size = PAGESUMS_KEY_LEN + 1;

	/* So few come whole (getrandom(2)). */
	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return -errno;
	gnutls_hex_encode(&key, text, &size);
	explicit_bzero(bytes, sizeof(bytes));
	return 0;
}

struct pagesums_key *pagesums_key_new(const char *text)
{
	gnutls_datum_t hex = { .data = (unsigned char *)(uintptr_t)text, .size = strlen(text) };
	struct pagesums_key *key = calloc(1, sizeof(*key));
	uint8_t bytes[PAGESUMS_KEY_BYTES];
	size_t size = sizeof(bytes);

	if (!key)
		return NULL;
	if (hex.size != PAGESUMS_KEY_LEN || gnutls_hex_decode(&hex, bytes, &size) ||
	    size != sizeof(bytes) ||
	    gnutls_hmac_init(&key->mac, GNUTLS_MAC_UMAC_128, bytes, sizeof(bytes))) {
		free(key);
		return NULL;
	}
	explicit_bzero(bytes, sizeof(bytes));
	return key;
}

void pagesums_key_free(struct pagesums_key *key)
{
	if (!key)
		return;
	gnutls_hmac_deinit(key->mac, NULL);
	free(key);
}

static bool pagesums_none(const struct frame_sum *sum)
{
	return !sum->low && !sum->high;
}

struct frame_sum pagesums_of(struct pagesums_key *key, const void *page)
{
	static const uint8_t nonce[16];
	struct frame_sum sum;

	gnutls_hmac_set_nonce(key->mac, nonce, sizeof(nonce));
	gnutls_hmac(key->mac, page, FRAME_PAGE_SIZE);
	gnutls_hmac_output(key->mac, &sum);
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
	sums->key = pagesums_key_new(text);
	if (!sums->key)
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
	pagesums_key_free(sums->key);
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

bool pagesums_holds(struct pagesums *sums, uint32_t block, uint64_t page, const void *data)
{
	const struct frame_sum *told;
	struct frame_sum sum;

	if (block >= sums->nr || page >= sums->blocks[block].pages)
		return false;
	told = &sums->blocks[block].sums[page];
	if (pagesums_none(told))
		return false;
	sum = pagesums_of(sums->key, data);
	return sum.low == told->low && sum.high == told->high;
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
