// SPDX-License-Identifier: GPL-2.0
/*
 * stream: the module is only polled while the link takes frames at once; otherwise that it
 * has taken one is the reason to look at the rings again, so that frames are large where it
 * is slow.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "carrier.h"
#include "encoder.h"
#include "fleet.h"
#include "stateframe.h"
#include "stream.h"

/* Pages that are looked at, whether the standby holds them, before others have a turn. */
#define STREAM_LOOK		1024u

/* Of one ring. */
struct stream_ring {
	bool ended;
	uint64_t pages;			/* records of this epoch */
};

struct stream {
	struct loop *loop;
	struct link *link;
	struct session *session;
	struct encoder *encoder;
	bool live;
	bool encodes;
	uint64_t limit;			/* of live rounds, bytes a second; 0: none */
	uint64_t began;
	struct ramblock_table *blocks;
	struct pagesums *held;
	uint64_t epoch;
	struct frame_digest digest;
	struct stream_totals totals;

	struct fleet *fleet;

	struct link_tx begin;
	struct frame_begin begin_payload;
	struct iovec begin_iov[2];
	struct link_tx end;
	struct frame_end end_payload;
	struct iovec end_iov[2];

	bool copies;			/* small blocks are still to be sent */
	bool no_rings;			/* and nothing else */
	unsigned int copy_block;
	uint64_t copy_page;

	bool torn;
	struct stream_ring *rings;
	unsigned int nr_rings;		/* that there is room for */
	unsigned int nr_ended;

	bool collecting;
	bool filling;
	unsigned int looked;
	struct loop_timer again;
	struct loop_op *poll;
	void (*done)(void *arg, int err);
	void *arg;
};

static void stream_fill(struct stream *stream);

static void stream_give(void *arg, uint32_t index, uint64_t upto)
{
	struct session *session = ((struct stream *)arg)->session;

	/* There may be none any more, or another one with fewer rings. */
	if (index < session->nr_rings && ring_give(&session->rings[index], upto))
		session_kick(session);
}

static void stream_moved(void *arg)
{
	struct stream *stream = arg;

	if (stream->collecting)
		stream_fill(stream);
}

static void stream_fixed_done(struct link_tx *tx, bool sent)
{
	(void)tx;
	(void)sent;
}

static void stream_again(void *arg)
{
	stream_fill(arg);
}

struct stream *stream_new(struct loop *loop, struct encoder *encoder, bool early)
{
	struct stream *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return NULL;
	stream->loop = loop;
	stream->encoder = encoder;
	stream->fleet = fleet_new(stream_give, stream_moved, stream, early);
	if (!stream->fleet) {
		free(stream);
		return NULL;
	}
	stream->again.fn = stream_again;
	stream->again.arg = stream;
	stream->begin.iov = stream->begin_iov;
	stream->begin.n = 2;
	stream->begin.done = stream_fixed_done;
	stream->end.iov = stream->end_iov;
	stream->end.n = 2;
	stream->end.done = stream_fixed_done;
	return stream;
}

void stream_limit(struct stream *stream, uint64_t rate)
{
	stream->limit = rate;
}

void stream_free(struct stream *stream)
{
	if (!stream)
		return;
	stream_abandon(stream);
	free(stream->rings);
	fleet_free(stream->fleet);
	free(stream);
}

void stream_lend(struct stream *stream, struct link *link, const struct session *session)
{
	unsigned int i;
	size_t bytes;
	void *rooms = fleet_rooms(stream->fleet, &bytes);

	for (i = 0; i < session->nr_rings; i++)
		carrier_lend(link, session->rings[i].data,
			     (size_t)session->rings[i].slots * VMREPL_PAGE_SIZE);
	carrier_lend(link, rooms, bytes);
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
	frame_digest_add(&stream->digest, type, link_send(stream->link, tx, type, stream->epoch));
}

/* Once a session, before anything stands still. */
static bool stream_room(struct stream *stream, unsigned int nr_rings)
{
	if (!fleet_rings(stream->fleet, nr_rings))
		return false;
	if (nr_rings <= stream->nr_rings)
		return true;
	free(stream->rings);
	stream->rings = calloc(nr_rings, sizeof(*stream->rings));
	stream->nr_rings = stream->rings ? nr_rings : 0;
	return stream->nr_rings;
}

void stream_begin(struct stream *stream, struct link *link, struct session *session,
		  struct ramblock_table *blocks, uint64_t epoch, uint32_t flags,
		  struct pagesums *held)
{
	unsigned int i;

