// SPDX-License-Identifier: GPL-2.0
/*
 * codec_test: pages in fewer bytes are the same pages, and what they are compared with is
 * what the standby holds, whatever was torn, forgotten or sent as it was in between.
 *
 *	codec_test [--keep-torn]
 *
 * With --keep-torn nobody tells the encoder of torn epochs, and the test fails. Needs no
 * privileges and no module.
 */
#include <stdlib.h>
#include <string.h>

#include "encoder.h"
#include "pagecache.h"
#include "tap.h"

#define PAGES		600u
#define EPOCHS		400u
/* Less than what is written: pages have to go. */
#define CACHE_BYTES	(256u * FRAME_PAGE_SIZE)

static uint64_t x = 88172645463325252u;

static uint64_t next(void)
{
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void random_page(uint8_t *page)
{
	unsigned int i;

	for (i = 0; i < FRAME_PAGE_SIZE; i += 8) {
		uint64_t v = next();

		memcpy(page + i, &v, sizeof(v));
	}
}

static void test_pages(void)
{
	static uint8_t page[FRAME_PAGE_SIZE], base[FRAME_PAGE_SIZE], back[FRAME_PAGE_SIZE];
	uint8_t out[CODEC_MAX];
	unsigned int i, wrong = 0;
	size_t n, len;

	memset(page, 7, sizeof(page));
	n = codec_lz4(page, out, sizeof(out));
	tap_ok(n && n < 64 && codec_decode(FRAME_PAGE_LZ4, out, n, back) &&
	       !memcmp(back, page, sizeof(page)), "a page of one byte takes %zu", n);
	random_page(page);
	tap_ok(!codec_lz4(page, out, sizeof(out)), "a random one goes as it is");

	memcpy(base, page, sizeof(base));
	for (i = 0; i < 3; i++)
		page[i * 1000 + 5] ^= 0x55;
	n = codec_delta(page, base, out, sizeof(out));
	memcpy(back, base, sizeof(back));
	tap_ok(n && n < 96 && codec_decode(FRAME_PAGE_DELTA, out, n, back) &&
	       !memcmp(back, page, sizeof(page)),
	       "a random one of which three bytes are others takes %zu", n);
	random_page(base);
	tap_ok(!codec_delta(page, base, out, sizeof(out)), "compared with another page: as it is");

	memset(page, 0, sizeof(page));
	for (i = 0; i < 500; i++)
		page[next() % sizeof(page)] = (uint8_t)next();
	n = codec_lz4(page, out, sizeof(out));
	for (len = 0; len < n; len++)
		wrong += codec_decode(FRAME_PAGE_LZ4, out, len, back);
	tap_ok(n && !wrong, "cut at each of %zu bytes: no page", n);
	for (i = 0; i < n * 8; i++) {
		out[i / 8] ^= (uint8_t)(1u << i % 8);
		codec_decode(FRAME_PAGE_LZ4, out, n, back);
		codec_decode(FRAME_PAGE_DELTA, out, n, back);
		out[i / 8] ^= (uint8_t)(1u << i % 8);
	}
	tap_ok(true, "each of %u bits flipped: survived", i);
}

static void test_cache(void)
{
	static uint8_t page[FRAME_PAGE_SIZE];
	struct pagecache *cache = pagecache_new(16 * FRAME_PAGE_SIZE);
	unsigned int i, found = 0;
	const uint8_t *got;

	if (!cache)
		tap_die("no memory");
	memset(page, 1, sizeof(page));
	pagecache_put(cache, 0, 5, 10, page);
	tap_ok(!pagecache_find(cache, 0, 5, 10), "what was sent in this epoch is not applied yet");
	got = pagecache_find(cache, 0, 5, 11);
	tap_ok(got && got[100] == 1, "in the next one it is there");
	tap_ok(!pagecache_find(cache, 1, 5, 11) && !pagecache_find(cache, 0, 6, 11),
	       "others are not");
	pagecache_put(cache, 0, 5, 11, NULL);
	tap_ok(!pagecache_find(cache, 0, 5, 12), "after zeros it is not");
	pagecache_put(cache, 0, 5, 12, page);
	pagecache_put(cache, 0, 6, 13, page);
	pagecache_torn(cache, 13);
	tap_ok(pagecache_find(cache, 0, 5, 14) && !pagecache_find(cache, 0, 6, 14),
	       "a torn epoch's pages are not, those before are");
	for (i = 0; i < 100; i++)
		pagecache_put(cache, 0, i, 20, page);
	for (i = 0; i < 100; i++)
		found += pagecache_find(cache, 0, i, 21) != NULL;
	tap_ok(found == 16, "it keeps as many as it has room for: %u", found);
	pagecache_forget(cache);
	for (i = 0; i < 100; i++)
		found -= pagecache_find(cache, 0, i, 21) == NULL;
	tap_ok(found + 100 == 16, "and none when it is told to forget");
	pagecache_free(cache);
}

static uint8_t guest[PAGES][FRAME_PAGE_SIZE];
static uint8_t standby[PAGES][FRAME_PAGE_SIZE];
static uint8_t arriving[PAGES][FRAME_PAGE_SIZE];

/* A few bytes, all of it, or zeros. */
static void guest_writes(unsigned int page)
{
	unsigned int i;

	switch (next() % 8) {
	case 0:
		random_page(guest[page]);
		break;
	case 1:
		memset(guest[page], (int)next(), FRAME_PAGE_SIZE);
		break;
	case 2:
		memset(guest[page], 0, FRAME_PAGE_SIZE);
		break;
	default:
		for (i = next() % 200; i; i--)
			guest[page][next() % FRAME_PAGE_SIZE] = (uint8_t)next();
	}
}

static bool is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, FRAME_PAGE_SIZE - 1);
}

