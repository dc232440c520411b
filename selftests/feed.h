/* SPDX-License-Identifier: GPL-2.0 */
/*
 * feed: bytes into an inbox, as a connection would bring them.
 */
#ifndef _SELFTESTS_FEED_H
#define _SELFTESTS_FEED_H

#include <stdbool.h>
#include <string.h>

#include "inbox.h"

/* As much of them as there is room for at once; what they point to moves on. */
static inline void feed(struct inbox *in, const uint8_t **byte, size_t *len)
{
	size_t room;
	void *to = inbox_room(in, &room);

	if (room > *len)
		room = *len;
	memcpy(to, *byte, room);
	inbox_add(in, room);
	*byte += room;
	*len -= room;
}

/* One whole frame: returns its length, or what is wrong with it. */
static inline ssize_t feed_frame(struct inbox *in, const uint8_t *byte, size_t len,
				 struct frame *frame, const char **fault)
{
	while (len)
		feed(in, &byte, &len);
	return inbox_look(in, frame, fault);
}

#endif /* _SELFTESTS_FEED_H */
