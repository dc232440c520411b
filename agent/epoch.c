// SPDX-License-Identifier: GPL-2.0
/*
 * epoch: frames are kept where they came, see landing.h; the epoch has a list of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "epoch.h"
#include "landing.h"

#define EPOCH_STATE_RESERVE	(1u << 20)

/* Frames that there is room for at first: 64 MiB of pages. */
#define EPOCH_FRAMES	64u

/* Of what is held, beyond one and a half times what an epoch may have. */
#define EPOCH_HOLD_MORE		(64ull << 20)

static uint64_t epoch_ids;

/* A PAGES frame that waits. */
struct epoch_frame {
	struct landing *landing;
	const uint8_t *payload;
	uint32_t length;
};

struct epoch {
	const struct epoch_shape *shape;
	epoch_apply_fn apply;
	epoch_read_fn read;
	void *arg;
	bool early;

	uint64_t number;
	bool open;
	bool ended;			/* its end has come, not yet all of its pages */
	bool whole;
	bool stands;
	bool torn;
	bool live;
	struct epoch_frame *frames;
	size_t nr_frames;
	uint64_t id;			/* of the landings that it has counted */
	uint64_t held;			/* bytes of them */
	size_t room;
	uint64_t bytes;
	uint64_t pages;
	uint64_t zero_pages;
	struct frame_digest digest;
	struct frame_end end;		/* what it says of all of this */
	struct epoch_state state;
	const struct epoch_state *base;	/* of its deltas; NULL: none */

	size_t at;			/* the frame where applying goes on */
	/* What a frame's pages are decoded into. */
	uint8_t decoded[EPOCH_BATCH][FRAME_PAGE_SIZE];
};

struct epoch *epoch_new(const struct epoch_shape *shape, epoch_apply_fn apply,
			epoch_read_fn read, void *arg, bool early)
{
	struct epoch *epoch = calloc(1, sizeof(*epoch));

	if (!epoch)
		return NULL;
	epoch->state.data = malloc(EPOCH_STATE_RESERVE);
	epoch->frames = calloc(EPOCH_FRAMES, sizeof(*epoch->frames));
	if (!epoch->state.data || !epoch->frames) {
		epoch_free(epoch);
		return NULL;
	}
	epoch->state.room = EPOCH_STATE_RESERVE;
	epoch->room = EPOCH_FRAMES;
	epoch->shape = shape;
	epoch->apply = apply;
	epoch->read = read;
	epoch->arg = arg;
	epoch->early = early;
	return epoch;
}

void epoch_free(struct epoch *epoch)
{
	if (!epoch)
		return;
	epoch_reset(epoch);
	free(epoch->frames);
	free(epoch->state.data);
	free(epoch);
}

void epoch_reset(struct epoch *epoch)
{
	while (epoch->at < epoch->nr_frames)
		landing_put(epoch->frames[epoch->at++].landing);
	epoch->nr_frames = 0;
	epoch->held = 0;
	epoch->at = 0;
	epoch->number = 0;
	epoch->open = false;
	epoch->ended = false;
	epoch->whole = false;
	epoch->torn = false;
	epoch->live = false;
	epoch->bytes = 0;
	epoch->pages = 0;
	epoch->zero_pages = 0;
	memset(&epoch->digest, 0, sizeof(epoch->digest));
	epoch->state.len = 0;
}

uint64_t epoch_number(const struct epoch *epoch)
{
	return epoch->number;
}

bool epoch_stands(const struct epoch *epoch)
{
	return epoch->stands;
}

bool epoch_torn(const struct epoch *epoch)
{
	return epoch->torn;
}

bool epoch_live(const struct epoch *epoch)
{
	return epoch->live;
}

bool epoch_empty(const struct epoch *epoch)
{
	return !epoch->open && !epoch->whole;
}

uint64_t epoch_pages(const struct epoch *epoch)
{
	return epoch->pages;
}

void epoch_swap_state(struct epoch *epoch, struct epoch_state *state)
{
	struct epoch_state mine = epoch->state;

	epoch->state = *state;
	*state = mine;
}

/* Into @to; what it is compared with was applied by an epoch before. */
static int epoch_decode(struct epoch *epoch, const struct frame_page *page,
			const uint8_t *data, uint8_t *to, struct why *why)
{
	if (page->kind == FRAME_PAGE_DELTA) {
		int err = epoch->read(epoch->arg, page->block, page->page, to, why);

		if (err)
			return err;
	}
	if (!codec_decode(page->kind, data, page->bytes, to))
		return why_set(why, EPROTO, "it sent a page that cannot be decompressed");
	return 0;
}

