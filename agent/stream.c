// SPDX-License-Identifier: GPL-2.0
/*
 * stream: the module is only polled while nothing is under way; otherwise what
 * comes back from the link is the reason to look at the rings again.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "carrier.h"
#include "encoder.h"
#include "stream.h"

/* Frames under way at most: 64 MiB. */
#define STREAM_FRAMES		64u
#define STREAM_COPIES		UINT32_MAX
/* Of these so many encoded: only a link that is slow has any, and a few keep it busy. */
#define STREAM_ROOMS		8u

/* Where a frame's encoded pages are. */
struct stream_room {
	struct stream_room *next;
	uint8_t data[FRAME_PAGES_MAX * CODEC_MAX];
};

struct stream_frame {
	struct link_tx tx;
	struct stream *stream;
	struct stream_frame *next;
	struct stream_room *room;	/* NULL: its pages go as they are */
	size_t room_used;
	uint32_t ring;			/* or STREAM_COPIES */
	uint64_t upto;			/* records before this are done with it */
	struct {
		struct frame_pages head;
		struct frame_page pages[FRAME_PAGES_MAX];
	} desc;
	struct iovec iov[2 + FRAME_PAGES_MAX];
};

/* A piece of device state. */
struct stream_piece {
	struct link_tx tx;
	struct iovec iov[2];
};

struct stream {
	struct loop *loop;
	struct link *link;
	struct session *session;
	struct encoder *encoder;
	bool live;
	bool encodes;
	struct ramblock_table *blocks;
	uint64_t epoch;
	uint64_t digest;
	struct stream_totals totals;

	struct stream_frame *free;
	unsigned int under_way;
	struct stream_frame frames[STREAM_FRAMES];
	struct stream_room *rooms;	/* free ones */
	struct stream_room *rooms_mapped;

	struct link_tx begin;
	struct frame_begin begin_payload;
	struct iovec begin_iov[2];
	struct link_tx end;
	struct frame_end end_payload;
	struct iovec end_iov[2];

	bool copies;			/* small blocks are still to be sent */
	unsigned int copy_block;
	uint64_t copy_page;

	bool torn;
	bool *ended;			/* for each ring */
	uint64_t *ring_pages;		/* records of this epoch in each ring */
	unsigned int ended_room;
	unsigned int nr_ended;

	bool collecting;
	bool filling;
	struct loop_op *poll;
	void (*done)(void *arg, int err);
	void *arg;
};

static void stream_fill(struct stream *stream);

/* Ends of an epoch, which no frame gives back. */
static void stream_give_rest(struct stream *stream)
{
	unsigned int i;

	for (i = 0; i < stream->session->nr_rings; i++) {
		struct ring *ring = &stream->session->rings[i];

		if (ring_give(ring, ring->taken))
			session_kick(stream->session);
	}
}

static void stream_frame_put(struct stream *stream, struct stream_frame *frame)
{
	if (frame->room) {
		frame->room->next = stream->rooms;
		stream->rooms = frame->room;
		frame->room = NULL;
	}
	stream->under_way--;
	frame->next = stream->free;
	stream->free = frame;
}

/* The transport has it: the ring's slots are the module's again. */
static void stream_frame_done(struct link_tx *tx, bool sent)
{
	struct stream_frame *frame = (struct stream_frame *)tx;
	struct stream *stream = frame->stream;

	(void)sent;
	stream_frame_put(stream, frame);
	if (frame->ring != STREAM_COPIES && frame->ring < stream->session->nr_rings &&
	    ring_give(&stream->session->rings[frame->ring], frame->upto))
		session_kick(stream->session);
	if (!stream->under_way)
		stream_give_rest(stream);
	if (stream->collecting)
		stream_fill(stream);
}

static void stream_fixed_done(struct link_tx *tx, bool sent)
{
	(void)tx;
	(void)sent;
}

static void stream_piece_done(struct link_tx *tx, bool sent)
{
	(void)sent;
	/* @tx is the first member. */
	free(tx);
}

