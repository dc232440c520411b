// SPDX-License-Identifier: GPL-2.0
/*
 * frame_test: the parser of the wire takes what is right and nothing else.
 *
 *	frame_test WIRE.MD
 *
 * WIRE.MD: docs/wire.md, whose vectors must be what we send.
 * Needs no privileges and no module.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "frame.h"
#include "placed.h"
#include "tap.h"

static uint8_t buf[FRAME_MAX + 64];

/* One frame into @buf. Returns its length. */
static size_t put(enum frame_type type, uint64_t epoch, uint64_t seq, const void *payload,
		  size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)payload, len };
	struct frame_header head;

	frame_seal(&head, type, epoch, seq, &iov, 1);
	memcpy(buf, &head, sizeof(head));
	memcpy(buf + sizeof(head), payload, len);
	return sizeof(head) + len;
}

/* Changes the header in @buf and makes its checksum right again. */
#define REPAIR(len, change) do {						\
	struct frame_header h, sealed;						\
	struct iovec iov = { buf + sizeof(h), (len) - sizeof(h) };		\
										\
	memcpy(&h, buf, sizeof(h));						\
	frame_seal(&sealed, (enum frame_type)h.type, h.epoch, h.seq, &iov, 1);	\
	change;									\
	memcpy(buf, &h, sizeof(h));						\
} while (0)

static ssize_t parse(size_t len, uint64_t seq)
{
	struct frame frame;
	const char *why;

	return frame_parse(buf, len, seq, &frame, &why);
}

/* A PAGES payload: @nr pages, every third of them zeros. */
static size_t pages_payload(uint8_t *to, uint32_t nr)
{
	struct frame_pages head = { .nr = nr };
	uint8_t *data = to + sizeof(head) + nr * sizeof(struct frame_page);
	uint32_t i;

	for (i = 0; i < nr; i++) {
		struct frame_page page = { .block = 0, .page = i };

		if (i % 3 == 2) {
			page.kind = FRAME_PAGE_ZERO;
		} else {
			page.bytes = FRAME_PAGE_SIZE;
			memset(data + head.bytes, (int)i + 1, FRAME_PAGE_SIZE);
			head.bytes += FRAME_PAGE_SIZE;
		}
		memcpy(to + sizeof(head) + i * sizeof(page), &page, sizeof(page));
	}
	memcpy(to, &head, sizeof(head));
	return sizeof(head) + nr * sizeof(struct frame_page) + head.bytes;
}

static void test_good(void)
{
	static uint8_t payload[FRAME_PAYLOAD_MAX];
	struct frame frame;
	const char *why;
	size_t len, n;

	len = put(FRAME_HEARTBEAT, 0, 7, "", 0);
	tap_ok(parse(len, 7) == (ssize_t)len, "a heartbeat");

	n = pages_payload(payload, FRAME_PAGES_MAX);
	len = put(FRAME_PAGES, 3, 0, payload, n);
	tap_ok(frame_parse(buf, len, 0, &frame, &why) == (ssize_t)len, "the largest PAGES");
	tap_ok(frame.type == FRAME_PAGES && frame.epoch == 3 &&
	       frame_get_page(&frame, 1).page == 1 &&
	       !memcmp(frame_get_data(&frame) + FRAME_PAGE_SIZE,
		       payload + sizeof(struct frame_pages) +
		       FRAME_PAGES_MAX * sizeof(struct frame_page) + FRAME_PAGE_SIZE,
		       FRAME_PAGE_SIZE), "its descriptors and data");
	tap_ok(parse(len + 40, 0) == (ssize_t)len, "what follows it is left alone");
}

static void test_cut(void)
{
	static uint8_t payload[FRAME_PAYLOAD_MAX];
	size_t n = pages_payload(payload, 4), len, i;
	bool ok = true;

	len = put(FRAME_PAGES, 1, 0, payload, n);
	for (i = 0; i < len && ok; i++)
		ok = parse(i, 0) == 0;
	tap_ok(ok, "cut at every byte: more is wanted (%zu)", i);
}

