// SPDX-License-Identifier: GPL-2.0
/*
 * encoder: a page pays if the time that it takes to encode is less than the time that
 * the link needs for the bytes it saves. Both are averages over the last frames.
 */
#include <stdlib.h>
#include <string.h>

#include "encoder.h"
#include "loop.h"
#include "pagecache.h"

/* Until there is a measurement: LZ4 on a processor of today, and half a page. */
#define ENCODER_COST_NS		3000.0
#define ENCODER_SAVED		(FRAME_PAGE_SIZE / 2.0)
/*
 * Where it does not pay the last two epochs of so many are encoded, to look again: the
 * second has the first one's pages to compare with.
 */
#define ENCODER_LOOK		32u
/* How much of the averages is that of a frame of the largest size. */
#define ENCODER_NEW		0.125
/* A delta this small need not be compared with anything. */
#define ENCODER_SMALL		512u

struct encoder {
	enum encoder_mode mode;
	struct pagecache *cache;
	double cost_ns;		/* for a page */
	double saved;		/* bytes of a page */
	uint64_t began;
	struct encoder_totals before;	/* the frame */
	struct encoder_totals totals;
	uint8_t *state;		/* device state of the last checkpoint */
	size_t state_len;
	size_t state_room;
	uint8_t differs[ENCODER_PIECE];
};

struct encoder *encoder_new(enum encoder_mode mode, size_t cache)
{
	struct encoder *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->mode = mode;
	e->cost_ns = ENCODER_COST_NS;
	e->saved = ENCODER_SAVED;
	if (mode == ENCODER_NEVER || !cache)
		return e;
	e->cache = pagecache_new(cache);
	if (!e->cache) {
		free(e);
		return NULL;
	}
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

bool encoder_pays(struct encoder *e, uint64_t epoch, uint64_t rate)
{
	if (e->mode != ENCODER_AUTO)
		return e->mode == ENCODER_ALWAYS;
	if (!rate)
		return false;
	return e->cost_ns < e->saved * (double)NSEC_PER_SEC / (double)rate ||
	       epoch % ENCODER_LOOK >= ENCODER_LOOK - 2;
}

void encoder_begin(struct encoder *e)
{
	e->before = e->totals;
	e->began = loop_now();
}

void encoder_plain(struct encoder *e, uint64_t epoch, uint32_t block, uint64_t page)
{
	if (e->cache)
		pagecache_put(e->cache, block, page, epoch, NULL);
}

enum frame_page_kind encoder_page(struct encoder *e, uint64_t epoch, uint32_t block,
				  uint64_t page, const void *data, void *out, size_t *len)
{
	enum frame_page_kind kind = FRAME_PAGE_RAW;
	const void *base = NULL;
	size_t n = 0;

	*len = 0;
	if (!data) {
		if (e->cache)
			pagecache_put(e->cache, block, page, epoch, NULL);
		return FRAME_PAGE_ZERO;
	}
	if (e->cache)
		base = pagecache_find(e->cache, block, page, epoch);
	if (base) {
		n = codec_delta(data, base, out, CODEC_MAX);
		if (n)
			kind = FRAME_PAGE_DELTA;
	}
	if (!n || n > ENCODER_SMALL) {
		uint8_t other[CODEC_MAX];
		size_t m = codec_lz4(data, other, n ? n - 1 : CODEC_MAX);

		if (m) {
			memcpy(out, other, m);
			n = m;
			kind = FRAME_PAGE_LZ4;
		}
	}
	if (e->cache)
		pagecache_put(e->cache, block, page, epoch, data);
	e->totals.pages++;
	e->totals.delta += kind == FRAME_PAGE_DELTA;
	e->totals.lz4 += kind == FRAME_PAGE_LZ4;
	e->totals.raw += kind == FRAME_PAGE_RAW;
	e->totals.bytes += n ? n : FRAME_PAGE_SIZE;
	*len = n;
	return kind;
}

void encoder_end(struct encoder *e)
{
	double pages = (double)(e->totals.pages - e->before.pages);
	double weight = ENCODER_NEW * pages / FRAME_PAGES_MAX;
	double ns = (double)(loop_now() - e->began);
	double bytes = (double)(e->totals.bytes - e->before.bytes);

	if (pages == 0)
		return;
	e->cost_ns += (ns / pages - e->cost_ns) * weight;
	e->saved += (FRAME_PAGE_SIZE - bytes / pages - e->saved) * weight;
}

void encoder_spare(struct encoder *e, uint64_t ns)
{
	e->began += ns;
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