/* Sends the guest's page; false: it does not arrive as what it is. */
static bool travels(struct encoder *e, bool encoded, uint64_t epoch, unsigned int page)
{
	const uint8_t *data = is_zero(guest[page]) ? NULL : guest[page];
	uint8_t out[CODEC_MAX];
	size_t len = 0;
	enum frame_page_kind kind = data ? FRAME_PAGE_RAW : FRAME_PAGE_ZERO;

	if (encoded)
		kind = encoder_page(e, epoch, 0, page, data, out, &len);
	else
		encoder_plain(e, epoch, 0, page, data);
	switch (kind) {
	case FRAME_PAGE_RAW:
		memcpy(arriving[page], guest[page], FRAME_PAGE_SIZE);
		return true;
	case FRAME_PAGE_ZERO:
		memset(arriving[page], 0, FRAME_PAGE_SIZE);
		return true;
	default:
		/* Compared with what was applied before this epoch. */
		memcpy(arriving[page], standby[page], FRAME_PAGE_SIZE);
		return codec_decode(kind, out, len, arriving[page]);
	}
}

/* Epochs of which some are torn, frames of which some are not encoded, connections lost. */
static void test_standby(bool keep_torn)
{
	struct encoder *e = encoder_new(ENCODER_ALWAYS, CACHE_BYTES);
	unsigned int i, wrong = 0, torn = 0, plain = 0, lost = 0;
	const struct encoder_totals *t;
	uint64_t epoch;

	if (!e)
		tap_die("no memory");
	t = encoder_totals(e);
	for (epoch = 1; epoch <= EPOCHS; epoch++) {
		bool tears = next() % 5 == 0;
		unsigned int frames;

		/* Another standby, which gets all of it before. */
		if (next() % 50 == 0) {
			encoder_forget(e);
			memcpy(standby, guest, sizeof(guest));
			lost++;
		}
		memcpy(arriving, standby, sizeof(standby));
		for (frames = 1 + next() % 3; frames; frames--) {
			bool encoded = next() % 16;

			plain += !encoded;
			for (i = 0; i < 100; i++) {
				/* Some are written all the time. */
				unsigned int page = next() % (next() % 2 ? 50 : PAGES);

				guest_writes(page);
				wrong += !travels(e, encoded, epoch, page);
			}
		}
		if (tears) {
			torn++;
			if (!keep_torn)
				encoder_torn(e, epoch);
			/* What was in it comes again, in the next one. */
			epoch++;
			memcpy(arriving, standby, sizeof(standby));
			for (i = 0; i < PAGES; i++)
				if (memcmp(guest[i], standby[i], FRAME_PAGE_SIZE))
					wrong += !travels(e, true, epoch, i);
		}
		memcpy(standby, arriving, sizeof(standby));
		wrong += memcmp(standby, guest, sizeof(guest)) != 0;
	}
	tap_ok(!wrong, "after each epoch the standby holds what the guest has (%u torn, %u frames as they are, %u connections lost)",
	       torn, plain, lost);
	tap_ok(t->delta > 1000 && t->lz4 > 1000 && t->raw > 1000,
	       "%lu pages by what differs, %lu compressed, %lu as they are", (unsigned long)t->delta,
	       (unsigned long)t->lz4, (unsigned long)t->raw);
	tap_ok(t->pages == t->delta + t->lz4 + t->raw && t->bytes < t->pages * FRAME_PAGE_SIZE,
	       "in %lu bytes of a page", (unsigned long)(t->bytes / t->pages));
	encoder_free(e);
}

/* One epoch of pages of which a few bytes are others than in the one before. */
static void few_bytes(struct encoder *e, uint64_t epoch, bool encoded)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		uint8_t out[CODEC_MAX];
		size_t len;

		guest[i][next() % FRAME_PAGE_SIZE]++;
		if (encoded)
			encoder_page(e, epoch, 0, i, guest[i], out, &len);
		else
			encoder_plain(e, epoch, 0, i, guest[i]);
	}
}