static void test_flipped(void)
{
	static uint8_t payload[FRAME_PAYLOAD_MAX];
	size_t n = pages_payload(payload, 2), len, i;
	size_t taken = 0;

	len = put(FRAME_PAGES, 1, 0, payload, n);
	for (i = 0; i < len * 8; i++) {
		buf[i / 8] ^= (uint8_t)(1u << i % 8);
		/* Only a length that grew may ask for more. */
		if (parse(len, 0) > 0)
			taken++;
		buf[i / 8] ^= (uint8_t)(1u << i % 8);
	}
	tap_ok(!taken, "each of %zu bits flipped: never taken", len * 8);
}

/* Whether a STATE of @len bytes that says @kind and @bytes is taken. */
static bool state_taken(uint32_t kind, uint32_t bytes, size_t len)
{
	static uint8_t payload[sizeof(struct frame_state) + FRAME_STATE_MAX + 1];
	struct frame_state head = { .kind = kind, .bytes = bytes };
	size_t n;

	memcpy(payload, &head, sizeof(head));
	n = put(FRAME_STATE, 1, 0, payload, sizeof(head) + len);
	return parse(n, 0) == (ssize_t)n;
}

static void test_state(void)
{
	tap_ok(state_taken(FRAME_STATE_RAW, 10, 10) &&
	       state_taken(FRAME_STATE_RAW, FRAME_STATE_MAX, FRAME_STATE_MAX) &&
	       state_taken(FRAME_STATE_LZ4, FRAME_STATE_MAX, 1) &&
	       state_taken(FRAME_STATE_DELTA, 10, 9), "pieces of device state");
	tap_ok(!state_taken(FRAME_STATE_RAW, 10, 9) && !state_taken(FRAME_STATE_RAW, 10, 11) &&
	       !state_taken(FRAME_STATE_LZ4, 10, 10) && !state_taken(FRAME_STATE_DELTA, 10, 11) &&
	       !state_taken(FRAME_STATE_LZ4, FRAME_STATE_MAX + 1, 10) &&
	       !state_taken(FRAME_STATE_RAW, 0, 0) && !state_taken(FRAME_STATE_KINDS, 10, 5),
	       "and those that cannot be");
}

static void test_header(void)
{
	static const uint8_t sentence[] = "no";
	uint32_t pages_max = FRAME_PAYLOAD_MAX;
	size_t len;

	len = put(FRAME_REFUSE, 0, 0, sentence, 2);
	REPAIR(len, h.version = FRAME_VERSION + 1);
	tap_ok(parse(len, 0) == -EPROTONOSUPPORT, "another version");
	tap_ok(parse(sizeof(struct frame_header), 0) == -EPROTONOSUPPORT,
	       "another version, seen in the header alone");

	len = put(FRAME_REFUSE, 0, 0, sentence, 2);
	tap_ok(parse(len, 1) == -EPROTO, "a number that was left out");
	len = put(FRAME_REFUSE, 0, 1, sentence, 2);
	tap_ok(parse(len, 0) == -EPROTO, "a number that came twice");

	len = put(FRAME_REFUSE, 0, 0, sentence, 2);
	REPAIR(len, h.type = FRAME_TYPES);
	tap_ok(parse(len, 0) == -EPROTO, "an unknown type");
	REPAIR(len, h.type = 0);
	tap_ok(parse(len, 0) == -EPROTO, "type 0");

	len = put(FRAME_REFUSE, 0, 0, sentence, 2);
	REPAIR(len, h.length = UINT32_MAX);
	tap_ok(parse(sizeof(struct frame_header), 0) == -EPROTO,
	       "a length of 4 GiB is refused before it is waited for");
	len = put(FRAME_PAGES, 0, 0, sentence, 2);
	REPAIR(len, h.length = pages_max + 1);
	tap_ok(parse(sizeof(struct frame_header), 0) == -EPROTO, "PAGES one byte too long");
	len = put(FRAME_ACK, 0, 0, sentence, 1);
	tap_ok(parse(len, 0) == -EPROTO, "ACK with a payload");
	len = put(FRAME_EPOCH_END, 1, 0, sentence, 2);
	tap_ok(parse(len, 0) == -EPROTO, "EPOCH_END that is too short");
	len = put(FRAME_EPOCH_END, 1, 0, &(struct frame_end){ .flags = FRAME_END_STANDS },
		  sizeof(struct frame_end));
	tap_ok(parse(len, 0) > 0, "EPOCH_END of a guest that stands");
	len = put(FRAME_EPOCH_END, 1, 0, &(struct frame_end){ .flags = FRAME_END_TORN << 1 },
		  sizeof(struct frame_end));
	tap_ok(parse(len, 0) == -EPROTO, "EPOCH_END with an unknown flag");

	memset(buf, 0, sizeof(buf));
	tap_ok(parse(1, 0) == -EPROTO, "one byte that begins no frame");
	memcpy(buf, "GET / HTTP/1.1\r\n\r\n", 18);
	tap_ok(parse(18, 0) == -EPROTO, "another protocol");
}

