// SPDX-License-Identifier: GPL-2.0
/*
 * placed: the field that says how much is elsewhere is the header's @pad, which the
 * frame itself has as 0.
 */
#include <string.h>

#include "placed.h"

_Static_assert(sizeof(struct placed) == 8, "wire format");

bool placed_can(const struct iovec *iov, int n)
{
	const struct frame_header *head = iov[0].iov_base;

	return n > 2 && iov[0].iov_len == sizeof(*head) && head->type == FRAME_PAGES;
}

void placed_split(struct placed_out *out, const struct iovec *iov, int n, uint64_t number)
{
	size_t bytes = 0;
	int i;

	for (i = 2; i < n; i++)
		bytes += iov[i].iov_len;
	memcpy(&out->head, iov[0].iov_base, sizeof(out->head));
	out->head.pad = (uint32_t)bytes;
	out->placed.number = number;
	out->iov[0] = (struct iovec) { &out->head, sizeof(out->head) };
	out->iov[1] = iov[1];
	out->iov[2] = (struct iovec) { &out->placed, sizeof(out->placed) };
}

/* A header is whole: what follows it. */
static void placed_look(struct placed_in *in)
{
	struct frame_header head;

	memcpy(&head, in->head, sizeof(head));
	in->left = head.length;
	in->bytes = 0;
	if (!head.pad || head.type != FRAME_PAGES || head.length > FRAME_PAYLOAD_MAX ||
	    head.pad > PLACED_SLOT || head.pad > head.length)
		return;
	in->bytes = head.pad;
	in->left -= head.pad;
	head.pad = 0;
	memcpy(in->head, &head, sizeof(head));
}

static size_t placed_min(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Up to @want bytes in all of something small. True: it is whole. */
static bool placed_gather(struct placed_in *in, void *to, size_t want, const uint8_t **from,
			  size_t *len)
{
	size_t n = placed_min(want - in->at, *len);

	/* Nowhere is no place to copy nothing from. */
	if (n)
		memcpy((uint8_t *)to + in->at, *from, n);
	in->at += n;
	*from += n;
	*len -= n;
	if (in->at < want)
		return false;
	in->at = 0;
	return true;
}

/* Where a frame goes on behind its header or its body. */
static void placed_next(struct placed_in *in)
{
	if (in->left)
		in->state = PLACED_BODY;
	else
		in->state = in->bytes ? PLACED_PLACE : PLACED_HEAD;
}

size_t placed_feed(struct placed_in *in, const uint8_t **from, size_t *len,
		   uint8_t *to, size_t room)
{
	size_t out = 0, n;

	for (;;) {
		switch (in->state) {
		case PLACED_HEAD:
			if (!placed_gather(in, in->head, sizeof(in->head), from, len))
				return out;
			placed_look(in);
			in->state = PLACED_HEAD_OUT;
			break;
		case PLACED_HEAD_OUT:
			n = placed_min(sizeof(in->head) - in->at, room - out);
			memcpy(to + out, in->head + in->at, n);
			in->at += n;
			out += n;
			if (in->at < sizeof(in->head))
				return out;
			in->at = 0;
			placed_next(in);
			break;
		case PLACED_BODY:
			n = placed_min((size_t)in->left, placed_min(*len, room - out));
			if (n)
				memcpy(to + out, *from, n);
			*from += n;
			*len -= n;
			in->left -= n;
			out += n;
			if (in->left)
				return out;
			placed_next(in);
			break;
		case PLACED_PLACE:
			if (!placed_gather(in, &in->placed, sizeof(in->placed), from, len))
				return out;
			in->state = PLACED_DATA;
			return out;
		case PLACED_DATA:
			return out;
		}
	}
}

size_t placed_data(struct placed_in *in, const uint8_t *slot, uint8_t *to, size_t room)
{
	size_t n = placed_min(in->bytes - in->at, room);

	memcpy(to, slot + in->at, n);
	in->at += n;
	if (in->at == in->bytes) {
		in->at = 0;
		in->state = PLACED_HEAD;
	}
	return n;
}