struct stream *stream_new(struct loop *loop, struct encoder *encoder)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	unsigned int i;

	if (!stream)
		return NULL;
	stream->loop = loop;
	stream->encoder = encoder;
	/* Not touched until it is used, which is not while the guest stands. */
	stream->rooms_mapped = mmap(NULL, STREAM_ROOMS * sizeof(struct stream_room),
				    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stream->rooms_mapped == MAP_FAILED) {
		free(stream);
		return NULL;
	}
	for (i = 0; i < STREAM_ROOMS; i++) {
		stream->rooms_mapped[i].next = stream->rooms;
		stream->rooms = &stream->rooms_mapped[i];
	}
	for (i = 0; i < STREAM_FRAMES; i++) {
		struct stream_frame *frame = &stream->frames[i];

		frame->stream = stream;
		frame->tx.iov = frame->iov;
		frame->tx.done = stream_frame_done;
		frame->next = stream->free;
		stream->free = frame;
		/* Touched now, so that it is not while the guest stands. */
		memset(&frame->desc, 0, sizeof(frame->desc));
		memset(frame->iov, 0, sizeof(frame->iov));
	}
	stream->begin.iov = stream->begin_iov;
	stream->begin.n = 2;
	stream->begin.done = stream_fixed_done;
	stream->end.iov = stream->end_iov;
	stream->end.n = 2;
	stream->end.done = stream_fixed_done;
	return stream;
}

void stream_free(struct stream *stream)
{
	if (!stream)
		return;
	stream_abandon(stream);
	free(stream->ended);
	free(stream->ring_pages);
	munmap(stream->rooms_mapped, STREAM_ROOMS * sizeof(struct stream_room));
	free(stream);
}

void stream_lend(struct stream *stream, struct link *link, const struct session *session)
{
	unsigned int i;

	for (i = 0; i < session->nr_rings; i++)
		carrier_lend(link, session->rings[i].data,
			     (size_t)session->rings[i].slots * VMREPL_PAGE_SIZE);
	carrier_lend(link, stream->rooms_mapped, STREAM_ROOMS * sizeof(struct stream_room));
}

bool stream_encodes(const struct stream *stream)
{
	return stream->encodes;
}

bool stream_torn(const struct stream *stream)
{
	return stream->torn;
}

const struct stream_totals *stream_totals(const struct stream *stream)
{
	return &stream->totals;
}

static void stream_send(struct stream *stream, struct link_tx *tx, enum frame_type type)
{
	unsigned int i;

	for (i = 1; i < (unsigned int)tx->n; i++)
		stream->totals.bytes += tx->iov[i].iov_len;
	stream->totals.bytes += sizeof(struct frame_header);
	stream->digest = frame_digest(stream->digest,
				      link_send(stream->link, tx, type, stream->epoch));
}

/* Once a session, before anything stands still. */
static bool stream_room(struct stream *stream, unsigned int nr_rings)
{
	if (nr_rings <= stream->ended_room)
		return true;
	free(stream->ended);
	free(stream->ring_pages);
	stream->ended = calloc(nr_rings, sizeof(*stream->ended));
	stream->ring_pages = calloc(nr_rings, sizeof(*stream->ring_pages));
	stream->ended_room = stream->ended && stream->ring_pages ? nr_rings : 0;
	return stream->ended_room;
}

void stream_begin(struct stream *stream, struct link *link, struct session *session,
		  struct ramblock_table *blocks, uint64_t epoch, uint32_t flags)
{
	stream->link = link;
	stream->session = session;
	stream->blocks = blocks;
	stream->epoch = epoch;
	stream->digest = 0;
	memset(&stream->totals, 0, sizeof(stream->totals));
	stream->live = flags & STREAM_LIVE;
	stream->encodes = !(flags & STREAM_STANDS) &&
			  encoder_pays(stream->encoder, epoch, link_rate(link));
	stream->copies = flags & STREAM_COPIES_TOO;
	stream->copy_block = 0;
	stream->copy_page = 0;
	stream->nr_ended = 0;
	stream->torn = false;
	if (stream_room(stream, session->nr_rings)) {
		memset(stream->ended, 0, session->nr_rings * sizeof(*stream->ended));
		memset(stream->ring_pages, 0, session->nr_rings * sizeof(*stream->ring_pages));
	}
	stream->begin_payload.flags = flags & STREAM_LIVE ? FRAME_BEGIN_LIVE : 0;
	/* Sending in parts has moved it. */
	stream->begin_iov[1].iov_base = &stream->begin_payload;
	stream->begin_iov[1].iov_len = sizeof(stream->begin_payload);
	stream_send(stream, &stream->begin, FRAME_EPOCH_BEGIN);
}

static void stream_finish(struct stream *stream, int err)
{
	stream->collecting = false;
	loop_cancel(stream->loop, stream->poll);
	stream->poll = NULL;
	stream->done(stream->arg, err);
}