static void test_pages(void)
{
	static uint8_t payload[FRAME_PAYLOAD_MAX + 64];
	struct frame_pages head;
	struct frame_page page;
	size_t n, len;

	n = pages_payload(payload, 3);
	memcpy(&head, payload, sizeof(head));
	head.nr = 2;
	memcpy(payload, &head, sizeof(head));
	len = put(FRAME_PAGES, 1, 0, payload, n);
	tap_ok(parse(len, 0) == -EPROTO, "PAGES with a smaller count");
	head.nr = UINT32_MAX;
	memcpy(payload, &head, sizeof(head));
	len = put(FRAME_PAGES, 1, 0, payload, n);
	tap_ok(parse(len, 0) == -EPROTO, "PAGES with 4 billion descriptors");
	head.nr = 0;
	head.bytes = 0;
	memcpy(payload, &head, sizeof(head));
	len = put(FRAME_PAGES, 1, 0, payload, n);
	tap_ok(parse(len, 0) == -EPROTO, "PAGES without a page");

	n = pages_payload(payload, 3);
	memcpy(&page, payload + sizeof(head), sizeof(page));
	page.kind = FRAME_PAGE_ZERO;
	page.bytes = 0;
	memcpy(payload + sizeof(head), &page, sizeof(page));
	len = put(FRAME_PAGES, 1, 0, payload, n);
	tap_ok(parse(len, 0) == -EPROTO, "more data than pages that have some");
	page.bytes = FRAME_PAGE_SIZE;
	memcpy(payload + sizeof(head), &page, sizeof(page));
	len = put(FRAME_PAGES, 1, 0, payload, n);
	tap_ok(parse(len, 0) == -EPROTO, "zeros with data");
	page.kind = FRAME_PAGE_LZ4;
	memcpy(payload + sizeof(head), &page, sizeof(page));
	len = put(FRAME_PAGES, 1, 0, payload, n);
	tap_ok(parse(len, 0) == -EPROTO, "a page that is compressed to no less than it was");
	page.kind = FRAME_PAGE_KINDS;
	memcpy(payload + sizeof(head), &page, sizeof(page));
	len = put(FRAME_PAGES, 1, 0, payload, n);
	tap_ok(parse(len, 0) == -EPROTO, "an unknown kind of page");
}

