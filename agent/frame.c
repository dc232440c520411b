// SPDX-License-Identifier: GPL-2.0
/*
 * frame: parsing trusts nothing, not even that numbers are aligned.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY	/* for a state on the stack */
#include <xxhash.h>

#include "frame.h"

_Static_assert(sizeof(struct frame_header) == 40, "wire format");
_Static_assert(sizeof(struct frame_begin) == 8, "wire format");
_Static_assert(sizeof(struct frame_pages) == 8, "wire format");
_Static_assert(sizeof(struct frame_page) == 16, "wire format");
_Static_assert(sizeof(struct frame_end) == 40, "wire format");
_Static_assert(sizeof(struct frame_bye) == 8, "wire format");
_Static_assert(sizeof(struct frame_sums) == 16, "wire format");
_Static_assert(sizeof(struct frame_sum) == 16, "wire format");
_Static_assert(sizeof(struct frame_state) == 8, "wire format");
_Static_assert(sizeof(struct frame_join) == 16, "wire format");
_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "pages and records are sent as they are in memory");

static const struct frame_kind {
	const char *name;
	uint32_t min;
	uint32_t max;
} frame_kinds[FRAME_TYPES] = {
	[FRAME_HELLO]		= { "HELLO", 2, FRAME_JSON_MAX },
	[FRAME_ACCEPT]		= { "ACCEPT", 2, FRAME_JSON_MAX },
	[FRAME_REFUSE]		= { "REFUSE", 1, FRAME_TEXT_MAX },
	[FRAME_EPOCH_BEGIN]	= { "EPOCH_BEGIN", sizeof(struct frame_begin),
				    sizeof(struct frame_begin) },
	[FRAME_PAGES]		= { "PAGES", sizeof(struct frame_pages) + sizeof(struct frame_page),
				    FRAME_PAYLOAD_MAX },
	[FRAME_STATE]		= { "STATE", sizeof(struct frame_state) + 1,
				    sizeof(struct frame_state) + FRAME_STATE_MAX },
	[FRAME_EPOCH_END]	= { "EPOCH_END", sizeof(struct frame_end), sizeof(struct frame_end) },
	[FRAME_ACK]		= { "ACK", 0, 0 },
	[FRAME_HEARTBEAT]	= { "HEARTBEAT", 0, 0 },
	[FRAME_BYE]		= { "BYE", sizeof(struct frame_bye),
				    sizeof(struct frame_bye) + FRAME_TEXT_MAX },
	[FRAME_BYE_ACK]		= { "BYE_ACK", 0, 0 },
	[FRAME_SUMS]		= { "SUMS", sizeof(struct frame_sums),
				    sizeof(struct frame_sums) +
				    FRAME_SUMS_MAX * sizeof(struct frame_sum) },
	[FRAME_JOIN]		= { "JOIN", sizeof(struct frame_join), sizeof(struct frame_join) },
};

const char *frame_name(enum frame_type type)
{
	if ((unsigned int)type >= FRAME_TYPES || !frame_kinds[type].name)
		return "unknown";
	return frame_kinds[type].name;
}

static uint64_t frame_checksum(const struct frame_header *head,
			       const struct iovec *iov, int n)
{
	struct frame_header clean = *head;
	XXH64_state_t state;
	int i;

	clean.checksum = 0;
	XXH64_reset(&state, 0);
	XXH64_update(&state, &clean, sizeof(clean));
	for (i = 0; i < n; i++)
		XXH64_update(&state, iov[i].iov_base, iov[i].iov_len);
	return XXH64_digest(&state);
}

static uint64_t frame_digest_pair(uint64_t a, uint64_t b)
{
	uint64_t pair[2] = { a, b };

	return XXH64(pair, sizeof(pair), 0);
}

void frame_digest_add(struct frame_digest *digest, enum frame_type type, uint64_t checksum)
{
	if (digest->streams && type == FRAME_PAGES)
		digest->pages += frame_digest_pair(0, checksum);
	else
		digest->order = frame_digest_pair(digest->order, checksum);
}

uint64_t frame_digest_value(const struct frame_digest *digest)
{
	return digest->streams ? frame_digest_pair(digest->order, digest->pages) : digest->order;
}