static void stream_readable(void *arg, int res)
{
	struct stream *stream = arg;

	stream->poll = NULL;
	if (res < 0 || (res & POLLHUP))
		stream_finish(stream, -ESRCH);
	else if (res & (POLLERR | POLLNVAL))
		stream_finish(stream, -EIO);
	else
		stream_fill(stream);
}

static struct stream_frame *stream_frame_get(struct stream *stream)
{
	struct stream_frame *frame = stream->free;

	stream->free = frame->next;
	stream->under_way++;
	frame->desc.head.nr = 0;
	frame->desc.head.bytes = 0;
	frame->tx.n = 2;
	frame->room = NULL;
	if (stream->live && stream->rooms)
		stream->encodes = encoder_pays(stream->encoder, stream->epoch,
					       link_rate(stream->link));
	if (stream->encodes) {
		frame->room = stream->rooms;
		frame->room_used = 0;
		stream->rooms = frame->room->next;
		encoder_begin(stream->encoder);
	}
	return frame;
}

static void stream_frame_add(struct stream *stream, struct stream_frame *frame, uint32_t block,
			     uint64_t page, const uint8_t *data)
{
	struct frame_page *desc = &frame->desc.pages[frame->desc.head.nr++];
	struct iovec *last = &frame->iov[frame->tx.n - 1];
	size_t len = 0;

	desc->block = block;
	desc->page = page;
	desc->kind = data ? FRAME_PAGE_RAW : FRAME_PAGE_ZERO;
	if (frame->room) {
		uint8_t *out = frame->room->data + frame->room_used;

		desc->kind = encoder_page(stream->encoder, stream->epoch, block, page, data, out,
					  &len);
		frame->room_used += len;
		if (len)
			data = out;
	} else {
		encoder_plain(stream->encoder, stream->epoch, block, page);
	}
	desc->bytes = data ? len ? len : FRAME_PAGE_SIZE : 0;
	stream->totals.zero_pages += !data;
	if (!data)
		return;
	frame->desc.head.bytes += desc->bytes;
	if (frame->tx.n > 2 && (uint8_t *)last->iov_base + last->iov_len == data) {
		last->iov_len += desc->bytes;
		return;
	}
	last++;
	last->iov_base = (void *)(uintptr_t)data;
	last->iov_len = desc->bytes;
	frame->tx.n++;
}

static void stream_frame_send(struct stream *stream, struct stream_frame *frame)
{
	frame->iov[1].iov_base = &frame->desc;
	frame->iov[1].iov_len = sizeof(frame->desc.head) +
				frame->desc.head.nr * sizeof(struct frame_page);
	stream->totals.pages += frame->desc.head.nr;
	if (frame->room)
		encoder_end(stream->encoder);
	stream_send(stream, &frame->tx, FRAME_PAGES);
}

/* One frame's worth of small blocks; false when there are no more. */
static bool stream_fill_copies(struct stream *stream)
{
	struct stream_frame *frame = stream_frame_get(stream);

	frame->ring = STREAM_COPIES;
	while (stream->copy_block < stream->blocks->nr &&
	       frame->desc.head.nr < FRAME_PAGES_MAX) {
		const struct ramblock *block = &stream->blocks->blocks[stream->copy_block];
		const uint8_t *page;

		if (!block->copy || stream->copy_page == block->size / RAMBLOCK_PAGE) {
			stream->copy_block++;
			stream->copy_page = 0;
			continue;
		}
		page = block->copy + stream->copy_page * RAMBLOCK_PAGE;
		stream_frame_add(stream, frame, stream->copy_block, stream->copy_page++,
				 ramblock_page_is_zero(page) ? NULL : page);
	}
	if (!frame->desc.head.nr) {
		stream_frame_put(stream, frame);
		return false;
	}
	stream_frame_send(stream, frame);
	return true;
}