static void test_random(void)
{
	uint64_t x = 88172645463325252u;
	unsigned int round, taken = 0;
	size_t i;

	for (round = 0; round < 200000; round++) {
		struct frame_header *h = (struct frame_header *)buf;
		size_t len;

		for (i = 0; i < 256; i += 8) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			memcpy(buf + i, &x, 8);
		}
		/* Most of them get past the first checks. */
		if (round % 4) {
			h->magic = FRAME_MAGIC;
			h->version = FRAME_VERSION;
			h->type %= FRAME_TYPES + 1;
			h->length %= 256;
			h->pad = 0;
			h->seq = 0;
		}
		len = x % 256;
		if (parse(len, 0) > 0)
			taken++;
	}
	tap_ok(!taken, "200000 random buffers: none taken");
}

static void test_sums(void)
{
	static struct { struct frame_sums head; struct frame_sum sums[FRAME_SUMS_MAX + 1]; } payload;
	struct frame frame;
	const char *why;
	size_t len;

	payload.head = (struct frame_sums){ .block = 1, .nr = FRAME_SUMS_MAX, .page = 5 };
	payload.sums[255].high = 9;
	len = put(FRAME_SUMS, 0, 0, &payload, sizeof(payload) - sizeof(payload.sums[0]));
	tap_ok(frame_parse(buf, len, 0, &frame, &why) == (ssize_t)len &&
	       frame_get_sums(&frame).page == 5 && frame_get_sum(&frame, 255).high == 9,
	       "the largest SUMS");
	len = put(FRAME_SUMS, 0, 0, &payload, sizeof(payload));
	tap_ok(parse(len, 0) == -EPROTO, "SUMS that is too long");
	payload.head.nr = UINT32_MAX;
	len = put(FRAME_SUMS, 0, 0, &payload, sizeof(payload.head));
	tap_ok(parse(len, 0) == -EPROTO, "SUMS with 4 billion sums");
	payload.head.nr = 2;
	len = put(FRAME_SUMS, 0, 0, &payload, sizeof(payload.head) + sizeof(payload.sums[0]));
	tap_ok(parse(len, 0) == -EPROTO, "SUMS with fewer than it says");
	payload.head.nr = 0;
	len = put(FRAME_SUMS, 0, 0, &payload, sizeof(payload.head));
	tap_ok(parse(len, 0) == -EPROTO, "an end of SUMS that names a page");
}

/* A line of @doc is "| @name | `the frame in hexadecimal digits` |". */
static void test_vector(const char *doc, const char *name, size_t len)
{
	static char line[4 * sizeof(buf)];
	char *p = line + sprintf(line, "| %s | `", name);

	for (size_t i = 0; i < len; i++)
		p += sprintf(p, "%02x", buf[i]);
	sprintf(p, "` |");
	if (!tap_ok(strstr(doc, line), "the documented %s is what is sent", name))
		tap_note("%s", line);
}

/* A PAGES frame into @buf as it travels where its last @bytes go by RDMA. */
static size_t put_placed(uint64_t epoch, uint64_t seq, const void *payload, size_t len,
			 size_t bytes, uint64_t number)
{
	const uint8_t *p = payload;
	struct frame_header head;
	struct placed_out out;
	struct iovec iov[] = {
		{ &head, sizeof(head) },
		{ (void *)(uintptr_t)p, len - bytes },
		{ (void *)(uintptr_t)(p + len - bytes), bytes },
	};
	size_t at = 0;

	frame_seal(&head, FRAME_PAGES, epoch, seq, iov + 1, 2);
	placed_split(&out, iov, 3, number);
	for (int i = 0; i < PLACED_PARTS; i++) {
		memcpy(buf + at, out.iov[i].iov_base, out.iov[i].iov_len);
		at += out.iov[i].iov_len;
	}
	return at;
}

