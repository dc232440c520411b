// SPDX-License-Identifier: GPL-2.0
/*
 * codec: what it costs to make a page small, and a frame of pages, on the processor that
 * this runs on. The agent's own functions beside the libraries that they stand on, and
 * beside zstd, with pages of which so much has changed.
 *
 *	codec [MILLISECONDS]	for each number (100)
 *
 * A ratio is 4096 over the bytes that go; "encoding rate" in QEMU's "info migrate" is the
 * same number for xbzrle.
 */
#include <lz4.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>
#include <zstd.h>

#include "codec.h"
#include "frame.h"

/* More than a second level of cache holds. */
#define PAGES	4096u
#define PAGE	FRAME_PAGE_SIZE

struct set {
	const char *name;
	unsigned int runs;	/* changed in each page */
	unsigned int bytes;	/* long, each */
	int noise;		/* all of it, and it is noise */
};

static const struct set sets[] = {
	{ "a counter", 1, 8, 0 },
	{ "1 %", 5, 8, 0 },
	{ "10 %", 51, 8, 0 },
	{ "half in one piece", 1, PAGE / 2, 0 },
	{ "all of it by noise", 0, 0, 1 },
};

static uint8_t *now, *then, *out;
static uint64_t seed = 1;
static volatile uint64_t sink;	/* lest nobody wants the results */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64: the same pages every time. */
static uint64_t chance(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Pointers into one heap, small numbers, and words: what LZ4 halves, about. */
static void fill(uint8_t *page)
{
	static const char words[] = "the quick brown fox jumps over a lazy dog and runs away ";

	for (unsigned int i = 0; i < PAGE; i += 16) {
		uint64_t v[2] = { 0x00007f5500000000u | (chance() & 0xfffff0u), chance() & 0xff };

		if (i & 256)
			memcpy(v, words + chance() % (sizeof(words) - 16), 16);
		memcpy(page + i, v, 16);
	}
}

static void change(const struct set *set)
{
	seed = 7;
	for (unsigned int p = 0; p < PAGES; p++) {
		uint8_t *page = now + (size_t)p * PAGE;

		fill(then + (size_t)p * PAGE);
		memcpy(page, then + (size_t)p * PAGE, PAGE);
		for (unsigned int r = 0; r < set->runs; r++) {
			unsigned int at = (unsigned int)(chance() % (PAGE - set->bytes + 1));

			for (unsigned int i = 0; i < set->bytes; i++)
				page[at + i] = (uint8_t)chance();
		}
		for (unsigned int i = 0; set->noise && i < PAGE; i += 8) {
			uint64_t v = chance();

			memcpy(page + i, &v, 8);
		}
	}
}

static void differ(void *to, const uint8_t *a, const uint8_t *b)
{
	for (unsigned int i = 0; i < PAGE; i++)
		((uint8_t *)to)[i] = a[i] ^ b[i];
}

static size_t by_lz4(const uint8_t *page, const uint8_t *base)
{
	(void)base;
	return codec_lz4(page, out, CODEC_MAX);
}

static size_t by_delta(const uint8_t *page, const uint8_t *base)
{
	return codec_delta(page, base, out, CODEC_MAX);
}

static size_t by_liblz4(const uint8_t *page, const uint8_t *base)
{
	(void)base;
	return (size_t)LZ4_compress_default((const char *)page, (char *)out, PAGE, 2 * PAGE);
}

static size_t by_liblz4_xor(const uint8_t *page, const uint8_t *base)
{
	uint8_t x[PAGE];

	differ(x, page, base);
	return by_liblz4(x, NULL);
}

static ZSTD_CCtx *zstd;

static size_t by_libzstd(const uint8_t *page, const uint8_t *base)
{
	(void)base;
	return ZSTD_compressCCtx(zstd, out, 2 * PAGE, page, PAGE, 1);
}

static size_t by_libzstd_xor(const uint8_t *page, const uint8_t *base)
{
	uint8_t x[PAGE];

	differ(x, page, base);
	return by_libzstd(x, NULL);
}

static size_t by_copy(const uint8_t *page, const uint8_t *base)
{
	(void)base;
	memcpy(out, page, PAGE);
	return PAGE;
}

static size_t by_xxh64(const uint8_t *page, const uint8_t *base)
{
	(void)base;
	sink += XXH64(page, PAGE, 0);
	return PAGE;
}

static const struct {
	const char *name;
	size_t (*encode)(const uint8_t *page, const uint8_t *base);
} ways[] = {
	{ "agent: LZ4", by_lz4 },
	{ "liblz4", by_liblz4 },
	{ "libzstd -1", by_libzstd },
	{ "agent: delta", by_delta },
	{ "XOR and liblz4", by_liblz4_xor },
	{ "XOR and libzstd -1", by_libzstd_xor },
};

/* The best round is the one that was disturbed least. Prints "NAME,WAY,NS,RATIO". */
static void measure(const char *set, const char *way,
		    size_t (*encode)(const uint8_t *page, const uint8_t *base), uint64_t ns)
{
	uint64_t end = now_ns() + ns, best = UINT64_MAX, bytes;

	do {
		uint64_t began = now_ns();

		bytes = 0;
		for (unsigned int p = 0; p < PAGES; p++) {
			size_t n = encode(now + (size_t)p * PAGE, then + (size_t)p * PAGE);

			/* What does not get small goes as it is. */
			bytes += n && n < PAGE ? n : PAGE;
		}
		if (now_ns() - began < best)
			best = now_ns() - began;
	} while (now_ns() < end);
	sink += bytes;
	printf("%s,%s,%.0f,%.2f\n", set, way, (double)best / PAGES,
	       (double)PAGE * PAGES / (double)bytes);
	fflush(stdout);
}

/* The largest frame, made and taken apart, by the page. */
static void frames(uint64_t ns)
{
	static struct {
		struct frame_header head;
		struct frame_pages pages;
		struct frame_page page[FRAME_PAGES_MAX];
		uint8_t data[FRAME_PAGES_MAX * PAGE];
	} f;
	_Static_assert(sizeof(f) == FRAME_MAX, "as on the wire");
	uint64_t end = now_ns() + 2 * ns, sealed = UINT64_MAX, parsed = UINT64_MAX;
	struct iovec iov = { &f.pages, sizeof(f) - sizeof(f.head) };

	f.pages.nr = FRAME_PAGES_MAX;
	f.pages.bytes = sizeof(f.data);
	for (uint32_t i = 0; i < FRAME_PAGES_MAX; i++) {
		struct frame_page page = { .bytes = PAGE, .page = i };

		memcpy(&f.page[i], &page, sizeof(page));
		memcpy(f.data + (size_t)i * PAGE, now + (size_t)i * PAGE, PAGE);
	}
	do {
		uint64_t began = now_ns(), middle;
		struct frame frame;
		const char *why;

		frame_seal(&f.head, FRAME_PAGES, 1, 0, &iov, 1);
		middle = now_ns();
		if (frame_parse(&f, sizeof(f), 0, &frame, &why) <= 0) {
			fprintf(stderr, "codec: its own frame is not valid: %s\n", why);
			exit(1);
		}
		if (now_ns() - middle < parsed)
			parsed = now_ns() - middle;
		if (middle - began < sealed)
			sealed = middle - began;
	} while (now_ns() < end);
	printf("a frame of 256,agent: sealed,%.0f,1.00\n", (double)sealed / FRAME_PAGES_MAX);
	printf("a frame of 256,agent: checked,%.0f,1.00\n", (double)parsed / FRAME_PAGES_MAX);
}

int main(int argc, char **argv)
{
	uint64_t ns = (argc > 1 ? strtoull(argv[1], NULL, 10) : 100) * 1000000u;

	now = aligned_alloc(PAGE, (size_t)PAGES * PAGE);
	then = aligned_alloc(PAGE, (size_t)PAGES * PAGE);
	out = malloc(2 * PAGE);
	zstd = ZSTD_createCCtx();
	if (!ns || !now || !then || !out || !zstd) {
		fprintf(stderr, "usage: codec [MILLISECONDS]\n");
		return 2;
	}
	printf("changed,way,ns_per_page,ratio\n");
	for (size_t s = 0; s < sizeof(sets) / sizeof(sets[0]); s++) {
		change(&sets[s]);
		for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++)
			measure(sets[s].name, ways[w].name, ways[w].encode, ns);
	}
	measure("any", "memcpy", by_copy, ns);
	measure("any", "XXH64", by_xxh64, ns);
	frames(ns);
	return 0;
}