/* One frame's worth of a ring. Returns 1 something was taken, 0, or -errno. */
static int stream_fill_ring(struct stream *stream, uint32_t index)
{
	struct ring *ring = &stream->session->rings[index];
	uint64_t ready = ring_ready(ring);
	struct stream_frame *frame;
	uint64_t i;
	int err = 0;

	if (ring_broken(ring) || ready > ring->slots)
		return -EIO;
	if (!ready || stream->ended[index])
		return 0;
	frame = stream_frame_get(stream);
	for (i = 0; i < ready && frame->desc.head.nr < FRAME_PAGES_MAX && !stream->ended[index]; i++) {
		const struct vmrepl_rec *rec = ring_rec(ring, i);
		unsigned int block;
		uint64_t page;

		if (rec->epoch != stream->epoch) {
			err = -ELOOP;
			break;
		}
		if (rec->type == VMREPL_REC_END) {
			if (rec->arg != stream->ring_pages[index]) {
				err = -EIO;
				break;
			}
			stream->torn |= rec->flags & VMREPL_REC_TORN;
			stream->ended[index] = true;
			stream->nr_ended++;
			continue;
		}
		if (rec->type == VMREPL_REC_SKIP)
			continue;
		if (rec->type != VMREPL_REC_PAGE && rec->type != VMREPL_REC_ZERO) {
			err = -EIO;
			break;
		}
		if (!ramblock_find(stream->blocks, rec->hva, &block, &page)) {
			err = -ESTALE;
			break;
		}
		stream->ring_pages[index]++;
		stream_frame_add(stream, frame, block, page,
				 rec->type == VMREPL_REC_PAGE ? ring_data(ring, i) : NULL);
	}
	if (err) {
		stream_frame_put(stream, frame);
		return err;
	}
	ring_take(ring, i);
	frame->ring = index;
	frame->upto = ring->taken;
	if (frame->desc.head.nr) {
		stream_frame_send(stream, frame);
		return 1;
	}
	/* Only places without a page, and the end: in order behind what is under way, which tells later. */
	stream_frame_put(stream, frame);
	if (!stream->under_way && ring_give(ring, ring->taken))
		session_kick(stream->session);
	return 1;
}

/* Whether another frame can be begun; otherwise one that comes back makes it so. */
static bool stream_can(const struct stream *stream)
{
	return stream->free && (!stream->encodes || stream->rooms);
}

static void stream_fill(struct stream *stream)
{
	bool more = true;
	unsigned int i;
	int err;

	/* A dead link hands frames back at once, from within. */
	if (stream->filling)
		return;
	stream->filling = true;
	while (more && stream_can(stream)) {
		more = false;
		if (stream->copies) {
			stream->copies = stream_fill_copies(stream);
			more = true;
			continue;
		}
		for (i = 0; i < stream->session->nr_rings && stream_can(stream); i++) {
			err = stream_fill_ring(stream, i);
			if (err < 0) {
				stream->filling = false;
				stream_finish(stream, err);
				return;
			}
			more |= err > 0;
		}
	}
	stream->filling = false;
	if (!stream->under_way)
		stream_give_rest(stream);
	if (!stream->copies && stream->nr_ended == stream->session->nr_rings) {
		stream_finish(stream, 0);
		return;
	}
	if (!stream->under_way && !stream->poll)
		stream->poll = loop_poll(stream->loop, stream->session->fd, POLLIN,
					 stream_readable, stream);
}

void stream_collect(struct stream *stream, void (*done)(void *arg, int err), void *arg)
{
	stream->done = done;
	stream->arg = arg;
	stream->collecting = true;
	if (stream->ended_room < stream->session->nr_rings) {
		stream_finish(stream, -ENOMEM);
		return;
	}
	stream_fill(stream);
}

void stream_abandon(struct stream *stream)
{
	stream->collecting = false;
	loop_cancel(stream->loop, stream->poll);
	stream->poll = NULL;
}

int stream_end(struct stream *stream, const uint8_t *state, size_t len, uint32_t flags)
{
	size_t at, n;

	for (at = 0; at < len; at += n) {
		struct stream_piece *piece = calloc(1, sizeof(*piece));

		if (!piece)
			return -ENOMEM;
		n = len - at < FRAME_STATE_MAX ? len - at : FRAME_STATE_MAX;
		piece->tx.iov = piece->iov;
		piece->tx.n = 2;
		piece->tx.done = stream_piece_done;
		piece->iov[1].iov_base = (void *)(uintptr_t)(state + at);
		piece->iov[1].iov_len = n;
		stream_send(stream, &piece->tx, FRAME_STATE);
	}
	stream->totals.state_bytes = len;
	stream->end_payload = (struct frame_end) {
		.pages = stream->totals.pages,
		.zero_pages = stream->totals.zero_pages,
		.state_bytes = len,
		.digest = stream->digest,
		.flags = flags,
	};
	stream->end_iov[1].iov_base = &stream->end_payload;
	stream->end_iov[1].iov_len = sizeof(stream->end_payload);
	stream_send(stream, &stream->end, FRAME_EPOCH_END);
	return 0;
}
