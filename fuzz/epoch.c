// SPDX-License-Identifier: GPL-2.0
/*
 * epoch: a peer that knows the format and breaks the rules. The input is a list of
 * frames, a few bytes each; they are sealed and parsed as any. Whatever their order and
 * content, memory changes only when a checkpoint is whole and applied, or in a live
 * round (I2); VMREPL_DEBUG_BREAK=apply-early breaks that, and is found at once.
 */
#include "codec.h"
#include "epoch.h"
#include "fuzz.h"
#include "../selftests/feed.h"

#include <xxhash.h>

#define BLOCKS	2
#define PAGES	5
#define MAX_BYTES	(24 * FRAME_PAGE_SIZE)

static const uint64_t shape_pages[BLOCKS] = { PAGES, PAGES - 2 };
static const struct epoch_shape shape = {
	.nr_blocks = BLOCKS,
	.pages = shape_pages,
	.max_bytes = MAX_BYTES,
};
static bool may_apply;
static uint8_t payload[FRAME_PAYLOAD_MAX];
static uint8_t bytes[FRAME_MAX];

static int apply(void *arg, const struct epoch_page *pages, unsigned int nr, struct why *why)
{
	uint64_t sum = 0;
	unsigned int i;

	(void)arg;
	(void)why;
	MUST(may_apply);
	MUST(nr >= 1 && nr <= EPOCH_BATCH);
	for (i = 0; i < nr; i++) {
		MUST(pages[i].block < BLOCKS && pages[i].page < shape_pages[pages[i].block]);
		/* All of it is there to be read. */
		if (pages[i].data)
			sum += XXH3_64bits(pages[i].data, FRAME_PAGE_SIZE);
	}
	__asm__ volatile("" : : "r"(sum));
	return 0;
}

static int vm_read(void *arg, uint32_t block, uint64_t page, void *data, struct why *why)
{
	(void)arg;
	(void)why;
	MUST(may_apply);
	MUST(block < BLOCKS && page < shape_pages[block]);
	memset(data, 0x5a, FRAME_PAGE_SIZE);
	return 0;
}

/* The input, byte by byte; zeros at its end. */
struct input {
	const uint8_t *data;
	size_t size;
};

static uint8_t next(struct input *in)
{
	if (!in->size)
		return 0;
	in->size--;
	return *in->data++;
}

/* Returns the payload's length. */
static size_t make_pages(struct input *in)
{
	struct frame_pages head = { .nr = 1 + next(in) % 8 };
	uint8_t *data = payload + sizeof(head) + head.nr * sizeof(struct frame_page);
	uint32_t i;

	for (i = 0; i < head.nr; i++) {
		static uint8_t same[FRAME_PAGE_SIZE];
		uint8_t byte = next(in);
		struct frame_page page = {
			.block = byte & 3,
			.page = byte >> 2 & 7,
			.kind = byte >> 5 & 3,
		};
		uint8_t *to = data + head.bytes;

		if (byte == 0xff)
			page.page = UINT64_MAX;
		memset(same, byte, sizeof(same));
		switch (page.kind) {
		case FRAME_PAGE_RAW:
			page.bytes = FRAME_PAGE_SIZE;
			memcpy(to, same, sizeof(same));
			break;
		case FRAME_PAGE_ZERO:
			break;
		default:
			page.bytes = (uint16_t)codec_lz4(same, to, CODEC_MAX);
			/* Some are no pages any more. */
			if (byte & 0x80)
				to[next(in) % page.bytes] ^= next(in);
		}
		head.bytes += page.bytes;
		memcpy(payload + sizeof(head) + i * sizeof(page), &page, sizeof(page));
	}
	memcpy(payload, &head, sizeof(head));
	return (size_t)(data - payload) + head.bytes;
}

static uint8_t base[600];
static const struct epoch_state base_state = { .data = base, .len = sizeof(base) };

/* What the epoch's state is, as far as it was sent as it should be. */
static uint8_t expected[1 << 16];
static size_t nr_expected;
static bool damaged;

/* Returns the payload's length. */
static size_t make_state(struct input *in, uint8_t op)
{
	static uint8_t piece[256], differs[256];
	struct frame_state head = { .kind = next(in) % FRAME_STATE_KINDS, .bytes = 1u + next(in) };
	uint8_t *to = payload + sizeof(head);
	size_t n = 0;

	memset(piece, op, head.bytes);
	/* Where nothing is to be compared with it is refused: any base will do. */
	if (head.kind != FRAME_STATE_RAW)
		n = codec_state(piece, head.kind == FRAME_STATE_LZ4 ? NULL :
				nr_expected + head.bytes <= sizeof(base) ? base + nr_expected : base,
				head.bytes, differs, to);
	if (n && op & 0x20) {
		to[next(in) % n] ^= next(in);
		damaged = true;
	}
	if (!n) {
		head.kind = FRAME_STATE_RAW;
		n = head.bytes;
		memcpy(to, piece, n);
	}
	memcpy(payload, &head, sizeof(head));
	if (nr_expected + head.bytes > sizeof(expected))
		damaged = true;
	else
		memcpy(expected + nr_expected, piece, head.bytes);
	nr_expected += head.bytes;
	return sizeof(head) + n;
}

/* A whole epoch's state is what was sent. */
static void check_state(struct epoch *epoch)
{
	static struct epoch_state state;

	if (!nr_expected)
		return;
	epoch_swap_state(epoch, &state);
	if (!damaged)
		MUST(state.len == nr_expected && !memcmp(state.data, expected, nr_expected));
}

