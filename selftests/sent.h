/* SPDX-License-Identifier: GPL-2.0 */
/*
 * sent: what a primary sends of an epoch, frame by frame.
 */
#ifndef _SELFTESTS_SENT_H
#define _SELFTESTS_SENT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "frame.h"

#define BLOCKS		2
#define PAGES		24
#define STATE_BYTES	3000
#define FRAMES_MAX	64
#define STREAM_MAX	(1u << 20)

/* The VM: block 0 and block 1. */
struct memory {
	uint8_t byte[BLOCKS][PAGES][FRAME_PAGE_SIZE];
};

/* What a primary sends; frame i is at @at[i] to @at[i + 1]. */
struct stream {
	uint8_t *byte;
	size_t len;
	size_t at[FRAMES_MAX + 1];
	unsigned int nr;
	struct frame_digest digest;
	uint64_t epoch;
	struct frame_end end;
};

/* What the standby holds. */
static struct memory before;

static void stream_reset(struct stream *s, uint64_t number)
{
	free(s->byte);
	memset(s, 0, sizeof(*s));
	s->byte = malloc(STREAM_MAX);
	s->epoch = number;
}

static void stream_put(struct stream *s, enum frame_type type, const void *payload, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)payload, len };
	struct frame_header head;
	uint64_t sum = frame_seal(&head, type, s->epoch, s->nr, &iov, 1);

	frame_digest_add(&s->digest, type, sum);
	memcpy(s->byte + s->len, &head, sizeof(head));
	memcpy(s->byte + s->len + sizeof(head), payload, len);
	s->len += sizeof(head) + len;
	s->at[++s->nr] = s->len;
}

static void stream_begin(struct stream *s, uint32_t flags)
{
	struct frame_begin begin = { .flags = flags };

	s->digest.streams = flags & FRAME_BEGIN_STREAMS;
	stream_put(s, FRAME_EPOCH_BEGIN, &begin, sizeof(begin));
}

/*
 * @nr pages of @block from page @first on: as they are, compressed, compared with @before,
 * zeros.
 */
static void stream_pages(struct stream *s, uint32_t block, uint64_t first, uint32_t nr, int seed)
{
	static uint8_t payload[FRAME_PAYLOAD_MAX];
	struct frame_pages head = { .nr = nr };
	uint8_t *data = payload + sizeof(head) + nr * sizeof(struct frame_page);
	uint32_t i;

	for (i = 0; i < nr; i++) {
		struct frame_page page = { .block = block, .kind = i % 4, .page = first + i };
		uint8_t bytes[FRAME_PAGE_SIZE];

		memset(bytes, seed + (int)(block * PAGES + first + i), sizeof(bytes));
		switch (page.kind) {
		case FRAME_PAGE_RAW:
			memcpy(data, bytes, sizeof(bytes));
			page.bytes = sizeof(bytes);
			break;
		case FRAME_PAGE_LZ4:
			page.bytes = (uint16_t)codec_lz4(bytes, data, CODEC_MAX);
			break;
		case FRAME_PAGE_DELTA:
			if (page.block < BLOCKS && page.page < PAGES)
				page.bytes = (uint16_t)codec_delta(bytes,
								   before.byte[block][page.page],
								   data, CODEC_MAX);
			break;
		}
		data += page.bytes;
		head.bytes += page.bytes;
		memcpy(payload + sizeof(head) + i * sizeof(page), &page, sizeof(page));
	}
	memcpy(payload, &head, sizeof(head));
	s->end.pages += nr;
	for (i = 0; i < nr; i++)
		s->end.zero_pages += i % 4 == FRAME_PAGE_ZERO;
	stream_put(s, FRAME_PAGES, payload, (size_t)(data - payload));
}

static void stream_state(struct stream *s, int seed, size_t len)
{
	uint8_t payload[sizeof(struct frame_state) + STATE_BYTES], bytes[STATE_BYTES];
	struct frame_state head = { .kind = FRAME_STATE_RAW, .bytes = (uint32_t)len };

	memset(bytes, seed, sizeof(bytes));
	memcpy(payload, &head, sizeof(head));
	memcpy(payload + sizeof(head), bytes, len);
	s->end.state_bytes += len;
	stream_put(s, FRAME_STATE, payload, sizeof(head) + len);
}

/* The same, encoded: with the @len bytes at @base, or NULL. */
static void stream_state_coded(struct stream *s, int seed, size_t len, const uint8_t *base)
{
	uint8_t payload[sizeof(struct frame_state) + STATE_BYTES];
	uint8_t bytes[STATE_BYTES], differs[STATE_BYTES];
	struct frame_state head = {
		.kind = base ? FRAME_STATE_DELTA : FRAME_STATE_LZ4, .bytes = (uint32_t)len,
	};

	memset(bytes, seed, sizeof(bytes));
	memcpy(payload, &head, sizeof(head));
	s->end.state_bytes += len;
	stream_put(s, FRAME_STATE, payload, sizeof(head) +
		   codec_state(bytes, base, len, differs, payload + sizeof(head)));
}

static void stream_end(struct stream *s)
{
	s->end.digest = frame_digest_value(&s->digest);
	stream_put(s, FRAME_EPOCH_END, &s->end, sizeof(s->end));
}

static void stream_epoch(struct stream *s, uint64_t number, int seed)
{
	stream_reset(s, number);
	stream_begin(s, 0);
	stream_pages(s, 0, 0, 1, seed);
	stream_pages(s, 1, 3, 5, seed);
	stream_state(s, seed, 1000);
	stream_pages(s, 0, 10, 4, seed);
	stream_state_coded(s, seed, STATE_BYTES, NULL);
	stream_end(s);
}

#endif /* _SELFTESTS_SENT_H */
