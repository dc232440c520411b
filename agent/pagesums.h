/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pagesums: what a standby says that it holds, a sum for each page, so that a first
 * sync leaves out what is there already.
 *
 * A sum is XXH3-128 with a secret that the primary draws for each connection, so that
 * nothing in a guest can be made to collide. Two pages that differ have the same one
 * with a probability of about 2^-128: 3e-24 for one mistake in 10^15 pages.
 */
#ifndef VMREPL_PAGESUMS_H
#define VMREPL_PAGESUMS_H

#include <stdbool.h>
#include <stdint.h>

#include "frame.h"
#include "ramblock.h"

/* Bytes; what XXH3 takes by default. */
#define PAGESUMS_SECRET		192u
/* The same as text: hexadecimal digits, without the NUL. */
#define PAGESUMS_KEY_LEN	(2 * PAGESUMS_SECRET)

/**
 * struct pagesums_key - a connection's secret
 * @secret: nobody else's
 */
struct pagesums_key {
	uint8_t secret[PAGESUMS_SECRET];
};

/* Draws one, and writes it as text. Errors: as getrandom(2). */
int pagesums_draw(char text[PAGESUMS_KEY_LEN + 1]);
/* Reads one; false where @text is none. */
bool pagesums_read(struct pagesums_key *key, const char *text);

/* Never both 0. */
struct frame_sum pagesums_of(const struct pagesums_key *key, const void *page);

struct pagesums;

/*
 * Nothing is told yet. @blocks names the pages and stays the caller's; @text: of
 * pagesums_draw(). NULL: no memory. 16 bytes for each page of RAM, touched as it is told.
 */
struct pagesums *pagesums_new(const struct ramblock_table *blocks, const char *text);
/* NULL is fine. */
void pagesums_free(struct pagesums *sums);

/**
 * pagesums_take() - a SUMS frame
 * @frame: passed by frame_parse()
 *
 * Returns 0; 1 it was the last one; -EPROTO a page that is not in guest RAM.
 */
int pagesums_take(struct pagesums *sums, const struct frame *frame);

/* Whether the standby holds a page with this content. False: it may. */
bool pagesums_holds(const struct pagesums *sums, uint32_t block, uint64_t page, const void *data);

/* Pages that it has told of. */
uint64_t pagesums_told(const struct pagesums *sums);
/* Of all pages of guest RAM, how many lie before what it told of last; and how many there are. */
uint64_t pagesums_position(const struct pagesums *sums);
uint64_t pagesums_pages(const struct pagesums *sums);

#endif /* VMREPL_PAGESUMS_H */
