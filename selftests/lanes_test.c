// SPDX-License-Identifier: GPL-2.0
/*
 * lanes_test: streams of a link: pages go by them and by nothing else, none is shown before
 * its epoch has begun, whatever comes first; what is said on the link waits for none of
 * them; and who loses one has not lost the other side.
 *
 *	lanes_test [--tls]
 *
 * Needs no privileges and no module; --tls: a kernel with TLS.
 */
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "ends.h"
#include "landing.h"

#define STREAMS		3u
#define FRAMES		24u

static uint8_t token[FRAME_TOKEN_BYTES];
/* What has come to the door besides far_end. */
static unsigned int joins, refused;
static struct link *lane[2 * STREAMS];
/* Of these, what is a stream now. */
static struct link *adopted[STREAMS];
static bool joined;
static char not_joined[WHY_LEN];

static bool stranger_frame(void *arg, const struct frame *frame)
{
	struct link **link = arg;

	if (far_end.link && frame->type == FRAME_JOIN &&
	    link_adopt_lane(far_end.link, *link, frame)) {
		adopted[joins++] = *link;
		*link = NULL;
		return true;
	}
	refused++;
	link_send_copy(*link, FRAME_REFUSE, 0, "no", 2);
	link_close_soon(*link);
	return true;
}

static void stranger_closed(void *arg)
{
	*(struct link **)arg = NULL;
}

static const struct link_handlers stranger_handlers = {
	.frame	= stranger_frame,
	.closed	= stranger_closed,
};

static void comes(struct link_wire *wire, const char *peer)
{
	unsigned int i;

	for (i = 0; i < 2 * STREAMS && lane[i]; i++)
		;
	lane[i] = link_adopt(loop, ops, wire, peer, &stranger_handlers, &lane[i]);
}

static void on_joined(void *arg, const char *why)
{
	(void)arg;
	joined = !why;
	snprintf(not_joined, sizeof(not_joined), "%s", why ? why : "");
}

static void open_streams(unsigned int nr)
{
	joined = false;
	not_joined[0] = '\0';
	joins = 0;
	refused = 0;
	open_both();
	if (link_offer_lanes(far_end.link, nr, token) ||
	    !link_dial_lanes(near_end.link, &addr, nr, token, on_joined, NULL))
		tap_die("no memory");
	UNTIL(joined || not_joined[0]);
}

/* By epoch: frames of pages that were shown, and whether it had begun. */
static unsigned int shown[4];
static bool begun[4], early, damaged;

static void show(const struct frame *frame)
{
	if (frame->type == FRAME_EPOCH_BEGIN)
		begun[frame->epoch] = true;
	if (frame->type != FRAME_PAGES)
		return;
	shown[frame->epoch]++;
	early |= !begun[frame->epoch];
	/* As send_big() has put them. */
	damaged |= memcmp(frame_get_data(frame), data + (FRAME_PAGES_MAX - 1) * FRAME_PAGE_SIZE,
			  FRAME_PAGE_SIZE);
}

static void begin(uint64_t epoch)
{
	struct frame_begin payload = { .flags = FRAME_BEGIN_STREAMS };

	link_send_copy(near_end.link, FRAME_EPOCH_BEGIN, epoch, &payload, sizeof(payload));
}

static unsigned int back(bool whole)
{
	unsigned int i, n = 0;

	for (i = 0; i < FRAMES; i++)
		n += bigs[i].done && (!whole || bigs[i].sent);
	return n;
}

static void send_pages(void)
{
	unsigned int i;

	for (i = 0; i < FRAMES; i++)
		send_big(near_end.link, &bigs[i]);
}

static void test_pages(void)
{
	open_streams(STREAMS);
	tap_ok(joined && joins == STREAMS && link_lanes(near_end.link) == STREAMS &&
	       link_lanes(far_end.link) == STREAMS, "%u streams are made", STREAMS);
	far_end.show = show;

	/* Pages of epoch 1 first: they wait, but what is said does not. */
	send_pages();
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	tap_ok(UNTIL(far_end.last_type == FRAME_HELLO) && !shown[1] && far_end.frames == 1,
	       "what is said waits for no page, and no page comes before its epoch");
	loop_turn(loop, 50 * NSEC_PER_MSEC);
	tap_ok(!shown[1], "not later either");
	begin(1);
	tap_ok(UNTIL(shown[1] == FRAMES) && !early, "when it has begun they come");
	tap_ok(UNTIL(back(true) == FRAMES), "each is handed back as sent");
	tap_ok(!damaged, "as they were");
	link_send_copy(far_end.link, FRAME_ACK, 1, NULL, 0);
	tap_ok(UNTIL(near_end.last_type == FRAME_ACK), "and an answer");
	tap_ok(link_rate(near_end.link) > 0, "the rate is that of the streams: %llu bytes a second",
	       (unsigned long long)link_rate(near_end.link));
	close_both();
	far_end.show = NULL;
}

static void test_goodbye(void)
{
	open_streams(1);
	begin(1);
	UNTIL(far_end.frames == 1);
	far_end.put_off = true;
	send_pages();
	UNTIL(!far_end.put_off);
	link_send_bye(near_end.link, FRAME_BYE_STOP, "enough");
	tap_ok(UNTIL(far_end.last_type == FRAME_BYE) && !far_end.down,
	       "a goodbye waits for no page");
	tap_ok(UNTIL(back(false) == FRAMES) && !link_lanes(near_end.link),
	       "and pages that were not sent are back");
	tap_ok(!near_end.lanes_lost && !near_end.down, "nothing is lost");
	close_both();
}