uint64_t frame_seal(struct frame_header *head, enum frame_type type,
		    uint64_t epoch, uint64_t seq, const struct iovec *iov, int n)
{
	size_t length = 0;
	int i;

	for (i = 0; i < n; i++)
		length += iov[i].iov_len;
	*head = (struct frame_header) {
		.magic = FRAME_MAGIC,
		.version = FRAME_VERSION,
		.type = (uint16_t)type,
		.length = (uint32_t)length,
		.epoch = epoch,
		.seq = seq,
	};
	head->checksum = frame_checksum(head, iov, n);
	return head->checksum;
}

struct frame_begin frame_get_begin(const struct frame *frame)
{
	struct frame_begin begin;

	memcpy(&begin, frame->payload, sizeof(begin));
	return begin;
}

struct frame_pages frame_get_pages(const struct frame *frame)
{
	struct frame_pages pages;

	memcpy(&pages, frame->payload, sizeof(pages));
	return pages;
}

struct frame_page frame_get_page(const struct frame *frame, uint32_t i)
{
	struct frame_page page;

	memcpy(&page, frame->payload + sizeof(struct frame_pages) +
	       (size_t)i * sizeof(page), sizeof(page));
	return page;
}

const uint8_t *frame_get_data(const struct frame *frame)
{
	return frame->payload + sizeof(struct frame_pages) +
	       (size_t)frame_get_pages(frame).nr * sizeof(struct frame_page);
}

struct frame_state frame_get_state(const struct frame *frame)
{
	struct frame_state state;

	memcpy(&state, frame->payload, sizeof(state));
	return state;
}

struct frame_end frame_get_end(const struct frame *frame)
{
	struct frame_end end;

	memcpy(&end, frame->payload, sizeof(end));
	return end;
}

struct frame_bye frame_get_bye(const struct frame *frame)
{
	struct frame_bye bye;

	memcpy(&bye, frame->payload, sizeof(bye));
	return bye;
}

struct frame_join frame_get_join(const struct frame *frame)
{
	struct frame_join join;

	memcpy(&join, frame->payload, sizeof(join));
	return join;
}

struct frame_sums frame_get_sums(const struct frame *frame)
{
	struct frame_sums sums;

	memcpy(&sums, frame->payload, sizeof(sums));
	return sums;
}

struct frame_sum frame_get_sum(const struct frame *frame, uint32_t i)
{
	struct frame_sum sum;

	memcpy(&sum, frame->payload + sizeof(struct frame_sums) + (size_t)i * sizeof(sum),
	       sizeof(sum));
	return sum;
}

