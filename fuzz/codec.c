// SPDX-License-Identifier: GPL-2.0
/* codec: what a peer says is a page, and pages of any content there and back. */
#include "codec.h"
#include "fuzz.h"

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
	return 0;
}
