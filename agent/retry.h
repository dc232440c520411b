/* SPDX-License-Identifier: GPL-2.0 */
/*
 * retry: when the next connection is tried. After a second, or, as long as what was
 * wrong would be wrong again, after twice as long each time.
 */
#ifndef VMREPL_RETRY_H
#define VMREPL_RETRY_H

#include "loop.h"

/**
 * struct retry - the pace of one caller's connections; belongs to the caller
 * @timer: what to do then; .fn and .arg are the caller's
 * @loop: set by retry_open()
 * @ns: from the end of a connection to the next
 */
struct retry {
	struct loop_timer timer;
	struct loop *loop;
	uint64_t ns;
};

void retry_open(struct retry *r, struct loop *loop);
/* A connection has ended: @timer fires in due time, if it is not to do so already. */
void retry_later(struct retry *r);
/* What failed on this connection would fail on the next, too: twice as long, up to @most_ns. */
void retry_slower(struct retry *r, uint64_t most_ns);
/* The next one may succeed at any moment. */
void retry_soon(struct retry *r);
void retry_cancel(struct retry *r);

#endif /* VMREPL_RETRY_H */