static void test_vectors(const char *path)
{
	static const struct frame_begin begin = { .flags = FRAME_BEGIN_LIVE };
	static const struct frame_begin streams = { .flags = FRAME_BEGIN_STREAMS };
	static const struct frame_join join = {
		{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
	};
	static const struct frame_end end = {
		.pages = 2, .zero_pages = 1, .state_bytes = 3, .digest = 0x0123456789abcdef,
		.flags = FRAME_END_STANDS,
	};
	static const struct {
		struct frame_pages head;
		struct frame_page pages[2];
		uint8_t data[5];
	} __attribute__((packed)) pages = {
		{ .nr = 2, .bytes = 5 },
		{
			{ .block = 1, .kind = FRAME_PAGE_ZERO, .page = 7 },
			{ .block = 0, .kind = FRAME_PAGE_DELTA, .bytes = 5, .page = 8 },
		},
		{ 1, 2, 3, 4, 5 },
	};
	static const struct { struct frame_sums head; struct frame_sum sums[2]; } sums = {
		{ .block = 1, .nr = 2, .page = 9 },
		{ { 0, 0 }, { .low = 0x1122334455667788, .high = 0x99aabbccddeeff00 } },
	};
	static const struct { struct frame_state head; char text[3]; } __attribute__((packed)) state = {
		{ .kind = FRAME_STATE_RAW, .bytes = 3 }, { 'a', 'b', 'c' },
	};
	static const struct { struct frame_bye bye; char text[4]; } bye = {
		{ .reason = FRAME_BYE_STOP }, { 'd', 'o', 'n', 'e' },
	};
	static char doc[1 << 16];
	FILE *f = fopen(path, "re");

	if (!f || !fread(doc, 1, sizeof(doc) - 1, f))
		tap_die("%s: %s", path, strerror(errno));
	fclose(f);
	test_vector(doc, "HEARTBEAT, seq 7", put(FRAME_HEARTBEAT, 0, 7, "", 0));
	test_vector(doc, "HELLO, `{}`", put(FRAME_HELLO, 0, 0, "{}", 2));
	test_vector(doc, "EPOCH_BEGIN, epoch 1, seq 1, live",
		    put(FRAME_EPOCH_BEGIN, 1, 1, &begin, sizeof(begin)));
	test_vector(doc, "PAGES, epoch 1, seq 2: block 1 page 7 zero, block 0 page 8 delta of 01 to 05",
		    put(FRAME_PAGES, 1, 2, &pages, sizeof(pages)));
	test_vector(doc, "the same, its data placed as number 6",
		    put_placed(1, 2, &pages, sizeof(pages), sizeof(pages.data), 6));
	test_vector(doc, "STATE, epoch 1, seq 3, `abc`", put(FRAME_STATE, 1, 3, &state, sizeof(state)));
	test_vector(doc, "EPOCH_END, epoch 1, seq 4: 2 pages, 1 zero, 3 bytes of state, digest 0x0123456789abcdef, stands",
		    put(FRAME_EPOCH_END, 1, 4, &end, sizeof(end)));
	test_vector(doc, "ACK, epoch 1, seq 1", put(FRAME_ACK, 1, 1, "", 0));
	test_vector(doc, "SUMS, seq 1: block 1 page 9 not told, page 10 0x99aabbccddeeff001122334455667788",
		    put(FRAME_SUMS, 0, 1, &sums, sizeof(sums)));
	test_vector(doc, "BYE, seq 5, reason 1, `done`",
		    put(FRAME_BYE, 0, 5, &bye, sizeof(bye)));
	test_vector(doc, "JOIN, seq 0, token 00 to 0f", put(FRAME_JOIN, 0, 0, &join, sizeof(join)));
	test_vector(doc, "EPOCH_BEGIN, epoch 2, seq 6, streams",
		    put(FRAME_EPOCH_BEGIN, 2, 6, &streams, sizeof(streams)));
}

int main(int argc, char **argv)
{
	if (argc != 2)
		tap_die("usage: frame_test WIRE.MD");
	test_good();
	test_cut();
	test_flipped();
	test_header();
	test_pages();
	test_sums();
	test_state();
	test_vectors(argv[1]);
	test_random();
	return tap_done();
}
