/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pagesums: what a standby says that it holds, a sum for each page, so that a first
 * sync leaves out what is there already.
 *
 * A sum is UMAC-128 (RFC 4418) with a key that the primary draws for each connection, and
 * always the same nonce: two pages that differ have the same sum with a probability of
 * 2^-120 at most, whatever is in them (section 6.1 there), and so there is one mistake in
 * 10^15 pages with one of 1e-21. It is compared with nothing that was sent under another key.
 */
#ifndef VMREPL_PAGESUMS_H
#define VMREPL_PAGESUMS_H

#include <stdbool.h>
#include <stdint.h>

#include "frame.h"
#include "ramblock.h"

/* A key as text: hexadecimal digits, without the NUL. */
#define PAGESUMS_KEY_LEN	32u

struct pagesums_key;

/* Draws a key, as text. Errors: as getrandom(2). */
int pagesums_draw(char text[PAGESUMS_KEY_LEN + 1]);
/* Makes it ready for use. NULL: @text is none, or no memory. */
struct pagesums_key *pagesums_key_new(const char *text);
/* NULL is fine. */
void pagesums_key_free(struct pagesums_key *key);

/* The sum of a page's FRAME_PAGE_SIZE bytes; never both 0. */
struct frame_sum pagesums_of(struct pagesums_key *key, const void *page);

struct pagesums;

/*
 * Nothing is told yet. @blocks names the pages; @text: of pagesums_draw(). NULL: no memory.
 * It takes 16 bytes for each page that is told of.
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
bool pagesums_holds(struct pagesums *sums, uint32_t block, uint64_t page, const void *data);

/* Pages that it has told of. */
uint64_t pagesums_told(const struct pagesums *sums);
/* Of all pages of guest RAM, how many lie before what it told of last; and how many there are. */
uint64_t pagesums_position(const struct pagesums *sums);
uint64_t pagesums_pages(const struct pagesums *sums);

#endif /* VMREPL_PAGESUMS_H */