/* A PAGES payload to the callback: @frame is valid and its pages exist. */
static int epoch_apply_frame(struct epoch *epoch, const struct frame *frame, struct why *why)
{
	struct frame_pages head = frame_get_pages(frame);
	const uint8_t *data = frame_get_data(frame);
	struct epoch_page pages[EPOCH_BATCH];
	uint32_t i;

	for (i = 0; i < head.nr; i++) {
		struct frame_page page = frame_get_page(frame, i);

		pages[i].block = page.block;
		pages[i].page = page.page;
		switch (page.kind) {
		case FRAME_PAGE_ZERO:
			pages[i].data = NULL;
			break;
		case FRAME_PAGE_RAW:
			pages[i].data = data;
			break;
		default: {
			int err = epoch_decode(epoch, &page, data, epoch->decoded[i], why);

			if (err)
				return err;
			pages[i].data = epoch->decoded[i];
		}
		}
		data += page.bytes;
	}
	return epoch->apply(epoch->arg, pages, head.nr, why);
}

static int epoch_too_large(const struct epoch *epoch, struct why *why)
{
	return why_set(why, EFBIG,
		       "an epoch is larger than %llu MiB; start the standby's agent with a larger --max-epoch-mib",
		       (unsigned long long)(epoch->shape->max_bytes >> 20));
}

/*
 * What is kept keeps all of its landing, whatever else came into that: a peer could make
 * little of much. A third may be lost at the ends of landings, and some by each stream.
 */
static int epoch_hold(struct epoch *epoch, struct landing *landing, struct why *why)
{
	if (!landing)
		return why_set(why, ENOMEM, "no memory for an epoch of this size");
	if (landing->mark == epoch->id)
		return 0;
	landing->mark = epoch->id;
	epoch->held += LANDING_MAP;
	if (epoch->held > epoch->shape->max_bytes + epoch->shape->max_bytes / 2 + EPOCH_HOLD_MORE)
		return epoch_too_large(epoch, why);
	return 0;
}

static int epoch_keep(struct epoch *epoch, const struct frame *frame, struct why *why)
{
	int err = epoch_hold(epoch, frame->landing, why);

	if (err)
		return err;
	if (epoch->nr_frames == epoch->room) {
		size_t room = epoch->room * 2;
		struct epoch_frame *more = realloc(epoch->frames, room * sizeof(*more));

		if (!more)
			return why_set(why, ENOMEM, "no memory for an epoch of this size");
		epoch->frames = more;
		epoch->room = room;
	}
	epoch->frames[epoch->nr_frames++] = (struct epoch_frame) {
		.landing = landing_hold(frame->landing),
		.payload = frame->payload,
		.length = frame->length,
	};
	return 0;
}

static int epoch_add_pages(struct epoch *epoch, const struct frame *frame, struct why *why)
{
	struct frame_pages head = frame_get_pages(frame);
	const uint8_t *data = frame_get_data(frame);
	uint32_t i;

	for (i = 0; i < head.nr; i++) {
		struct frame_page page = frame_get_page(frame, i);

		if (page.block >= epoch->shape->nr_blocks ||
		    page.page >= epoch->shape->pages[page.block])
			return why_set(why, EPROTO, "it sent a page that the VM does not have");
		/* Now, and not when it is to be applied: then it is committed. */
		if (page.kind != FRAME_PAGE_RAW && page.kind != FRAME_PAGE_ZERO &&
		    !codec_decode(page.kind, data, page.bytes, epoch->decoded[0]))
			return why_set(why, EPROTO, "it sent a page that cannot be decompressed");
		data += page.bytes;
		epoch->zero_pages += page.kind == FRAME_PAGE_ZERO;
	}
	epoch->bytes += frame->length;
	if (epoch->bytes > epoch->shape->max_bytes && !epoch->live)
		return epoch_too_large(epoch, why);
	epoch->pages += head.nr;
	/* Once: what differs cannot be applied twice. */
	if (epoch->live || epoch->early)
		return epoch_apply_frame(epoch, frame, why);
	return epoch_keep(epoch, frame, why);
}

void epoch_compare_state(struct epoch *epoch, const struct epoch_state *base)
{
	epoch->base = base;
}

