// SPDX-License-Identifier: GPL-2.0
/*
 * pageframe: neighbours in memory are one piece for the link.
 */
#include <string.h>

#include "encoder.h"
#include "pageframe.h"

void pageframe_init(struct pageframe *frame)
{
	frame->tx.iov = frame->iov;
	memset(&frame->desc, 0, sizeof(frame->desc));
	memset(frame->iov, 0, sizeof(frame->iov));
}

void pageframe_begin(struct pageframe *frame, uint8_t *room)
{
	frame->desc.head.nr = 0;
	frame->desc.head.bytes = 0;
	frame->tx.n = 2;
	frame->room = room;
	frame->used = 0;
}

void pageframe_add(struct pageframe *frame, struct encoder *encoder, uint64_t epoch,
		   uint32_t block, uint64_t page, const uint8_t *data)
{
	struct frame_page *desc = &frame->desc.pages[frame->desc.head.nr++];
	struct iovec *last = &frame->iov[frame->tx.n - 1];
	size_t len = 0;

	desc->block = block;
	desc->page = page;
	desc->kind = data ? FRAME_PAGE_RAW : FRAME_PAGE_ZERO;
	if (frame->room) {
		uint8_t *out = frame->room + frame->used;

		desc->kind = encoder_page(encoder, epoch, block, page, data, out, &len);
		frame->used += len;
		if (len)
			data = out;
	} else {
		encoder_plain(encoder, epoch, block, page, data);
	}
	desc->bytes = data ? len ? len : FRAME_PAGE_SIZE : 0;
	if (!data)
		return;
	frame->desc.head.bytes += desc->bytes;
	if (frame->tx.n > 2 && (uint8_t *)last->iov_base + last->iov_len == data) {
		last->iov_len += desc->bytes;
		return;
	}
	last++;
	last->iov_base = (void *)(uintptr_t)data;
	last->iov_len = desc->bytes;
	frame->tx.n++;
}

void pageframe_end(struct pageframe *frame)
{
	frame->iov[1].iov_base = &frame->desc;
	frame->iov[1].iov_len = sizeof(frame->desc.head) +
				frame->desc.head.nr * sizeof(struct frame_page);
}
