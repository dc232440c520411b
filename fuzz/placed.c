// SPDX-License-Identifier: GPL-2.0
/*
 * placed: the stream that frames come in whose data is elsewhere; its first two bytes say in
 * what pieces.
 */
#include "frame.h"
#include "fuzz.h"
#include "placed.h"

/* A whole slot can go by in all but the smallest of pieces; more would only take time. */
#define STEPS	2100

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t slot[PLACED_SLOT], out[1 << 16];
	struct placed_in in = { 0 };
	size_t cut, room, steps = 0;
	uint64_t number;

	if (size < 2)
		return 0;
	cut = data[0] + 1u;
	room = data[1] * 257u + 1;
	data += 2;
	size -= 2;
	while (size && steps < STEPS) {
		size_t left = cut < size ? cut : size, n = left;
		uint8_t *piece = (uint8_t *)fuzz_text(data, left);
		const uint8_t *at = piece;
		size_t got;

		do {
			size_t before = left;
			bool wants = placed_wants(&in, &number);

			if (wants)
				got = placed_data(&in, slot, out, room);
			else
				got = placed_feed(&in, &at, &left, out, room);
			MUST(got <= room && left <= n && at + left == piece + n);
			/* It goes on. */
			MUST(got || (!wants && (left < before || !left)));
			steps++;
		} while (steps < STEPS && (got || left || placed_wants(&in, &number)));
		free(piece);
		data += n;
		size -= n;
	}
	return 0;
}
