// SPDX-License-Identifier: GPL-2.0
#include <lz4.h>
#include <string.h>

#include "codec.h"

size_t codec_lz4(const void *page, void *out, size_t room)
{
	int n = LZ4_compress_default(page, out, FRAME_PAGE_SIZE, (int)room);

	return n > 0 ? (size_t)n : 0;
}

/* 8 bytes at a time, which compilers make wider; nothing need be aligned. */
static void codec_xor(void *to, const void *a, const void *b, size_t n)
{
	size_t i;

	for (i = 0; i + sizeof(uint64_t) <= n; i += sizeof(uint64_t)) {
		uint64_t x, y;

		memcpy(&x, (const uint8_t *)a + i, sizeof(x));
		memcpy(&y, (const uint8_t *)b + i, sizeof(y));
		x ^= y;
		memcpy((uint8_t *)to + i, &x, sizeof(x));
	}
	for (; i < n; i++)
		((uint8_t *)to)[i] = ((const uint8_t *)a)[i] ^ ((const uint8_t *)b)[i];
}

size_t codec_delta(const void *page, const void *base, void *out, size_t room)
{
	uint8_t differs[FRAME_PAGE_SIZE];

	codec_xor(differs, page, base, FRAME_PAGE_SIZE);
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
		codec_xor(page, page, differs, FRAME_PAGE_SIZE);
	return true;
}

size_t codec_state(const void *piece, const void *base, size_t n, void *differs, void *out)
{
	int len;

	if (base)
		codec_xor(differs, piece, base, n);
	len = LZ4_compress_default(base ? differs : piece, out, (int)n, (int)n - 1);
	return len > 0 ? (size_t)len : 0;
}

bool codec_state_decode(const void *data, size_t len, const void *base, void *piece, size_t n)
{
	if (LZ4_decompress_safe(data, piece, (int)len, (int)n) != (int)n)
		return false;
	if (base)
		codec_xor(piece, piece, base, n);
	return true;
}
