// SPDX-License-Identifier: GPL-2.0
/*
 * frame: bytes from a peer. What the parser passes can be read to its last byte, and
 * nothing else is passed. A checksum that is wrong is made right for a second try:
 * nobody finds one by chance.
 */
#include <errno.h>

#include "frame.h"
#include "fuzz.h"
#include "pagesums.h"

/* What it tells of may be anywhere; what is taken is in the table. */
static void use_sums(const struct frame *frame)
{
	static struct ramblock_table blocks;
	static struct pagesums *sums;
	uint32_t nr = frame_get_sums(frame).nr;
	char key[PAGESUMS_KEY_LEN + 1];

	if (!sums) {
		ramblock_add(&blocks, "ram", 512 * FRAME_PAGE_SIZE, true);
		ramblock_add(&blocks, "rom", FRAME_PAGE_SIZE, false);
		MUST(!pagesums_draw(key));
		sums = pagesums_new(&blocks, key);
		MUST(sums);
	}
	switch (pagesums_take(sums, frame)) {
	case 0:
		MUST(nr && pagesums_position(sums) <= pagesums_pages(sums));
		break;
	case 1:
		MUST(!nr);
		break;
	default:
		MUST(nr);
	}
}

/* Reads all of a frame as its users do; the sanitizers watch. */
static void use(const struct frame *frame)
{
	char text[FRAME_TEXT_MAX + 1];
	uint32_t i, data = 0;
	uint64_t sum = 0;

	switch (frame->type) {
	case FRAME_EPOCH_BEGIN:
		MUST(!(frame_get_begin(frame).flags & ~(FRAME_BEGIN_LIVE | FRAME_BEGIN_STREAMS)));
		break;
	case FRAME_STATE: {
		struct frame_state state = frame_get_state(frame);

		MUST(state.bytes >= 1 && state.bytes <= FRAME_STATE_MAX);
		for (i = sizeof(state); i < frame->length; i++)
			sum += frame->payload[i];
		break;
	}
	case FRAME_PAGES: {
		struct frame_pages pages = frame_get_pages(frame);
		const uint8_t *bytes = frame_get_data(frame);

		MUST(pages.nr >= 1 && pages.nr <= FRAME_PAGES_MAX);
		for (i = 0; i < pages.nr; i++)
			data += frame_get_page(frame, i).bytes;
		MUST(data == pages.bytes);
		for (i = 0; i < data; i++)
			sum += bytes[i];
		break;
	}
	case FRAME_SUMS: {
		struct frame_sums sums = frame_get_sums(frame);

		MUST(sums.nr <= FRAME_SUMS_MAX && (sums.nr || !sums.page));
		for (i = 0; i < sums.nr; i++)
			sum += frame_get_sum(frame, i).low;
		use_sums(frame);
		break;
	}
	case FRAME_EPOCH_END:
		sum += frame_get_end(frame).digest;
		break;
	case FRAME_REFUSE:
	case FRAME_BYE:
		frame_get_text(frame, text, sizeof(text));
		for (i = 0; text[i]; i++)
			MUST(text[i] >= 0x20 && text[i] < 0x7f);
		frame_get_text(frame, text, 2);
		MUST(strlen(text) < 2);
		break;
	default:
		for (i = 0; i < frame->length; i++)
			sum += frame->payload[i];
	}
	/* It is not for nothing. */
	__asm__ volatile("" : : "r"(sum));
	MUST(frame_name(frame->type));
}

static void repair(uint8_t *bytes, uint64_t seq)
{
	struct frame_header head, sealed;
	struct iovec iov;

	memcpy(&head, bytes, sizeof(head));
	iov.iov_base = bytes + sizeof(head);
	iov.iov_len = head.length;
	frame_seal(&sealed, head.type, head.epoch, seq, &iov, 1);
	memcpy(bytes, &sealed, sizeof(sealed));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = (uint8_t *)fuzz_text(data, size);
	size_t at = 0;
	uint64_t seq = 0;

	for (;;) {
		struct frame frame = { 0 };
		const char *why;
		ssize_t n = frame_parse(bytes + at, size - at, seq, &frame, &why);

		MUST((n < 0) == (why != NULL));
		if (n == -EPROTO && strstr(why, "checksum")) {
			repair(bytes + at, seq);
			n = frame_parse(bytes + at, size - at, seq, &frame, &why);
		}
		MUST(n <= (ssize_t)(size - at));
		if (n <= 0)
			break;
		MUST((size_t)n == sizeof(struct frame_header) + frame.length);
		use(&frame);
		at += (size_t)n;
		seq++;
	}
	MUST(!fuzz_seed() || at == size);
	free(bytes);
	return 0;
}
