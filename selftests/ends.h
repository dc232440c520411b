/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ends: two ends of a link in one process and one loop, and a door between them, for
 * tests.
 */
#ifndef _SELFTESTS_ENDS_H
#define _SELFTESTS_ENDS_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "link.h"
#include "tap.h"

#define PATIENCE_NS	(60 * NSEC_PER_SEC)
#define BIG_FRAMES	64

/* One end. */
struct end {
	struct link *link;
	bool up;
	bool down;
	bool closed;
	bool put_off;
	bool lanes_lost;
	unsigned int frames;
	unsigned int shown_again;
	uint64_t bytes;
	uint64_t last_epoch;
	enum frame_type last_type;
	char why[WHY_LEN];
	void (*show)(const struct frame *frame);	/* or NULL */
};

static struct loop *loop;
/* What both ends use, and where. */
static const struct link_ops *ops = &link_tcp;
static const char *host = "127.0.0.1";
static struct link_addr addr;
static struct link_door *door;
static struct end near_end, far_end;

static inline void on_up(void *arg)
{
	((struct end *)arg)->up = true;
}

static inline bool on_frame(void *arg, const struct frame *frame)
{
	struct end *end = arg;

	if (end->put_off) {
		end->put_off = false;
		end->shown_again = 1;
		return false;
	}
	end->frames++;
	end->bytes += frame->length;
	end->last_type = frame->type;
	end->last_epoch = frame->epoch;
	if (end->show)
		end->show(frame);
	return true;
}

static inline void on_down(void *arg, const char *why)
{
	struct end *end = arg;

	end->down = true;
	snprintf(end->why, sizeof(end->why), "%s", why);
}

static inline void on_closed(void *arg)
{
	struct end *end = arg;

	end->closed = true;
	end->link = NULL;
}

static inline void on_lanes_lost(void *arg, const char *why)
{
	struct end *end = arg;

	end->lanes_lost = true;
	snprintf(end->why, sizeof(end->why), "%s", why);
}

static const struct link_handlers handlers = {
	.up	= on_up,
	.frame	= on_frame,
	.down	= on_down,
	.closed	= on_closed,
	.lanes_lost = on_lanes_lost,
};

/* Gets what is accepted while far_end has a connection; NULL: that becomes far_end's. */
static void (*on_another)(struct link_wire *wire, const char *peer) __attribute__((unused));

static inline void on_accept(void *arg, struct link_wire *wire, const char *peer)
{
	struct end *end = arg;

	if (end->link && on_another) {
		on_another(wire, peer);
		return;
	}
	end->link = link_adopt(loop, ops, wire, peer, &handlers, end);
}

/* Runs the loop until @cond or patience ends. Value: whether it came true. */
#define UNTIL(cond) ({							\
	uint64_t end_ns = loop_now() + PATIENCE_NS;			\
									\
	while (!(cond) && loop_now() < end_ns)				\
		loop_turn(loop, 10 * NSEC_PER_MSEC);			\
	(cond);								\
})

/* Whoever listens at @to is far_end. */
static inline void open_to(const struct link_addr *to)
{
	struct why why;

	memset(&near_end, 0, sizeof(near_end));
	memset(&far_end, 0, sizeof(far_end));
	near_end.link = link_connect(loop, ops, to, &handlers, &near_end, &why);
	if (!near_end.link)
		tap_die("%s", why.text);
}

static inline void open_both(void)
{
	open_to(&addr);
	if (!UNTIL(near_end.up && far_end.link))
		tap_die("cannot connect to %s: %s", addr.text, near_end.why);
}

static inline void close_both(void)
{
	if (near_end.link)
		link_close(near_end.link);
	if (far_end.link)
		link_close(far_end.link);
	if (!UNTIL(!near_end.link && !far_end.link))
		tap_die("a link does not close");
}

/* Opens @addr, on whichever port is free; @key as in struct link_addr. */
static inline void open_door(const struct key *key)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&addr.sa;
	struct why why;
	int port;

	for (port = 20000; port < 20100 && !door; port++) {
		char text[64];

		snprintf(text, sizeof(text), "%s:%d", host, port);
		if (!ops->resolve(text, &addr, &why) || in->sin_port != htons((uint16_t)port))
			tap_die("addresses are not understood");
		addr.key = key;
		door = ops->listen(loop, &addr, on_accept, &far_end, &why);
	}
	if (!door)
		tap_die("%s", why.text);
}

struct big {
	struct link_tx tx;
	struct iovec iov[2 + FRAME_PAGES_MAX];
	bool done;
	bool sent;
};

static inline void big_done(struct link_tx *tx, bool sent)
{
	struct big *big = (struct big *)tx;

	big->done = true;
	big->sent = sent;
}

static struct {
	struct frame_pages head;
	struct frame_page pages[FRAME_PAGES_MAX];
} desc;
static uint8_t data[FRAME_PAGES_MAX * FRAME_PAGE_SIZE];
static struct big bigs[BIG_FRAMES] __attribute__((unused));

/* The largest frame, its pages in pieces all over memory. */
static inline void send_big(struct link *link, struct big *big)
{
	unsigned int i;

	memset(big, 0, sizeof(*big));
	desc.head.nr = FRAME_PAGES_MAX;
	desc.head.bytes = sizeof(data);
	big->tx.iov = big->iov;
	big->tx.n = 2 + FRAME_PAGES_MAX;
	big->tx.done = big_done;
	big->iov[1].iov_base = &desc;
	big->iov[1].iov_len = sizeof(desc);
	for (i = 0; i < FRAME_PAGES_MAX; i++) {
		desc.pages[i].page = i;
		desc.pages[i].bytes = FRAME_PAGE_SIZE;
		big->iov[2 + i].iov_base = data + (FRAME_PAGES_MAX - 1 - i) * FRAME_PAGE_SIZE;
		big->iov[2 + i].iov_len = FRAME_PAGE_SIZE;
	}
	link_send(link, &big->tx, FRAME_PAGES, 1);
}

#endif /* _SELFTESTS_ENDS_H */
