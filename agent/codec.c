// SPDX-License-Identifier: GPL-2.0
#include <lz4.h>
#include <string.h>

#include "codec.h"

size_t codec_lz4(const void *page, void *out, size_t room)
{
	int n = LZ4_compress_default(page, out, FRAME_PAGE_SIZE, (int)room);

	return n > 0 ? (size_t)n : 0;
}

/* 8 bytes at a time, which compilers make wider; pages need not be aligned. */
static void codec_xor(void *to, const void *a, const void *b)
{
	size_t i;

	for (i = 0; i < FRAME_PAGE_SIZE; i += sizeof(uint64_t)) {
		uint64_t x, y;

		memcpy(&x, (const uint8_t *)a + i, sizeof(x));
		memcpy(&y, (const uint8_t *)b + i, sizeof(y));
		x ^= y;
		memcpy((uint8_t *)to + i, &x, sizeof(x));
	}
}

size_t codec_delta(const void *page, const void *base, void *out, size_t room)
{
	uint8_t differs[FRAME_PAGE_SIZE];

	codec_xor(differs, page, base);
	return codec_lz4(differs, out, room);
}

bool codec_decode(enum frame_page_kind kind, const void *data, size_t len, void *page)
{
	uint8_t differs[FRAME_PAGE_SIZE];
	bool delta = kind == FRAME_PAGE_DELTA;

	if (LZ4_decompress_safe(data, delta ? (char *)differs : page, (int)len,
				FRAME_PAGE_SIZE) != FRAME_PAGE_SIZE)
		return false;
	if (delta)
		codec_xor(page, page, differs);
	return true;
}