	stream->link = link;
	stream->session = session;
	stream->blocks = blocks;
	stream->held = held;
	stream->epoch = epoch;
	stream->digest = (struct frame_digest) { .streams = link_lanes(link) };
	memset(&stream->totals, 0, sizeof(stream->totals));
	stream->live = flags & STREAM_LIVE;
	stream->began = loop_now();
	stream->encodes = false;
	if (flags & STREAM_STANDS)
		encoder_rest(stream->encoder);
	else
		stream->encodes = encoder_pays(stream->encoder, link_rate(link));
	stream->copies = flags & STREAM_COPIES;
	stream->no_rings = stream->copies;
	stream->copy_block = 0;
	stream->copy_page = 0;
	stream->nr_ended = 0;
	stream->torn = false;
	/* Frames of the last one may be with the transport still, though it was acknowledged. */
	for (i = 0; stream_room(stream, session->nr_rings) && i < session->nr_rings; i++) {
		stream->rings[i].ended = false;
		stream->rings[i].pages = 0;
	}
	stream->begin_payload.flags = (flags & STREAM_LIVE ? FRAME_BEGIN_LIVE : 0) |
				      (stream->digest.streams ? FRAME_BEGIN_STREAMS : 0);
	/* Sending in parts has moved it. */
	stream->begin_iov[1].iov_base = &stream->begin_payload;
	stream->begin_iov[1].iov_len = sizeof(stream->begin_payload);
	stream_send(stream, &stream->begin, FRAME_EPOCH_BEGIN);
}

static void stream_stop(struct stream *stream)
{
	stream->collecting = false;
	loop_timer_cancel(stream->loop, &stream->again);
	loop_cancel(stream->loop, stream->poll);
	stream->poll = NULL;
}

