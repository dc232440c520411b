// SPDX-License-Identifier: GPL-2.0
/*
 * placed_test: frames whose data is elsewhere are put together as they were, however they
 * are cut on the way; what is forged goes through as it is, and nothing is read out of
 * bounds.
 *
 *	placed_test
 *
 * Needs no privileges and no module.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "placed.h"
#include "tap.h"

#define SLOTS	3u
#define PAGES	5u
#define DATA	(PAGES * FRAME_PAGE_SIZE)
#define FRAMES	7u
#define ROOM	(1u << 20)

static uint8_t landing[SLOTS][PLACED_SLOT];
static uint8_t sealed[ROOM], sent[ROOM], got[8 * ROOM];
static size_t sealed_len, sent_len;

static void put(uint8_t *to, size_t *len, const void *from, size_t n)
{
	memcpy(to + *len, from, n);
	*len += n;
}

static void put_iov(uint8_t *to, size_t *len, const struct iovec *iov, int n)
{
	int i;

	for (i = 0; i < n; i++)
		put(to, len, iov[i].iov_base, iov[i].iov_len);
}

/* The same conversation as it was sealed and as it travels; every other frame has pages. */
static void converse(void)
{
	struct {
		struct frame_pages head;
		struct frame_page pages[PAGES];
	} desc = { .head = { PAGES, DATA } };
	uint8_t data[DATA];
	struct placed_out out;
	struct frame_header head;
	struct frame_begin begin = { 0 };
	struct iovec iov[4];
	uint64_t number = 0;
	unsigned int i, j;

	for (i = 0; i < FRAMES; i++) {
		iov[0] = (struct iovec) { &head, sizeof(head) };
		if (i % 2 == 0) {
			iov[1] = (struct iovec) { &begin, sizeof(begin) };
			frame_seal(&head, i ? FRAME_EPOCH_BEGIN : FRAME_ACK, 1, i, iov + 1,
				   i ? 1 : 0);
			put_iov(sealed, &sealed_len, iov, i ? 2 : 1);
			put_iov(sent, &sent_len, iov, i ? 2 : 1);
			continue;
		}
		for (j = 0; j < DATA; j++)
			data[j] = (uint8_t)(rand() >> 7);
		for (j = 0; j < PAGES; j++)
			desc.pages[j] = (struct frame_page) { .bytes = FRAME_PAGE_SIZE, .page = j };
		iov[1] = (struct iovec) { &desc, sizeof(desc) };
		iov[2] = (struct iovec) { data, 2 * FRAME_PAGE_SIZE };
		iov[3] = (struct iovec) { data + 2 * FRAME_PAGE_SIZE, 3 * FRAME_PAGE_SIZE };
		frame_seal(&head, FRAME_PAGES, 1, i, iov + 1, 3);
		if (!placed_can(iov, 4))
			tap_die("a frame with pages cannot be placed");
		put_iov(sealed, &sealed_len, iov, 4);
		placed_split(&out, iov, 4, number);
		put_iov(sent, &sent_len, out.iov, PLACED_PARTS);
		memcpy(landing[number % SLOTS], data, DATA);
		number++;
	}
}

/* All of @len bytes, @cut at a time, into @room at a time. */
static size_t receive(const uint8_t *bytes, size_t len, size_t cut, size_t room, uint64_t *numbers)
{
	struct placed_in in = { 0 };
	uint64_t number;
	size_t out = 0;

	*numbers = 0;
	while (len) {
		/* One too far is seen by the sanitizer. */
		size_t n = cut < len ? cut : len, left = n;
		uint8_t *piece = malloc(n);
		const uint8_t *at = piece;
		bool more = true;

		memcpy(piece, bytes, n);
		while (more) {
			size_t had = out, may = sizeof(got) - out < room ? sizeof(got) - out : room;

			if (placed_wants(&in, &number)) {
				out += placed_data(&in, landing[number % SLOTS], got + out, may);
				*numbers += !placed_wants(&in, &number);
			} else {
				out += placed_feed(&in, &at, &left, got + out, may);
			}
			more = may && (left || out > had || placed_wants(&in, &number));
		}
		free(piece);
		bytes += n;
		len -= n;
	}
	return out;
}

static void test_together(void)
{
	static const size_t sizes[] = { 1, 7, 39, 40, 41, 4096, ROOM };
	unsigned int i, j, right = 0;
	uint64_t numbers;
	size_t len;

	tap_ok(sent_len < sealed_len - 3 * DATA + 3 * sizeof(struct placed) + 1,
	       "the data does not travel: %zu bytes of %zu", sent_len, sealed_len);
	for (i = 0; i < 7; i++) {
		for (j = 0; j < 7; j++) {
			memset(got, 0, sizeof(got));
			len = receive(sent, sent_len, sizes[i], sizes[j], &numbers);
			right += len == sealed_len && numbers == 3 && !memcmp(got, sealed, len);
		}
	}
	tap_ok(right == 49, "put together as it was sealed, in pieces of any size: %u of 49", right);
	len = receive(sealed, sealed_len, 1000, 300, &numbers);
	tap_ok(len == sealed_len && !numbers && !memcmp(got, sealed, len),
	       "what travels whole goes through");
}

/* A frame's header with a field changed: what comes out, and is what is elsewhere wanted? */
static void forged(const char *what, uint16_t type, uint32_t length, uint32_t elsewhere)
{
	struct frame_header head = {
		.magic = FRAME_MAGIC, .version = FRAME_VERSION,
		.type = type, .length = length, .pad = elsewhere,
	};
	const uint8_t *at = (uint8_t *)&head;
	size_t len = sizeof(head), out;
	struct placed_in in = { 0 };
	struct frame frame;
	const char *why;
	uint64_t number;

	out = placed_feed(&in, &at, &len, got, sizeof(got));
	tap_ok(out == sizeof(head) && !memcmp(got, &head, sizeof(head)) && !in.bytes &&
	       !placed_wants(&in, &number) && frame_parse(got, out, 0, &frame, &why) < 0,
	       "%s: goes through as it is, and is refused: %s", what, why);
}

static void test_damaged(void)
{
	unsigned int i, j;
	uint8_t *copy = malloc(sent_len);
	uint64_t numbers;

	for (i = 0; i < 20000; i++) {
		memcpy(copy, sent, sent_len);
		for (j = 0; j < 3; j++)
			copy[(size_t)rand() % sent_len] ^= (uint8_t)rand();
		if (receive(copy, sent_len, 1 + (size_t)rand() % 5000, 1 + (size_t)rand() % 5000,
			    &numbers) > sizeof(got))
			break;
	}
	free(copy);
	tap_ok(i == 20000, "damaged %u times: survived", i);
}

int main(void)
{
	srand(1);
	converse();
	test_together();
	forged("data of another frame", FRAME_STATE, DATA + 1000, DATA);
	forged("more than a slot", FRAME_PAGES, FRAME_PAYLOAD_MAX, PLACED_SLOT + 1);
	forged("more than the frame", FRAME_PAGES, DATA, DATA + 1);
	forged("more than any frame", FRAME_PAGES, UINT32_MAX, DATA);
	test_damaged();
	return tap_done();
}
