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

void *inbox_room(struct inbox *box, size_t *len)
{
	if (box->at && inbox_empty(box)) {
		if (box->at->refs == 1) {
			box->from = 0;
			box->to = 0;
		} else if (box->to >= INBOX_LAST) {
			landing_put(box->at);
			box->at = NULL;
		}
	}
	if (!box->at) {
		box->at = landing_get();
		box->from = 0;
		box->to = 0;
		if (!box->at)
			return NULL;
	}
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
		frame->landing = box->at;
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
	landing_put(box->at);
	box->at = NULL;
}