static void stream_finish(struct stream *stream, int err)
{
	stream_stop(stream);
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

/* What the link carries, or may: a round that is held back has time. */
static uint64_t stream_rate(const struct stream *stream)
{
	uint64_t rate = link_rate(stream->link);

	return stream->live && stream->limit && (!rate || stream->limit < rate) ? stream->limit :
										  rate;
}

static struct fleet_frame *stream_frame_get(struct stream *stream, uint32_t ring)
{
	if (stream->live && fleet_has_room(stream->fleet))
		stream->encodes = encoder_pays(stream->encoder, stream_rate(stream));
	return fleet_get(stream->fleet, ring, stream->encodes);
}

static void stream_frame_add(struct stream *stream, struct fleet_frame *frame, uint32_t block,
			     uint64_t page, const uint8_t *data)
{
	pageframe_add(&frame->out, stream->encoder, stream->epoch, block, page, data);
	stream->totals.pages++;
	stream->totals.zero_pages += !data;
}

/* Records before @upto of its ring are done with it. */
static void stream_frame_send(struct stream *stream, struct fleet_frame *frame, uint64_t upto)
{
	pageframe_end(&frame->out);
	fleet_leaves(frame, upto);
	stream_send(stream, &frame->out.tx, FRAME_PAGES);
}

/* One frame's worth of small blocks; false when there are no more. */
static bool stream_fill_copies(struct stream *stream)
{
	struct fleet_frame *frame = stream_frame_get(stream, FLEET_NO_RING);

	while (stream->copy_block < stream->blocks->nr &&
	       pageframe_pages(&frame->out) < FRAME_PAGES_MAX) {
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
	if (!pageframe_pages(&frame->out)) {
		fleet_put(frame);
		return false;
	}
	stream_frame_send(stream, frame, 0);
	return true;
}

/* Whether the standby has the page already. */
static bool stream_held(struct stream *stream, uint32_t block, uint64_t page,
			const uint8_t *data)
{
	bool held;

	if (!stream->held || !data)
		return false;
	held = pagesums_holds(stream->held, block, page, data);
	stream->looked++;
	stream->totals.same_pages += held;
	return held;
}

/* One frame's worth of a ring. Returns 1 something was taken, 0, or -errno. */
static int stream_fill_ring(struct stream *stream, uint32_t index)
{
	struct ring *ring = &stream->session->rings[index];
	struct stream_ring *state = &stream->rings[index];
	uint64_t ready = ring_ready(ring);
	struct fleet_frame *frame;
	uint64_t i;
	int err = 0;

	if (ring_broken(ring) || ready > ring->slots)
		return -EIO;
	if (!ready || state->ended)
		return 0;
	frame = stream_frame_get(stream, index);
	for (i = 0; i < ready && pageframe_pages(&frame->out) < FRAME_PAGES_MAX && !state->ended &&
	     stream->looked < STREAM_LOOK; i++) {
		const struct vmrepl_rec *rec = ring_rec(ring, i);
		const uint8_t *data;
		unsigned int block;
		uint64_t page;

		if (rec->epoch != stream->epoch) {
			err = -ELOOP;
			break;
		}
		if (rec->type == VMREPL_REC_END) {
			if (rec->arg != state->pages) {
				err = -EIO;
				break;
			}
			stream->torn |= rec->flags & VMREPL_REC_TORN;
			state->ended = true;
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
		state->pages++;
		data = rec->type == VMREPL_REC_PAGE ? ring_data(ring, i) : NULL;
		if (!stream_held(stream, block, page, data))
			stream_frame_add(stream, frame, block, page, data);
	}
	if (err) {
		fleet_put(frame);
		return err;
	}
	ring_take(ring, i);
	if (pageframe_pages(&frame->out)) {
		stream_frame_send(stream, frame, ring->taken);
		return 1;
	}
	fleet_put(frame);
	fleet_pass(stream->fleet, index, ring->taken);
	return 1;
}

/* Nanoseconds until a live round may send more. */
static uint64_t stream_too_fast(const struct stream *stream)
{
	double due, now = (double)(loop_now() - stream->began);

	if (!stream->live || !stream->limit)
		return 0;
	due = (double)stream->totals.bytes * (double)NSEC_PER_SEC / (double)stream->limit;
	return due > now ? (uint64_t)(due - now) + 1 : 0;
}

/* Whether another frame can be begun; otherwise one that comes back, or time, makes it so. */
static bool stream_can(const struct stream *stream)
{
	return fleet_can(stream->fleet, stream->encodes) && stream->looked < STREAM_LOOK && !stream_too_fast(stream);
}

static unsigned int stream_rings(const struct stream *stream)
{
	return stream->no_rings ? 0 : stream->session->nr_rings;
}

static void stream_fill(struct stream *stream)
{
	bool more = true;
	unsigned int i;
	uint64_t wait;
	int err;

	/* A dead link hands frames back at once, from within. */
	if (stream->filling)
		return;
	stream->filling = true;
	stream->looked = 0;
	while (more && stream_can(stream)) {
		more = false;
		if (stream->copies) {
			stream->copies = stream_fill_copies(stream);
			more = true;
			continue;
		}
		for (i = 0; i < stream_rings(stream) && stream_can(stream); i++) {
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
	if (!stream->copies && stream->nr_ended == stream_rings(stream)) {
		stream_finish(stream, 0);
		return;
	}
	wait = stream_too_fast(stream);
	if (wait || stream->looked >= STREAM_LOOK)
		loop_timer_set(stream->loop, &stream->again, wait);
	else if (!(fleet_waits(stream->fleet) && link_full(stream->link)) && stream_can(stream) &&
		 !stream->poll)
		stream->poll = loop_poll(stream->loop, stream->session->fd, POLLIN,
					 stream_readable, stream);
}

void stream_collect(struct stream *stream, void (*done)(void *arg, int err), void *arg)
{
	stream->done = done;
	stream->arg = arg;
	stream->collecting = true;
	if (stream->nr_rings < stream->session->nr_rings) {
		stream_finish(stream, -ENOMEM);
		return;
	}
	stream_fill(stream);
}

void stream_abandon(struct stream *stream)
{
	stream_stop(stream);
}

static int stream_state(struct stream *stream, const uint8_t *state, size_t len)
{
	struct encoder *encoder = stream->encoder;
	size_t at;

	/* A torn epoch has none, and the one before stays what the next is compared with. */
	if (!len)
		return 0;
	if (!encoder_pays(encoder, link_rate(stream->link)))
		encoder = NULL;
	for (at = 0; at < len;) {
		struct stateframe *frame = stateframe_new(encoder, state, at, len);

		if (!frame)
			return -ENOMEM;
		at += frame->head.bytes;
		stream_send(stream, &frame->tx, FRAME_STATE);
	}
	encoder_state_sent(stream->encoder, state, len);
	return 0;
}

int stream_end(struct stream *stream, const uint8_t *state, size_t len, uint32_t flags)
{
	uint64_t before = stream->totals.bytes;
	int err = stream_state(stream, state, len);

	if (err)
		return err;
	stream->totals.state_bytes = len;
	stream->totals.state_sent = stream->totals.bytes - before;
	stream->end_payload = (struct frame_end) {
		.pages = stream->totals.pages,
		.zero_pages = stream->totals.zero_pages,
		.state_bytes = len,
		.digest = frame_digest_value(&stream->digest),
		.flags = flags,
	};
	stream->end_iov[1].iov_base = &stream->end_payload;
	stream->end_iov[1].iov_len = sizeof(stream->end_payload);
	stream_send(stream, &stream->end, FRAME_EPOCH_END);
	return 0;
}
