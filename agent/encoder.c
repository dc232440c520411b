// SPDX-License-Identifier: GPL-2.0
/*
 * encoder: a way pays if the time that it takes is less than the time that the link needs for
 * the bytes it saves. Both are averages over the last pages it was tried on.
 */
#include <stdlib.h>
#include <string.h>

#include "encoder.h"
#include "loop.h"
#include "pagecache.h"

/* Until there is a measurement: a processor of today, and half a page. */
#define ENCODER_LZ4_NS		3000.0
#define ENCODER_DELTA_NS	1000.0
#define ENCODER_SAVED		(FRAME_PAGE_SIZE / 2.0)
/* Of a way that is on one page of so many is timed. */
#define ENCODER_TIMED		8u
/* LZ4 takes longer: where it does not pay it is tried on one of so many that are tried. */
#define ENCODER_FEWER		4u
/* So many times as long as usual something may take. */
#define ENCODER_LONG		3.0
/* Of so many rates the lowest is believed: what is small may pass at any speed. */
#define ENCODER_RATES		8u
/* How much of an average the last page is, when there were enough. */
#define ENCODER_NEW		(1.0 / 64)
/* A delta this small need not be compared with anything. */
#define ENCODER_SMALL		512u

/* An average over the last ones. */
struct encoder_average {
	double value;
	double nr;
};

/* One way, of a page that it was tried on. */
struct encoder_way {
	bool on;
	struct encoder_average ns;
	struct encoder_average saved;
};

struct encoder {
	enum encoder_mode mode;
	struct pagecache *cache;
	struct encoder_way lz4;
	struct encoder_way delta;
	struct encoder_average found;	/* 1: the page to compare with is known */
	struct encoder_average keep_ns;	/* to know it the next time */
	bool samples;
	uint64_t rates[ENCODER_RATES];	/* that were told last; 0: none yet */
	unsigned int nr_rates;
	uint64_t pages;
	struct encoder_totals totals;
	uint8_t *state;		/* device state of the last checkpoint */
	size_t state_len;
	size_t state_room;
	uint8_t differs[ENCODER_PIECE];
};

static void encoder_count(struct encoder_average *a, double value)
{
	a->nr++;
	a->value += (value - a->value) * (a->nr * ENCODER_NEW > 1 ? ENCODER_NEW : 1 / a->nr);
}

struct encoder *encoder_new(enum encoder_mode mode, size_t cache)
{
	struct encoder *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->mode = mode;
	e->lz4.ns.value = ENCODER_LZ4_NS;
	e->lz4.saved.value = ENCODER_SAVED;
	e->delta.ns.value = ENCODER_DELTA_NS;
	e->delta.saved.value = ENCODER_SAVED;
	if (mode != ENCODER_NEVER && cache) {
		e->cache = pagecache_new(cache);
		if (!e->cache) {
			free(e);
			return NULL;
		}
	}
	encoder_pays(e, 0);
	return e;
}

void encoder_free(struct encoder *e)
{
	if (!e)
		return;
	pagecache_free(e->cache);
	free(e->state);
	free(e);
}

void encoder_forget(struct encoder *e)
{
	e->state_len = 0;
	if (e->cache)
		pagecache_forget(e->cache);
}

void encoder_torn(struct encoder *e, uint64_t epoch)
{
	if (e->cache)
		pagecache_torn(e->cache, epoch);
}

static uint64_t encoder_rate(struct encoder *e, uint64_t rate)
{
	unsigned int i;

	e->rates[e->nr_rates++ % ENCODER_RATES] = rate;
	for (i = 0; i < ENCODER_RATES; i++)
		if (e->rates[i] && e->rates[i] < rate)
			rate = e->rates[i];
	return rate;
}

bool encoder_pays(struct encoder *e, uint64_t rate)
{
	double found = e->found.value;
	double byte_ns;

	e->lz4.on = e->mode == ENCODER_ALWAYS;
	e->delta.on = e->lz4.on && e->cache;
	e->samples = e->mode == ENCODER_AUTO;
	if (e->mode == ENCODER_AUTO && rate) {
		byte_ns = (double)NSEC_PER_SEC / (double)encoder_rate(e, rate);
		e->lz4.on = e->lz4.ns.value < e->lz4.saved.value * byte_ns;
		e->delta.on = e->cache && e->keep_ns.value + found * e->delta.ns.value <
					  found * e->delta.saved.value * byte_ns;
	}
	return e->lz4.on || e->delta.on;
}

void encoder_rest(struct encoder *e)
{
	e->lz4.on = false;
	e->delta.on = false;
	e->samples = false;
}

/* So long it took; who was interrupted meanwhile is not taken at his word. */
static void encoder_took(struct encoder_average *ns, uint64_t began)
{
	double took = (double)(loop_now() - began);

	if (ns->nr * ENCODER_NEW > 0.25 && took > ns->value * ENCODER_LONG)
		took = ns->value * ENCODER_LONG;
	encoder_count(ns, took);
}

