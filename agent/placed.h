/* SPDX-License-Identifier: GPL-2.0 */
/*
 * placed: a PAGES frame whose data does not travel in it. The sender puts the data
 * into a slot of the receiver's memory, and a struct placed where it would have been;
 * the receiver puts the frame together again before anybody looks at it.
 *
 * What was put together is the frame as it was sealed: its checksum is of the data,
 * too, and is compared after the data was copied out of memory that the sender can
 * write. No function here touches anything but its arguments.
 */
#ifndef VMREPL_PLACED_H
#define VMREPL_PLACED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "frame.h"

/* Bytes of a slot: the data of the largest frame. */
#define PLACED_SLOT	(FRAME_PAGES_MAX * FRAME_PAGE_SIZE)

/**
 * struct placed - what comes in place of the data
 * @number: of the data, 0, 1, 2... on each connection; it is in slot @number modulo
 *          their number, from its first byte on
 *
 * The frame's header says how many bytes are there, in the field that is 0 otherwise.
 */
struct placed {
	uint64_t number;
};

/* Whether a frame of @n parts, its header first, can be placed: those from 2 on are its data. */
bool placed_can(const struct iovec *iov, int n);

/**
 * struct placed_out - a frame that is sent so
 * @iov: what travels: PLACED_PARTS parts
 */
#define PLACED_PARTS	3
struct placed_out {
	struct iovec iov[PLACED_PARTS];
	struct frame_header head;
	struct placed placed;
};

/* Makes @out of a frame that placed_can(); @iov must stay as long as @out is used. */
void placed_split(struct placed_out *out, const struct iovec *iov, int n, uint64_t number);

/**
 * struct placed_in - where in the stream of frames the receiver is; all zeros at first
 */
struct placed_in {
	enum {
		PLACED_HEAD,		/* a header comes in */
		PLACED_HEAD_OUT,	/* and goes out */
		PLACED_BODY,
		PLACED_PLACE,		/* a struct placed comes in */
		PLACED_DATA,		/* the data is to come from its slot */
	} state;
	uint8_t head[sizeof(struct frame_header)];
	struct placed placed;
	size_t at;			/* in what comes in or goes out */
	uint64_t left;			/* of the body */
	uint32_t bytes;			/* of data elsewhere */
};

/**
 * placed_feed() - some of what came, as frames
 * @from: moved past what was taken
 * @len:  of it; made less by as much
 * @to, @room: for the frames
 *
 * Goes on until @len or @room is used up, or placed_wants(). A header that no sender of
 * ours writes goes through as it is: frame_parse() refuses it. Returns the bytes in @to.
 */
size_t placed_feed(struct placed_in *in, const uint8_t **from, size_t *len,
		   uint8_t *to, size_t room);

/* Whether data has to come from elsewhere, and which. */
static inline bool placed_wants(const struct placed_in *in, uint64_t *number)
{
	*number = in->placed.number;
	return in->state == PLACED_DATA;
}

/*
 * Some of the data, out of its @slot of PLACED_SLOT bytes, while placed_wants(). Returns
 * the bytes in @to.
 */
size_t placed_data(struct placed_in *in, const uint8_t *slot, uint8_t *to, size_t room);

#endif /* VMREPL_PLACED_H */
