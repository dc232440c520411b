// SPDX-License-Identifier: GPL-2.0
/*
 * epoch: frames are kept as they came, in pieces of memory that are large enough
 * for many of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "codec.h"
#include "epoch.h"

#define EPOCH_CHUNK		(16u << 20)
#define EPOCH_STATE_RESERVE	(1u << 20)

struct epoch_chunk {
	struct epoch_chunk *next;
	size_t used;
	uint8_t data[];
};

#define EPOCH_CHUNK_ROOM	(EPOCH_CHUNK - sizeof(struct epoch_chunk))

/* In front of each frame's payload in a chunk; the payload is padded to 8. */
struct epoch_item {
	uint64_t length;
};

struct epoch_pool {
	struct epoch_chunk *free;
	size_t nr_free;
	size_t reserve;			/* free ones to keep */
};

struct epoch {
	struct epoch_pool *pool;
	const struct epoch_shape *shape;
	epoch_apply_fn apply;
	epoch_read_fn read;
	void *arg;
	bool early;

	uint64_t number;
	bool open;
	bool whole;
	bool stands;
	bool torn;
	bool live;
	struct epoch_chunk *first;
	struct epoch_chunk *last;
	uint64_t bytes;
	uint64_t pages;
	uint64_t zero_pages;
	uint64_t digest;
	struct epoch_state state;
	const struct epoch_state *base;	/* of its deltas; NULL: none */

	/* Where applying goes on. */
	struct epoch_chunk *at;
	size_t at_offset;
	/* What a frame's pages are decoded into. */
	uint8_t decoded[EPOCH_BATCH][FRAME_PAGE_SIZE];
};

static struct epoch_chunk *epoch_chunk_map(bool populate)
{
	struct epoch_chunk *chunk;

	chunk = mmap(NULL, EPOCH_CHUNK, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | (populate ? MAP_POPULATE : 0), -1, 0);
	return chunk == MAP_FAILED ? NULL : chunk;
}

/* What one large epoch needed is not kept, and locked, for ever. */
static void epoch_chunk_put(struct epoch_pool *pool, struct epoch_chunk *chunk)
{
	if (pool->nr_free >= pool->reserve) {
		munmap(chunk, EPOCH_CHUNK);
		return;
	}
	chunk->next = pool->free;
	pool->free = chunk;
	pool->nr_free++;
}

struct epoch_pool *epoch_pool_new(size_t reserve)
{
	struct epoch_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->reserve = (reserve + EPOCH_CHUNK - 1) / EPOCH_CHUNK;
	while (pool->nr_free < pool->reserve) {
		struct epoch_chunk *chunk = epoch_chunk_map(true);

		if (!chunk) {
			epoch_pool_free(pool);
			return NULL;
		}
		epoch_chunk_put(pool, chunk);
	}
	return pool;
}

void epoch_pool_free(struct epoch_pool *pool)
{
	if (!pool)
		return;
	while (pool->free) {
		struct epoch_chunk *chunk = pool->free;

		pool->free = chunk->next;
		munmap(chunk, EPOCH_CHUNK);
	}
	free(pool);
}

static struct epoch_chunk *epoch_chunk_get(struct epoch_pool *pool)
{
	struct epoch_chunk *chunk = pool->free;

	if (chunk) {
		pool->free = chunk->next;
		pool->nr_free--;
	} else {
		chunk = epoch_chunk_map(false);
	}
	if (chunk) {
		chunk->next = NULL;
		chunk->used = 0;
	}
	return chunk;
}

struct epoch *epoch_new(struct epoch_pool *pool, const struct epoch_shape *shape,
			epoch_apply_fn apply, epoch_read_fn read, void *arg, bool early)
{
	struct epoch *epoch = calloc(1, sizeof(*epoch));

	if (!epoch)
		return NULL;
	epoch->state.data = malloc(EPOCH_STATE_RESERVE);
	if (!epoch->state.data) {
		free(epoch);
		return NULL;
	}
	epoch->state.room = EPOCH_STATE_RESERVE;
	epoch->pool = pool;
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
	free(epoch->state.data);
	free(epoch);
}

