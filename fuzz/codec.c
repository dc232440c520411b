// SPDX-License-Identifier: GPL-2.0
/* codec: what a peer says is a page, and pages of any content there and back. */
#include "codec.h"
#include "fuzz.h"

/* Device state of @n bytes, there and back. */
static void state(const uint8_t *piece, const uint8_t *base, size_t n)
{
	static uint8_t out[FRAME_PAGE_SIZE], differs[FRAME_PAGE_SIZE], back[FRAME_PAGE_SIZE];
	size_t len = codec_state(piece, NULL, n, differs, out);

	MUST(len < n);
	if (len)
		MUST(codec_state_decode(out, len, NULL, back, n) && !memcmp(back, piece, n));
	len = codec_state(piece, base, n, differs, out);
	MUST(len < n);
	if (len)
		MUST(codec_state_decode(out, len, base, back, n) && !memcmp(back, piece, n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t page[FRAME_PAGE_SIZE], base[FRAME_PAGE_SIZE], out[CODEC_MAX];
	static uint8_t back[FRAME_PAGE_SIZE];
	size_t n;

	if (!size)
		return 0;
	codec_decode(FRAME_PAGE_LZ4, data, size, back);
	codec_decode(FRAME_PAGE_DELTA, data, size, back);

	memset(page, data[0], sizeof(page));
	memcpy(page, data, size < sizeof(page) ? size : sizeof(page));
	memset(base, data[size - 1], sizeof(base));
	memcpy(base + sizeof(base) / 2, data, size < sizeof(base) / 2 ? size : sizeof(base) / 2);
	n = codec_lz4(page, out, sizeof(out));
	MUST(n <= sizeof(out));
	if (n)
		MUST(codec_decode(FRAME_PAGE_LZ4, out, n, back) && !memcmp(back, page, sizeof(page)));
	n = codec_delta(page, base, out, sizeof(out));
	MUST(n <= sizeof(out));
	memcpy(back, base, sizeof(back));
	if (n)
		MUST(codec_decode(FRAME_PAGE_DELTA, out, n, back) &&
		     !memcmp(back, page, sizeof(page)));
	state(page, base, 1 + data[0] * (size_t)data[size - 1] % sizeof(page));
	codec_state_decode(data, size, base, back, 1 + data[0]);
	codec_state_decode(data, size, NULL, back, sizeof(back));
	return 0;
}