/* One of 64 pages, by its place: it is known the next time, too. */
static bool encoder_sample(const struct encoder *e, uint32_t block, uint64_t page)
{
	return e->samples && !((page + block) * UINT64_C(0x9e3779b97f4a7c15) >> 58);
}

/* A way was tried from @began on, where that is not 0. */
static void encoder_tried(struct encoder_way *way, uint64_t began, size_t n)
{
	if (!began)
		return;
	encoder_took(&way->ns, began);
	encoder_count(&way->saved, n ? (double)(FRAME_PAGE_SIZE - n) : 0);
}

static void encoder_keep(struct encoder *e, uint64_t epoch, uint32_t block, uint64_t page,
			 const void *data, bool timed)
{
	uint64_t began = timed ? loop_now() : 0;

	if (!e->cache)
		return;
	pagecache_put(e->cache, block, page, epoch, data);
	if (timed && data)
		encoder_took(&e->keep_ns, began);
}

enum frame_page_kind encoder_page(struct encoder *e, uint64_t epoch, uint32_t block,
				  uint64_t page, const void *data, void *out, size_t *len)
{
	bool sample = encoder_sample(e, block, page);
	bool timed = sample || !(e->pages % ENCODER_TIMED);
	bool lz4 = e->lz4.on || (sample && !(e->pages % ENCODER_FEWER));
	enum frame_page_kind kind = FRAME_PAGE_RAW;
	const void *base = NULL;
	uint64_t began;
	size_t n = 0;

	*len = 0;
	e->pages++;
	if (!data) {
		encoder_keep(e, epoch, block, page, NULL, false);
		return FRAME_PAGE_ZERO;
	}
	if (e->cache && (e->delta.on || sample))
		base = pagecache_find(e->cache, block, page, epoch);
	if (sample)
		encoder_count(&e->found, base != NULL);
	if (base) {
		began = timed ? loop_now() : 0;
		n = codec_delta(data, base, out, CODEC_MAX);
		encoder_tried(&e->delta, began, n);
		if (n)
			kind = FRAME_PAGE_DELTA;
	}
	if (lz4 && (!n || n > ENCODER_SMALL)) {
		uint8_t other[CODEC_MAX];
		size_t m;

		/* What it saves beside a delta is another matter. */
		began = timed && !base ? loop_now() : 0;
		m = codec_lz4(data, other, n ? n - 1 : CODEC_MAX);
		encoder_tried(&e->lz4, began, m);
		if (m) {
			memcpy(out, other, m);
			n = m;
			kind = FRAME_PAGE_LZ4;
		}
	}
	encoder_keep(e, epoch, block, page, e->delta.on || sample ? data : NULL, timed);
	e->totals.pages++;
	e->totals.delta += kind == FRAME_PAGE_DELTA;
	e->totals.lz4 += kind == FRAME_PAGE_LZ4;
	e->totals.raw += kind == FRAME_PAGE_RAW;
	e->totals.bytes += n ? n : FRAME_PAGE_SIZE;
	*len = n;
	return kind;
}

void encoder_plain(struct encoder *e, uint64_t epoch, uint32_t block, uint64_t page,
		   const void *data)
{
	struct encoder_totals totals = e->totals;
	uint8_t out[CODEC_MAX];
	size_t len;

	if (!data || !encoder_sample(e, block, page)) {
		encoder_keep(e, epoch, block, page, NULL, false);
		return;
	}
	encoder_page(e, epoch, block, page, data, out, &len);
	e->totals = totals;
}

enum frame_state_kind encoder_state(struct encoder *e, const uint8_t *piece, size_t at,
				    size_t n, void *out, size_t *len)
{
	const uint8_t *base = at + n <= e->state_len ? e->state + at : NULL;

	*len = codec_state(piece, base, n, e->differs, out);
	if (!*len)
		return FRAME_STATE_RAW;
	return base ? FRAME_STATE_DELTA : FRAME_STATE_LZ4;
}

void encoder_state_sent(struct encoder *e, const uint8_t *state, size_t len)
{
	e->state_len = 0;
	if (e->mode == ENCODER_NEVER)
		return;
	if (len > e->state_room) {
		free(e->state);
		e->state = malloc(len);
		e->state_room = e->state ? len : 0;
	}
	/* Without memory the next is compared with nothing. */
	if (len > e->state_room)
		return;
	memcpy(e->state, state, len);
	e->state_len = len;
}

const struct encoder_totals *encoder_totals(const struct encoder *e)
{
	return &e->totals;
}

/* Of all that were looked at; of the others the link wanted no fewer bytes. */
void encoder_status(const struct encoder *e, struct json_object *o)
{
	const struct encoder_totals *t = &e->totals;

	json_object_object_add(o, "delta-pages", json_object_new_uint64(t->delta));
	json_object_object_add(o, "lz4-pages", json_object_new_uint64(t->lz4));
	json_object_object_add(o, "raw-pages", json_object_new_uint64(t->raw));
	json_object_object_add(o, "bytes-of-page",
			       json_object_new_uint64(t->pages ? t->bytes / t->pages : 0));
}
