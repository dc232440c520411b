/* SPDX-License-Identifier: GPL-2.0 */
/*
 * encoder: how each page travels: as zeros, as what differs from the page that the standby
 * holds, compressed, or as it is, whichever is the smallest.
 *
 * It costs time, which is saved only where the link is slower than the processor. So what
 * each way costs and saves is measured, all the time on one page of 64 (LZ4: of 256), and a way
 * that does not pay is not tried on the others: on a fast link that is LZ4 soon, and what differs much later.
 */
#ifndef VMREPL_ENCODER_H
#define VMREPL_ENCODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

#include "codec.h"

enum encoder_mode {
	ENCODER_AUTO,		/* where it pays */
	ENCODER_ALWAYS,
	ENCODER_NEVER,
};

/**
 * struct encoder_totals - since encoder_new(), of pages given to encoder_page()
 * @pages: that were no zeros
 * @delta, @lz4, @raw: how many of these went as what
 * @bytes: that went for them
 */
struct encoder_totals {
	uint64_t pages;
	uint64_t delta;
	uint64_t lz4;
	uint64_t raw;
	uint64_t bytes;
};

struct encoder;

/* @cache: bytes of pages to keep for comparing with; 0: none. NULL: no memory. */
struct encoder *encoder_new(enum encoder_mode mode, size_t cache);
/* NULL is fine. */
void encoder_free(struct encoder *e);

/* What the standby holds is not known: a new connection. Of pages and of device state. */
void encoder_forget(struct encoder *e);
/* The standby has dropped that epoch. */
void encoder_torn(struct encoder *e, uint64_t epoch);

/**
 * encoder_pays() - is something to be tried on the next pages?
 * @rate: bytes a second that the link carries; 0: not known
 *
 * Before each checkpoint; in a first sync, which is long, before each frame.
 */
bool encoder_pays(struct encoder *e, uint64_t rate);
/* The guest waits for the next pages: nothing is tried on them, on none. */
void encoder_rest(struct encoder *e);

/**
 * encoder_page() - the next page, where encoder_pays()
 * @data: NULL: zeros
 * @out:  room for CODEC_MAX
 * @len:  bytes written there; 0: it goes as it is
 *
 * Returns what it is sent as.
 */
enum frame_page_kind encoder_page(struct encoder *e, uint64_t epoch, uint32_t block,
				  uint64_t page, const void *data, void *out, size_t *len);

/* A page that is sent as it is, without encoder_page(). @data: NULL: zeros. */
void encoder_plain(struct encoder *e, uint64_t epoch, uint32_t block, uint64_t page,
		   const void *data);

/* Bytes of a piece of device state that is encoded. */
#define ENCODER_PIECE		65536u

/**
 * encoder_state() - a piece of a checkpoint's device state
 * @piece: the @n bytes at @at of all of it; ENCODER_PIECE at most
 * @out:   room for @n
 * @len:   bytes written there; 0: it goes as it is
 *
 * Returns what it is sent as.
 */
enum frame_state_kind encoder_state(struct encoder *e, const uint8_t *piece, size_t at,
				    size_t n, void *out, size_t *len);
/* All @len bytes of it were sent: what the next checkpoint's is compared with. */
void encoder_state_sent(struct encoder *e, const uint8_t *state, size_t len);

const struct encoder_totals *encoder_totals(const struct encoder *e);

/* Adds delta-pages, lz4-pages, raw-pages and bytes-of-page to @o. */
void encoder_status(const struct encoder *e, struct json_object *o);

#endif /* VMREPL_ENCODER_H */