void epoch_reset(struct epoch *epoch)
{
	while (epoch->first) {
		struct epoch_chunk *chunk = epoch->first;

		epoch->first = chunk->next;
		epoch_chunk_put(epoch->pool, chunk);
	}
	epoch->last = NULL;
	epoch->at = NULL;
	epoch->at_offset = 0;
	epoch->number = 0;
	epoch->open = false;
	epoch->whole = false;
	epoch->torn = false;
	epoch->live = false;
	epoch->bytes = 0;
	epoch->pages = 0;
	epoch->zero_pages = 0;
	epoch->digest = 0;
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

static int epoch_keep(struct epoch *epoch, const struct frame *frame, struct why *why)
{
	size_t need = sizeof(struct epoch_item) + ((frame->length + 7u) & ~7u);
	struct epoch_item item = { .length = frame->length };
	uint8_t *to;

	if (!epoch->last || EPOCH_CHUNK_ROOM - epoch->last->used < need) {
		struct epoch_chunk *chunk = epoch_chunk_get(epoch->pool);

		if (!chunk)
			return why_set(why, ENOMEM, "no memory for an epoch of this size");
		if (epoch->last)
			epoch->last->next = chunk;
		else
			epoch->first = chunk;
		epoch->last = chunk;
	}
	to = epoch->last->data + epoch->last->used;
	memcpy(to, &item, sizeof(item));
	memcpy(to + sizeof(item), frame->payload, frame->length);
	epoch->last->used += need;
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
		return why_set(why, EFBIG,
			       "an epoch is larger than %llu MiB; start the standby's agent with a larger --max-epoch-mib",
			       (unsigned long long)(epoch->shape->max_bytes >> 20));
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

static int epoch_add_end(struct epoch *epoch, const struct frame *frame, struct why *why)
{
	struct frame_end end = frame_get_end(frame);

	if (end.pages != epoch->pages || end.zero_pages != epoch->zero_pages ||
	    end.state_bytes != epoch->state.len)
		return why_set(why, EPROTO, "it sent an epoch that is not whole");
	if (end.digest != epoch->digest)
		return why_set(why, EPROTO, "it sent an epoch with a wrong digest");
	if (end.flags & FRAME_END_TORN && (epoch->live || epoch->state.len))
		return why_set(why, EPROTO, "it sent a torn epoch that cannot be one");
	if (!epoch->live && !epoch->state.len && !(end.flags & FRAME_END_TORN))
		return why_set(why, EPROTO, "it sent an epoch without device state");
	if (epoch->live && epoch->state.len)
		return why_set(why, EPROTO, "it sent device state in a round of the first sync");
	epoch->stands = end.flags & FRAME_END_STANDS;
	epoch->torn = end.flags & FRAME_END_TORN;
	epoch->open = false;
	epoch->whole = true;
	epoch->at = epoch->first;
	epoch->at_offset = 0;
	return 1;
}

int epoch_add(struct epoch *epoch, const struct frame *frame, struct why *why)
{
	int err;

	if (frame->type == FRAME_EPOCH_BEGIN) {
		if (!epoch_empty(epoch))
			return why_set(why, EPROTO, "it began an epoch within an epoch");
		if (!frame->epoch)
			return why_set(why, EPROTO, "it began an epoch without a number");
		epoch->open = true;
		epoch->number = frame->epoch;
		epoch->live = frame_get_begin(frame).flags & FRAME_BEGIN_LIVE;
		epoch->digest = frame_digest(0, frame->checksum);
		return 0;
	}
	if (!epoch->open)
		return why_set(why, EPROTO, "it sent %s outside any epoch", frame_name(frame->type));
	if (frame->epoch != epoch->number)
		return why_set(why, EPROTO, "it sent %s of another epoch", frame_name(frame->type));

	switch (frame->type) {
	case FRAME_PAGES:
		err = epoch_add_pages(epoch, frame, why);
		break;
	case FRAME_STATE:
		err = epoch_add_state(epoch, frame, why);
		break;
	case FRAME_EPOCH_END:
		return epoch_add_end(epoch, frame, why);
	default:
		return why_set(why, EPROTO, "it sent %s within an epoch", frame_name(frame->type));
	}
	epoch->digest = frame_digest(epoch->digest, frame->checksum);
	return err;
}

int epoch_apply(struct epoch *epoch, unsigned int max, struct why *why)
{
	unsigned int done = 0;

	if (!epoch->whole)
		return why_set(why, EINVAL, "internal error: applying an epoch that is not whole");
	while (epoch->at) {
		struct epoch_item item;
		struct frame frame = { .type = FRAME_PAGES };
		int err;

		if (epoch->at_offset == epoch->at->used) {
			epoch->at = epoch->at->next;
			epoch->at_offset = 0;
			continue;
		}
		if (done >= max)
			return 1;
		memcpy(&item, epoch->at->data + epoch->at_offset, sizeof(item));
		frame.payload = epoch->at->data + epoch->at_offset + sizeof(item);
		frame.length = (uint32_t)item.length;
		err = epoch_apply_frame(epoch, &frame, why);
		if (err)
			return err;
		done += frame_get_pages(&frame).nr;
		epoch->at_offset += sizeof(item) + ((item.length + 7u) & ~7u);
	}
	return 0;
}
