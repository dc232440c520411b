// SPDX-License-Identifier: GPL-2.0
#include "retry.h"

#define RETRY_NS	NSEC_PER_SEC

void retry_open(struct retry *r, struct loop *loop)
{
	r->loop = loop;
	r->ns = RETRY_NS;
}

void retry_later(struct retry *r)
{
	if (!r->timer.armed)
		loop_timer_set(r->loop, &r->timer, r->ns);
}

void retry_slower(struct retry *r, uint64_t most_ns)
{
	if (r->ns >= most_ns)
		return;
	r->ns *= 2;
	if (r->ns > most_ns)
		r->ns = most_ns;
}

void retry_soon(struct retry *r)
{
	r->ns = RETRY_NS;
}

void retry_cancel(struct retry *r)
{
	loop_timer_cancel(r->loop, &r->timer);
}
