// SPDX-License-Identifier: GPL-2.0
/*
 * inbox: as much as possible is received at once, but not beyond the place from which a
 * frame of the largest size would not fit any more: the one that is there is received to its
 * end, and the next one begins in another landing. So nothing is ever moved.
 */
#include <string.h>

#include "inbox.h"

/* Behind this no frame begins. */
#define INBOX_LAST	(LANDING_BYTES - FRAME_MAX)

/* Bytes that the frame in @box has at least, of which some have come. */
static size_t inbox_need(const struct inbox *box)
{
	struct frame_header head;

	if (box->to - box->from < sizeof(head))
		return sizeof(head);
	memcpy(&head, box->at->data + box->from, sizeof(head));
	return sizeof(head) + head.length;
}

bool inbox_open(struct inbox *box)
{
	box->at = landing_get();
	box->spare = landing_get();
	if (box->at && box->spare)
		return true;
	inbox_free(box);
	return false;
}

/* Nothing that has come is needed here any more: where the next frame may go. */
static void inbox_turn(struct inbox *box)
{
	bool spare = box->at == box->spare;
	struct landing *next;

	if (!spare && box->at->refs > 1 && box->to < INBOX_LAST)
		return;
	if (spare || box->at->refs > 1) {
		next = landing_get();
		if (!spare)
			landing_put(box->at);
		box->at = next ? next : box->spare;
	}
	box->from = 0;
	box->to = 0;
}

void *inbox_room(struct inbox *box, size_t *len)
{
	if (inbox_empty(box))
		inbox_turn(box);
	*len = box->to < INBOX_LAST ? INBOX_LAST - box->to :
				      inbox_need(box) - (box->to - box->from);
	return box->at->data + box->to;
}

void inbox_add(struct inbox *box, size_t n)
{
	box->to += n;
}

ssize_t inbox_look(const struct inbox *box, struct frame *frame, const char **why)
{
	ssize_t n = frame_parse(box->at->data + box->from, box->to - box->from, box->seq, frame,
				why);

	if (n > 0)
		frame->landing = box->at == box->spare ? NULL : box->at;
	return n;
}

void inbox_pass(struct inbox *box, size_t n)
{
	box->from += n;
	box->seq++;
}

void inbox_drop(struct inbox *box)
{
	box->from = box->to;
}

void inbox_free(struct inbox *box)
{
	if (box->at != box->spare)
		landing_put(box->at);
	landing_put(box->spare);
	box->at = NULL;
	box->spare = NULL;
}