static void test_pays(void)
{
	struct encoder *e = encoder_new(ENCODER_AUTO, CACHE_BYTES);
	unsigned int i, tried = 0;
	uint64_t epoch;

	if (!e)
		tap_die("no memory");
	tap_ok(!encoder_pays(e, 0), "a link of which nothing is known: as they are");
	tap_ok(encoder_pays(e, 1000000), "one of 1 MB/s: encoded");

	/* A first sync of what cannot be compressed. */
	for (i = 0; i < PAGES; i++)
		random_page(guest[i]);
	for (i = 0; i < 100; i++) {
		encoder_forget(e);
		few_bytes(e, 1, encoder_pays(e, 1000000));
	}
	tap_ok(!encoder_pays(e, 1000000), "random pages: not, whatever the link");
	/* A machine that stalls meanwhile is forgiven. */
	for (epoch = 2; epoch < 640; epoch++)
		few_bytes(e, epoch, encoder_pays(e, 1000000));
	tap_ok(encoder_pays(e, 1000000), "but that few bytes of them change is found out");
	for (epoch = 640; epoch < 700; epoch++) {
		bool pays = encoder_pays(e, 1000000000000u);

		/* What was told before counts for a while. */
		tried += pays && epoch > 650;
		few_bytes(e, epoch, pays);
	}
	tap_ok(!tried, "on a link of 1 TB/s not even that pays");
	encoder_pays(e, 1000000);
	tap_ok(encoder_pays(e, 1000000000000u), "but one that is so fast for a moment is not believed");
	encoder_rest(e);
	tap_ok(encoder_totals(e)->delta > 1000, "%lu pages by what differs",
	       (unsigned long)encoder_totals(e)->delta);
	encoder_free(e);

	e = encoder_new(ENCODER_NEVER, CACHE_BYTES);
	if (!e)
		tap_die("no memory");
	tap_ok(!encoder_pays(e, 1000), "never is never");
	encoder_free(e);
}

/* A piece of @n bytes at @at of @state, and back, with the one before at @before. */
static bool state_travels(struct encoder *e, const uint8_t *state, size_t at, size_t n,
			  const uint8_t *before, enum frame_state_kind kind, size_t most)
{
	static uint8_t out[ENCODER_PIECE], back[ENCODER_PIECE];
	enum frame_state_kind got;
	size_t len;

	got = encoder_state(e, state + at, at, n, out, &len);
	if (got != kind || len > most || !len != (got == FRAME_STATE_RAW))
		tap_note("kind %d, %zu bytes", got, len);
	if (got == FRAME_STATE_RAW)
		return kind == got && !len;
	return kind == got && len <= most &&
	       codec_state_decode(out, len, got == FRAME_STATE_DELTA ? before + at : NULL, back, n) &&
	       !memcmp(back, state + at, n);
}

static void test_state(void)
{
	static uint8_t state[81000], before[81000];
	struct encoder *e = encoder_new(ENCODER_ALWAYS, 0);
	size_t i;

	if (!e)
		tap_die("no memory");
	for (i = 0; i < sizeof(state); i++)
		state[i] = (uint8_t)next();
	memset(state, 3, 5000);
	tap_ok(state_travels(e, state, 0, ENCODER_PIECE, NULL, FRAME_STATE_LZ4, ENCODER_PIECE) &&
	       state_travels(e, state, 70000, 3, NULL, FRAME_STATE_RAW, 0),
	       "the first device state has nothing to be compared with");
	encoder_state_sent(e, state, sizeof(state));
	memcpy(before, state, sizeof(state));
	for (i = 100; i < sizeof(state); i += 8001)
		state[i] ^= 0x40;
	tap_ok(state_travels(e, state, 0, ENCODER_PIECE, before, FRAME_STATE_DELTA, 600) &&
	       state_travels(e, state, ENCODER_PIECE, sizeof(state) - ENCODER_PIECE, before,
			     FRAME_STATE_DELTA, 300), "the next is what differs");
	encoder_state_sent(e, state, 70000);
	tap_ok(state_travels(e, state, ENCODER_PIECE, 70000 - ENCODER_PIECE, state,
			     FRAME_STATE_DELTA, 100) &&
	       state_travels(e, state, ENCODER_PIECE, 5000, state, FRAME_STATE_RAW, 0),
	       "as far as that one goes");
	encoder_forget(e);
	tap_ok(state_travels(e, state, 0, ENCODER_PIECE, NULL, FRAME_STATE_LZ4, ENCODER_PIECE),
	       "a new connection begins with nothing");
	encoder_free(e);
}

int main(int argc, char **argv)
{
	test_pages();
	test_state();
	test_cache();
	test_standby(argc > 1 && !strcmp(argv[1], "--keep-torn"));
	test_pays();
	return tap_done();
}