static struct epoch *epoch;
static struct inbox in_box;
/* What was sent of the epoch, and what its end says. */
static struct frame_digest digest;
static struct frame_end said, end;
static uint64_t came;		/* pages of it */
static bool ended;

/* A payload's pages are a part of the epoch. */
static void say_pages(const struct frame *frame)
{
	struct frame_pages pages = frame_get_pages(frame);

	said.pages += pages.nr;
	for (uint32_t i = 0; i < pages.nr; i++)
		said.zero_pages += frame_get_page(frame, i).kind == FRAME_PAGE_ZERO;
}

static void forget(void)
{
	epoch_reset(epoch);
	ended = false;
}

/* A whole epoch: nothing but the truth comes here. */
static void whole(unsigned int max)
{
	struct why why;

	MUST(epoch_pages(epoch) == said.pages);
	check_state(epoch);
	may_apply = !epoch_torn(epoch);
	if (may_apply)
		while (epoch_apply(epoch, max, &why) > 0)
			;
	may_apply = false;
	forget();
}

/* The frame of @payload; @counted: it is in @said and @digest already. */
static void deliver(enum frame_type type, size_t len, uint8_t op, bool counted)
{
	struct iovec iov = { payload, len };
	struct frame_header head;
	struct frame frame;
	const char *fault;
	struct why why;
	int err;

	frame_seal(&head, type, 1 + (op >> 7), in_box.seq, &iov, 1);
	memcpy(bytes, &head, sizeof(head));
	memcpy(bytes + sizeof(head), payload, len);
	if (feed_frame(&in_box, bytes, sizeof(head) + len, &frame, &fault) <= 0) {
		inbox_drop(&in_box);
		return;
	}
	may_apply = epoch_live(epoch);
	err = epoch_add(epoch, &frame, &why);
	may_apply = false;
	if (type == FRAME_EPOCH_BEGIN) {
		digest = (struct frame_digest) {
			.streams = frame_get_begin(&frame).flags & FRAME_BEGIN_STREAMS,
		};
		memset(&said, 0, sizeof(said));
		came = 0;
		nr_expected = 0;
		damaged = false;
	}
	if (type == FRAME_PAGES)
		came += frame_get_pages(&frame).nr;
	if (!counted) {
		frame_digest_add(&digest, type, frame.checksum);
		if (type == FRAME_PAGES)
			say_pages(&frame);
		else if (type == FRAME_STATE)
			said.state_bytes += frame_get_state(&frame).bytes;
	}
	inbox_pass(&in_box, sizeof(head) + len);
	if (err < 0) {
		MUST(why.text[0]);
		forget();
		return;
	}
	if (type == FRAME_EPOCH_END) {
		ended = true;
		memcpy(&end, payload, sizeof(end));
	}
	MUST(err == (ended && (!digest.streams || came >= end.pages)));
	if (err)
		whole(1u + op);
}

/* The end of the epoch; before it, or behind it, the pages that were put off. */
static void deliver_end(struct input *in, uint8_t op, uint8_t *late, size_t *late_len)
{
	struct frame_end now;

	if (*late_len) {
		struct iovec iov = { late, *late_len };
		struct frame frame = { .type = FRAME_PAGES, .payload = late };
		struct frame_header head;

		frame_digest_add(&digest, FRAME_PAGES,
				 frame_seal(&head, FRAME_PAGES, 1 + (op >> 7), in_box.seq + 1,
					    &iov, 1));
		say_pages(&frame);
	}
	now = said;
	/* Most tell the truth: only those get far. */
	now.digest = frame_digest_value(&digest);
	if (op & 0x20) {
		uint8_t lie = next(in);

		((uint8_t *)&now)[lie % sizeof(now)] ^= lie;
	}
	memcpy(payload, &now, sizeof(now));
	deliver(FRAME_EPOCH_END, sizeof(now), op, true);
	if (!*late_len)
		return;
	memcpy(payload, late, *late_len);
	deliver(FRAME_PAGES, *late_len, op, true);
	*late_len = 0;
}

static void prepare(void)
{
	const char *text = getenv("VMREPL_DEBUG_BREAK");

	epoch = epoch_new(&shape, apply, vm_read, NULL, text && !strcmp(text, "apply-early"));
	MUST(epoch && !landing_reserve(16u << 20) && inbox_open(&in_box));
	for (size_t i = 0; i < sizeof(base); i++)
		base[i] = (uint8_t)(i * 7);
	epoch_compare_state(epoch, &base_state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	static uint8_t late[FRAME_PAYLOAD_MAX];
	size_t late_len = 0, len;

	if (!epoch)
		prepare();
	while (in.size) {
		uint8_t op = next(&in);
		struct frame_begin begin;

		switch (op % 5) {
		case 0:
			begin = (struct frame_begin) {
				.flags = (op & 0x40 ? FRAME_BEGIN_LIVE : 0) |
					 (op & 0x20 ? FRAME_BEGIN_STREAMS : 0),
			};
			memcpy(payload, &begin, sizeof(begin));
			deliver(FRAME_EPOCH_BEGIN, sizeof(begin), op, false);
			break;
		case 1:
			len = make_pages(&in);
			if (op & 0x40 && digest.streams && !late_len) {
				memcpy(late, payload, len);
				late_len = len;
			} else {
				deliver(FRAME_PAGES, len, op, false);
			}
			break;
		case 2:
			len = make_state(&in, op);
			deliver(FRAME_STATE, len, op, false);
			break;
		default:
			deliver_end(&in, op, late, &late_len);
		}
	}
	forget();
	return 0;
}
