/* SPDX-License-Identifier: GPL-2.0 */
/*
 * inbox: what has come on one connection, frame by frame. Each frame lies in one piece in
 * one landing, where whoever wants to keep it can leave it.
 */
#ifndef VMREPL_INBOX_H
#define VMREPL_INBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "frame.h"
#include "landing.h"

/**
 * struct inbox - of one connection
 * @at:   what is received into
 * @spare: that is where there is no memory for another one: frames that come there cannot be
 *         kept, but nothing else is lost
 * @from: first byte in it that was not taken yet
 * @to:   end of what has come
 * @seq:  number of the next frame
 */
struct inbox {
	struct landing *at;
	struct landing *spare;
	size_t from;
	size_t to;
	uint64_t seq;
};

/* Makes an empty one of what is all zeros. False: no memory. */
bool inbox_open(struct inbox *box);
/* Where to receive, and how much at most, so that every frame that begins there ends there. */
void *inbox_room(struct inbox *box, size_t *len);
/* So many bytes have come there. */
void inbox_add(struct inbox *box, size_t n);
/*
 * The next frame, see frame_parse(). It stays the next one until inbox_pass() with what was
 * returned.
 */
ssize_t inbox_look(const struct inbox *box, struct frame *frame, const char **why);
void inbox_pass(struct inbox *box, size_t n);
/* Forgets what has come. */
void inbox_drop(struct inbox *box);
/* Frames that somebody has left there stay. Also of what is all zeros. */
void inbox_free(struct inbox *box);

static inline bool inbox_empty(const struct inbox *box)
{
	return box->from == box->to;
}

#endif /* VMREPL_INBOX_H */
