/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where a VMM puts the pages of a checkpoint: a buffer that is there already, with
 * a header for each page, as the module's ring has.
 */
#ifndef _BENCH_SINK_H
#define _BENCH_SINK_H

#include <stdint.h>

struct sink {
	uint8_t *data;
	uint64_t *gfn;
	uint64_t room;
	uint64_t pages;
};

/* Room for @pages. Exits where there is no memory. */
void sink_open(struct sink *s, uint64_t pages);
void sink_close(struct sink *s);

/* Take page @gfn, whose content is at @page; zeros are only noted. */
void sink_page(struct sink *s, uint64_t gfn, const void *page);

#endif /* _BENCH_SINK_H */
