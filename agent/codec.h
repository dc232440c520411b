/* SPDX-License-Identifier: GPL-2.0 */
/*
 * codec: a page in fewer bytes: LZ4, or LZ4 of what differs (XOR) from the page that
 * the other side holds, which is mostly zeros. Pure functions.
 */
#ifndef VMREPL_CODEC_H
#define VMREPL_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"

/* What does not get this small goes as it is: an eighth less is not worth two passes. */
#define CODEC_MAX	(FRAME_PAGE_SIZE - FRAME_PAGE_SIZE / 8)

/*
 * Both: @out has room for @room bytes, CODEC_MAX at most. Return the bytes written, or
 * 0 where that does not suffice.
 */
size_t codec_lz4(const void *page, void *out, size_t room);
size_t codec_delta(const void *page, const void *base, void *out, size_t room);

/**
 * codec_decode() - a page as it was
 * @kind: FRAME_PAGE_LZ4 or FRAME_PAGE_DELTA
 * @data: @len bytes that may say anything
 * @page: out, FRAME_PAGE_SIZE; for FRAME_PAGE_DELTA it holds the base before. It may
 *        be anything afterwards where the data is no page
 *
 * Returns whether @data is a whole page.
 */
bool codec_decode(enum frame_page_kind kind, const void *data, size_t len, void *page);

#endif /* VMREPL_CODEC_H */