void frame_get_text(const struct frame *frame, char *text, size_t len)
{
	size_t skip = frame->type == FRAME_BYE ? sizeof(struct frame_bye) : 0;
	size_t n = frame->length - skip;
	size_t i;

	if (n > len - 1)
		n = len - 1;
	for (i = 0; i < n; i++) {
		uint8_t c = frame->payload[skip + i];

		/* It goes to a terminal and came from elsewhere. */
		text[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
	}
	text[n] = '\0';
}

/* How much data each kind may have. */
static const struct {
	uint16_t min;
	uint16_t max;
} frame_page_bytes[FRAME_PAGE_KINDS] = {
	[FRAME_PAGE_RAW]	= { FRAME_PAGE_SIZE, FRAME_PAGE_SIZE },
	[FRAME_PAGE_ZERO]	= { 0, 0 },
	[FRAME_PAGE_LZ4]	= { 1, FRAME_PAGE_SIZE - 1 },
	[FRAME_PAGE_DELTA]	= { 1, FRAME_PAGE_SIZE - 1 },
};

static const char *frame_check_pages(const struct frame *frame)
{
	struct frame_pages pages = frame_get_pages(frame);
	uint32_t bytes = 0;
	uint32_t i;

	if (pages.nr == 0 || pages.nr > FRAME_PAGES_MAX ||
	    pages.bytes > pages.nr * FRAME_PAGE_SIZE)
		return "a PAGES frame with an impossible count";
	if (frame->length != sizeof(pages) + (size_t)pages.nr * sizeof(struct frame_page) +
			     pages.bytes)
		return "a PAGES frame whose length does not fit its count";
	for (i = 0; i < pages.nr; i++) {
		struct frame_page page = frame_get_page(frame, i);

		if (page.kind >= FRAME_PAGE_KINDS)
			return "a page of an unknown kind";
		if (page.bytes < frame_page_bytes[page.kind].min ||
		    page.bytes > frame_page_bytes[page.kind].max)
			return "a page with an impossible length";
		bytes += page.bytes;
	}
	if (bytes != pages.bytes)
		return "a PAGES frame whose data does not fit its pages";
	return NULL;
}

static const char *frame_check(const struct frame *frame)
{
	switch (frame->type) {
	case FRAME_EPOCH_BEGIN: {
		struct frame_begin begin = frame_get_begin(frame);

		if ((begin.flags & ~(FRAME_BEGIN_LIVE | FRAME_BEGIN_STREAMS)) || begin.pad)
			return "an EPOCH_BEGIN frame with an unknown flag";
		return NULL;
	}
	case FRAME_PAGES:
		return frame_check_pages(frame);
	case FRAME_STATE: {
		struct frame_state state = frame_get_state(frame);
		uint32_t len = frame->length - (uint32_t)sizeof(state);

		if (state.kind >= FRAME_STATE_KINDS)
			return "a STATE frame of an unknown kind";
		if (state.bytes > FRAME_STATE_MAX ||
		    (state.kind == FRAME_STATE_RAW ? len != state.bytes : len >= state.bytes))
			return "a STATE frame with an impossible length";
		return NULL;
	}
	case FRAME_EPOCH_END: {
		struct frame_end end = frame_get_end(frame);

		if ((end.flags & ~(FRAME_END_STANDS | FRAME_END_TORN)) || end.pad)
			return "an EPOCH_END frame with an unknown flag";
		return NULL;
	}
	case FRAME_BYE: {
		struct frame_bye bye = frame_get_bye(frame);

		if (bye.reason == 0 || bye.reason >= FRAME_BYE_REASONS || bye.pad)
			return "a BYE frame with an unknown reason";
		return NULL;
	}
	case FRAME_SUMS: {
		struct frame_sums sums = frame_get_sums(frame);

		if (sums.nr > FRAME_SUMS_MAX ||
		    frame->length != sizeof(sums) + (size_t)sums.nr * sizeof(struct frame_sum))
			return "a SUMS frame whose length does not fit its count";
		if (!sums.nr && (sums.block || sums.page))
			return "a SUMS frame with an impossible count";
		return NULL;
	}
	default:
		return NULL;
	}
}

ssize_t frame_parse(const void *buf, size_t len, uint64_t seq,
		    struct frame *out, const char **why)
{
	const struct frame_kind *kind;
	struct frame_header head;
	uint32_t magic = FRAME_MAGIC;
	struct iovec payload;

	*why = NULL;
	if (memcmp(buf, &magic, len < sizeof(magic) ? len : sizeof(magic))) {
		*why = "no vmrepl frame";
		return -EPROTO;
	}
	if (len < sizeof(head))
		return 0;
	memcpy(&head, buf, sizeof(head));
	if (head.version != FRAME_VERSION) {
		*why = "another protocol version";
		return -EPROTONOSUPPORT;
	}
	if (head.type == 0 || head.type >= FRAME_TYPES) {
		*why = "a frame of unknown type";
		return -EPROTO;
	}
	kind = &frame_kinds[head.type];
	if (head.length < kind->min || head.length > kind->max) {
		*why = "a frame with an impossible length";
		return -EPROTO;
	}
	if (head.pad) {
		*why = "a frame with an unknown field";
		return -EPROTO;
	}
	if (head.seq != seq) {
		*why = "a frame out of order";
		return -EPROTO;
	}
	if (len < sizeof(head) + head.length)
		return 0;

	payload.iov_base = (uint8_t *)(uintptr_t)buf + sizeof(head);
	payload.iov_len = head.length;
	if (frame_checksum(&head, &payload, 1) != head.checksum) {
		*why = "a frame with a wrong checksum";
		return -EPROTO;
	}
	*out = (struct frame) {
		.type = (enum frame_type)head.type,
		.length = head.length,
		.epoch = head.epoch,
		.payload = payload.iov_base,
		.checksum = head.checksum,
	};
	*why = frame_check(out);
	if (*why)
		return -EPROTO;
	return (ssize_t)(sizeof(head) + head.length);
}