static int epoch_add_state(struct epoch *epoch, const struct frame *frame, struct why *why)
{
	const struct frame_state piece = frame_get_state(frame);
	const uint8_t *data = frame->payload + sizeof(piece), *base = NULL;
	struct epoch_state *state = &epoch->state;

	if (piece.bytes > EPOCH_STATE_MAX - state->len)
		return why_set(why, EFBIG, "it sent more device state than any VM has");
	if (state->len + piece.bytes > state->room) {
		size_t room = (state->len + piece.bytes) * 2;
		uint8_t *more = realloc(state->data, room);

		if (!more)
			return why_set(why, ENOMEM, "no memory for the device state");
		state->data = more;
		state->room = room;
	}
	if (piece.kind == FRAME_STATE_DELTA) {
		if (!epoch->base || state->len + piece.bytes > epoch->base->len)
			return why_set(why, EPROTO, "it sent what differs in device state that is not here");
		base = epoch->base->data + state->len;
	}
	if (piece.kind == FRAME_STATE_RAW)
		memcpy(state->data + state->len, data, piece.bytes);
	else if (!codec_state_decode(data, frame->length - sizeof(piece), base,
				     state->data + state->len, piece.bytes))
		return why_set(why, EPROTO, "it sent device state that does not decompress");
	state->len += piece.bytes;
	return 0;
}

/* Its end has come, and as many pages as it says: is it what was sent? */
static int epoch_verify(struct epoch *epoch, struct why *why)
{
	const struct frame_end *end = &epoch->end;

	if (end->pages != epoch->pages || end->zero_pages != epoch->zero_pages ||
	    end->state_bytes != epoch->state.len)
		return why_set(why, EPROTO, "it sent an epoch that is not whole");
	if (end->digest != frame_digest_value(&epoch->digest))
		return why_set(why, EPROTO, "it sent an epoch with a wrong digest");
	if (end->flags & FRAME_END_TORN && (epoch->live || epoch->state.len))
		return why_set(why, EPROTO, "it sent a torn epoch that cannot be one");
	if (!epoch->live && !epoch->state.len && !(end->flags & FRAME_END_TORN))
		return why_set(why, EPROTO, "it sent an epoch without device state");
	if (epoch->live && epoch->state.len)
		return why_set(why, EPROTO, "it sent device state in a round of the first sync");
	epoch->stands = end->flags & FRAME_END_STANDS;
	epoch->torn = end->flags & FRAME_END_TORN;
	epoch->open = false;
	epoch->whole = true;
	return 1;
}

/* Pages may come later, by other connections. */
static int epoch_try(struct epoch *epoch, struct why *why)
{
	if (!epoch->ended || (epoch->pages < epoch->end.pages && epoch->digest.streams))
		return 0;
	return epoch_verify(epoch, why);
}

int epoch_add(struct epoch *epoch, const struct frame *frame, struct why *why)
{
	int err;

	if (frame->type == FRAME_EPOCH_BEGIN) {
		struct frame_begin begin = frame_get_begin(frame);

		if (!epoch_empty(epoch))
			return why_set(why, EPROTO, "it began an epoch within an epoch");
		if (!frame->epoch)
			return why_set(why, EPROTO, "it began an epoch without a number");
		epoch->open = true;
		epoch->id = ++epoch_ids;
		epoch->number = frame->epoch;
		epoch->live = begin.flags & FRAME_BEGIN_LIVE;
		epoch->digest.streams = begin.flags & FRAME_BEGIN_STREAMS;
		frame_digest_add(&epoch->digest, frame->type, frame->checksum);
		return 0;
	}
	if (!epoch->open)
		return why_set(why, EPROTO, "it sent %s outside any epoch", frame_name(frame->type));
	if (frame->epoch != epoch->number)
		return why_set(why, EPROTO, "it sent %s of another epoch", frame_name(frame->type));
	if (epoch->ended && frame->type != FRAME_PAGES)
		return why_set(why, EPROTO, "it sent %s behind the end of its epoch",
			       frame_name(frame->type));

	switch (frame->type) {
	case FRAME_PAGES:
		err = epoch_add_pages(epoch, frame, why);
		break;
	case FRAME_STATE:
		err = epoch_add_state(epoch, frame, why);
		break;
	case FRAME_EPOCH_END:
		epoch->end = frame_get_end(frame);
		epoch->ended = true;
		return epoch_try(epoch, why);
	default:
		return why_set(why, EPROTO, "it sent %s within an epoch", frame_name(frame->type));
	}
	frame_digest_add(&epoch->digest, frame->type, frame->checksum);
	return err ? err : epoch_try(epoch, why);
}

int epoch_apply(struct epoch *epoch, unsigned int max, struct why *why)
{
	unsigned int done = 0;

	if (!epoch->whole)
		return why_set(why, EINVAL, "internal error: applying an epoch that is not whole");
	while (epoch->at < epoch->nr_frames) {
		struct epoch_frame *kept = &epoch->frames[epoch->at];
		struct frame frame = {
			.type = FRAME_PAGES,
			.payload = kept->payload,
			.length = kept->length,
		};
		int err;

		if (done >= max)
			return 1;
		err = epoch_apply_frame(epoch, &frame, why);
		if (err)
			return err;
		done += frame_get_pages(&frame).nr;
		epoch->at++;
		landing_put(kept->landing);
	}
	return 0;
}