static void test_lost(void)
{
	open_streams(STREAMS);
	link_close(adopted[1]);
	tap_ok(UNTIL(near_end.lanes_lost), "a stream that is lost is told of: %s", near_end.why);
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	tap_ok(UNTIL(far_end.last_type == FRAME_HELLO) && !near_end.down && !far_end.down,
	       "the other side is not");
	tap_ok(!link_lanes(near_end.link), "no other stream is used any more");
	close_both();
}

/* Keeps what has come, as an epoch does. */
static struct landing *kept[FRAMES];
static unsigned int nr_kept, not_kept;

static void keep(const struct frame *frame)
{
	if (frame->type == FRAME_PAGES && frame->landing)
		kept[nr_kept++] = landing_hold(frame->landing);
	not_kept += frame->type == FRAME_PAGES && !frame->landing;
}

/* There is no memory to keep pages; all else goes on, for whoever has to say so. */
static void test_no_memory(void)
{
	struct rlimit all, none;

	open_streams(1);
	begin(1);
	UNTIL(far_end.frames == 1);
	far_end.show = keep;
	getrlimit(RLIMIT_AS, &all);
	none = all;
	none.rlim_cur = 0;
	setrlimit(RLIMIT_AS, &none);
	send_pages();
	UNTIL(nr_kept + not_kept == FRAMES);
	setrlimit(RLIMIT_AS, &all);
	tap_ok(nr_kept && not_kept && nr_kept + not_kept == FRAMES,
	       "no memory for pages after %u frames: %u come that cannot be kept", nr_kept, not_kept);
	tap_ok(!near_end.lanes_lost && !near_end.down && !far_end.down && !far_end.lanes_lost,
	       "nothing is lost");
	close_both();
	while (nr_kept)
		landing_put(kept[--nr_kept]);
}

/* Whoever knows the token: a plain socket. */
static void test_nonsense(void)
{
	struct frame_join join;
	struct iovec iov = { &join, sizeof(join) };
	struct frame_header head;
	int fd;

	joins = 0;
	open_both();
	if (link_offer_lanes(far_end.link, 1, token))
		tap_die("no memory");
	memcpy(join.token, token, sizeof(join.token));
	frame_seal(&head, FRAME_JOIN, 0, 0, &iov, 1);
	fd = socket(addr.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr.sa, addr.len) ||
	    send(fd, &head, sizeof(head), 0) != sizeof(head) ||
	    send(fd, &join, sizeof(join), 0) != sizeof(join))
		tap_die("cannot connect on the loopback interface");
	tap_ok(UNTIL(joins == 1), "it joins");
	head.version++;
	if (send(fd, &head, sizeof(head), 0) != sizeof(head))
		tap_die("cannot send");
	tap_ok(UNTIL(far_end.lanes_lost) && strstr(far_end.why, "another protocol version"),
	       "another protocol on a stream: %s", far_end.why);
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	tap_ok(UNTIL(far_end.last_type == FRAME_HELLO) && !near_end.down, "the link goes on");
	shutdown(fd, SHUT_RDWR);
	close_both();
}

static void test_refused(void)
{
	uint8_t other[FRAME_TOKEN_BYTES] = { 1 };

	joined = false;
	not_joined[0] = '\0';
	refused = 0;
	open_both();
	if (link_offer_lanes(far_end.link, 2, token))
		tap_die("no memory");
	link_dial_lanes(near_end.link, &addr, 2, other, on_joined, NULL);
	tap_ok(UNTIL(not_joined[0]) && refused == 1 && !link_lanes(far_end.link),
	       "another token: refused: %s", not_joined);
	tap_ok(!link_lanes(near_end.link) && !near_end.lanes_lost, "pages go over the link");
	send_big(near_end.link, &bigs[0]);
	tap_ok(UNTIL(far_end.last_type == FRAME_PAGES) && !near_end.down, "they do");
	close_both();

	not_joined[0] = '\0';
	refused = 0;
	joins = 0;
	open_both();
	if (link_offer_lanes(far_end.link, 1, token))
		tap_die("no memory");
	link_dial_lanes(near_end.link, &addr, 2, token, on_joined, NULL);
	tap_ok(UNTIL(not_joined[0]) && refused == 1 && joins == 1, "more than were offered: refused");
	close_both();

	open_both();
	link_dial_lanes(near_end.link, &addr, 1, token, on_joined, NULL);
	not_joined[0] = '\0';
	tap_ok(UNTIL(not_joined[0]) && !joined, "none was offered: refused");
	close_both();
}

/* The link ends at each moment of their making. */
static void test_ends(void)
{
	unsigned int turns;

	for (turns = 0; turns < 40; turns++) {
		joins = 0;
		open_both();
		if (link_offer_lanes(far_end.link, STREAMS, token) ||
		    !link_dial_lanes(near_end.link, &addr, STREAMS, token, on_joined, NULL))
			tap_die("no memory");
		for (unsigned int i = 0; i < turns; i++)
			loop_turn(loop, 0);
		close_both();
		if (!UNTIL(!lane[0] && !lane[1] && !lane[2]))
			tap_die("a connection that was no stream yet stays");
	}
	tap_ok(true, "closed after each of %u turns of the loop", turns);
}

int main(int argc, char **argv)
{
	static struct key key = { .bytes = "thirty-two bytes that are random", .id = "0123456789abcdef" };
	bool tls = argc == 2 && !strcmp(argv[1], "--tls");

	loop = loop_new();
	if (!loop)
		tap_die("no io_uring");
	for (unsigned int i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i / FRAME_PAGE_SIZE);
	open_door(tls ? &key : NULL);
	on_another = comes;
	test_pages();
	test_goodbye();
	test_lost();
	test_no_memory();
	if (!tls)
		test_nonsense();
	test_refused();
	test_ends();
	ops->unlisten(door);
	loop_free(loop);
	return tap_done();
}
