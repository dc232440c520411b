/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pageframe: a PAGES frame, from its first page until it is handed to the link. Pages go
 * from where they are, or encoded from a room of the frame's own.
 */
#ifndef VMREPL_PAGEFRAME_H
#define VMREPL_PAGEFRAME_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "codec.h"
#include "frame.h"
#include "link.h"

struct encoder;

/* Bytes that the encoded pages of one frame can take. */
#define PAGEFRAME_ROOM	((size_t)FRAME_PAGES_MAX * CODEC_MAX)

/**
 * struct pageframe - one frame
 * @tx:   for the link; @done is the owner's
 * @room: PAGEFRAME_ROOM bytes for encoded pages; NULL: pages go as they are
 * @used: of it
 * @desc: head and descriptors
 * @iov:  the header's, @desc, the pages
 */
struct pageframe {
	struct link_tx tx;
	uint8_t *room;
	size_t used;
	struct {
		struct frame_pages head;
		struct frame_page pages[FRAME_PAGES_MAX];
	} desc;
	struct iovec iov[2 + FRAME_PAGES_MAX];
};

/* Once. Touches all of it, so that nothing does while the guest stands. */
void pageframe_init(struct pageframe *frame);

/* Empties it. */
void pageframe_begin(struct pageframe *frame, uint8_t *room);

/**
 * pageframe_add() - one more page; there is room for FRAME_PAGES_MAX
 * @data: must stay until the frame is back from the link; NULL: zeros
 */
void pageframe_add(struct pageframe *frame, struct encoder *encoder, uint64_t epoch,
		   uint32_t block, uint64_t page, const uint8_t *data);

/* Makes @tx ready for the link. */
void pageframe_end(struct pageframe *frame);

static inline uint32_t pageframe_pages(const struct pageframe *frame)
{
	return frame->desc.head.nr;
}

#endif /* VMREPL_PAGEFRAME_H */
