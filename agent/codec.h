/* SPDX-License-Identifier: GPL-2.0 */
/*
 * codec: a page, or device state, in fewer bytes: LZ4, or LZ4 of what differs (XOR) from
 * what the other side holds, which is mostly zeros. Pure functions.
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

/*
 * A piece of device state: as one LZ4 block, of what differs from the @n bytes of @base
 * where that is not NULL. @differs and @out have room for @n bytes. Returns the bytes
 * written, fewer than @n, or 0 where that does not suffice.
 */
size_t codec_state(const void *piece, const void *base, size_t n, void *differs, void *out);
/* The @n bytes of the piece out of @len bytes that may say anything: whether they are one. */
bool codec_state_decode(const void *data, size_t len, const void *base, void *piece, size_t n);

#endif /* VMREPL_CODEC_H */
