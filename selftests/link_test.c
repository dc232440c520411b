// SPDX-License-Identifier: GPL-2.0
/*
 * link_test: a connection over the loopback interface: frames in order, silence
 * noticed, nonsense refused, nothing freed too early.
 *
 *	link_test [--tls]
 *
 * Needs no privileges and no module; --tls: a kernel with TLS.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ends.h"

#define BEAT_NS		(20 * NSEC_PER_MSEC)
#define SILENCE_NS	(200 * NSEC_PER_MSEC)

/* A plain socket to the door: whoever is no agent. */
static int stranger(void)
{
	int fd = socket(addr.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memset(&far_end, 0, sizeof(far_end));
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr.sa, addr.len) ||
	    !UNTIL(far_end.link))
		tap_die("cannot connect on the loopback interface");
	return fd;
}

/* Whether a socket was closed by the other side, and what it said before. */
static size_t said(int fd, uint8_t *buf, size_t len)
{
	size_t have = 0;
	ssize_t n;

	while (have < len) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		if (poll(&p, 1, 5000) != 1)
			break;
		n = recv(fd, buf + have, len - have, 0);
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	return have;
}

static void test_frames(void)
{
	unsigned int i, sent = 0;

	open_both();
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	tap_ok(UNTIL(far_end.frames == 1) && far_end.last_type == FRAME_HELLO &&
	       far_end.bytes == 2, "a frame arrives");
	link_send_copy(far_end.link, FRAME_ACK, 42, NULL, 0);
	tap_ok(UNTIL(near_end.frames == 1) && near_end.last_epoch == 42, "and an answer");

	for (i = 0; i < BIG_FRAMES; i++)
		send_big(near_end.link, &bigs[i]);
	tap_ok(UNTIL(far_end.frames == 1 + BIG_FRAMES) && !far_end.down,
	       "%u frames of 1 MiB in 258 pieces each arrive whole", BIG_FRAMES);
	for (i = 0; i < BIG_FRAMES; i++)
		sent += bigs[i].sent;
	tap_ok(sent == BIG_FRAMES, "each is handed back as sent");

	far_end.put_off = true;
	link_send_copy(near_end.link, FRAME_ACK, 7, NULL, 0);
	link_send_copy(near_end.link, FRAME_ACK, 8, NULL, 0);
	UNTIL(far_end.shown_again);
	i = far_end.frames;
	loop_turn(loop, 50 * NSEC_PER_MSEC);
	tap_ok(far_end.frames == i, "a frame that was put off waits");
	link_resume(far_end.link);
	tap_ok(UNTIL(far_end.frames == i + 2) && far_end.last_epoch == 8,
	       "and comes again, and what is behind it");
	close_both();
	tap_ok(near_end.closed && far_end.closed, "both ends are closed");
}

static void test_goodbye(void)
{
	unsigned int i, sent = 0;

	open_both();
	far_end.put_off = true;
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	UNTIL(far_end.put_off == false);
	for (i = 0; i < BIG_FRAMES; i++)
		send_big(near_end.link, &bigs[i]);
	link_send_bye(near_end.link, FRAME_BYE_STOP, "enough");
	for (i = 0; i < BIG_FRAMES; i++)
		sent += !bigs[i].done;
	tap_ok(sent <= 1, "a goodbye waits for the frame that is being sent, not for those behind it");
	link_resume(far_end.link);
	tap_ok(UNTIL(far_end.last_type == FRAME_BYE) && far_end.frames == 2 + sent &&
	       !far_end.down, "it comes in order");
	close_both();
}

static void test_lost(void)
{
	unsigned int i, back = 0;
	uint64_t start;

	open_both();
	for (i = 0; i < BIG_FRAMES; i++)
		send_big(near_end.link, &bigs[i]);
	link_close(far_end.link);
	UNTIL(!near_end.link);
	for (i = 0; i < BIG_FRAMES; i++)
		back += bigs[i].done;
	tap_ok(near_end.down && back == BIG_FRAMES,
	       "the other end closes: it is noticed and every frame is handed back");
	close_both();

	/* Neither end says anything on its own. */
	open_both();
	start = loop_now();
	link_watch(near_end.link, BEAT_NS, SILENCE_NS);
	UNTIL(near_end.down);
	tap_ok(near_end.down && loop_now() - start >= SILENCE_NS &&
	       strstr(near_end.why, "no sign of life"), "silence is noticed: %s", near_end.why);
	close_both();

	open_both();
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	UNTIL(far_end.frames);
	link_watch(near_end.link, BEAT_NS, SILENCE_NS);
	link_watch(far_end.link, BEAT_NS, SILENCE_NS);
	start = loop_now();
	while (loop_now() - start < 3 * SILENCE_NS)
		loop_turn(loop, BEAT_NS);
	tap_ok(!near_end.down && !far_end.down, "heartbeats keep a quiet connection");
	close_both();
}

static void test_nobody(void)
{
	struct link_addr nowhere;
	struct why why;

	if (!link_tcp.resolve("127.0.0.1:1", &nowhere, &why))
		tap_die("%s", why.text);
	memset(&near_end, 0, sizeof(near_end));
	near_end.link = link_connect(loop, &link_tcp, &nowhere, &handlers, &near_end, &why);
	tap_ok(near_end.link && UNTIL(near_end.closed) && near_end.down && !near_end.up,
	       "nobody listens: %s", near_end.why);
}

static void test_strangers(void)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
	struct frame_header head;
	uint8_t buf[4096];
	size_t n;
	int fd;

	fd = stranger();
	send(fd, http, sizeof(http) - 1, MSG_NOSIGNAL);
	tap_ok(UNTIL(far_end.closed) && far_end.down && !far_end.frames && !said(fd, buf, 1),
	       "another protocol: closed without a word");
	close(fd);

	fd = stranger();
	frame_seal(&head, FRAME_ACK, 0, 0, NULL, 0);
	head.version++;
	send(fd, &head, sizeof(head), MSG_NOSIGNAL);
	UNTIL(far_end.closed);
	n = said(fd, buf, sizeof(buf));
	memcpy(&head, buf, sizeof(head));
	tap_ok(far_end.down && n > sizeof(head) && head.magic == FRAME_MAGIC &&
	       head.version == FRAME_VERSION && head.type == FRAME_REFUSE,
	       "another version: refused in ours: %s", far_end.why);
	close(fd);

	fd = stranger();
	frame_seal(&head, FRAME_ACK, 0, 0, NULL, 0);
	send(fd, &head, sizeof(head), MSG_NOSIGNAL);
	UNTIL(far_end.frames == 1);
	frame_seal(&head, FRAME_ACK, 0, 1, NULL, 0);
	send(fd, &head, sizeof(head) / 2, MSG_NOSIGNAL);
	close(fd);
	tap_ok(UNTIL(far_end.closed) && far_end.down && far_end.frames == 1,
	       "cut within a frame: only the whole one was shown");

	fd = stranger();
	link_watch(far_end.link, BEAT_NS, SILENCE_NS);
	tap_ok(UNTIL(far_end.closed) && far_end.down && !said(fd, buf, 1),
	       "who says nothing is told nothing, and closed");
	close(fd);
}

static void test_close_soon(void)
{
	open_both();
	link_send_copy(near_end.link, FRAME_REFUSE, 0, "no", 2);
	link_close_soon(near_end.link);
	tap_ok(UNTIL(near_end.closed) && !near_end.down && UNTIL(far_end.closed) &&
	       far_end.frames == 1 && far_end.last_type == FRAME_REFUSE,
	       "what was queued is sent before an end");
	close_both();
}

/* Its @done is set when the kernel has it. */
static void send_small(struct link *link, struct big *big, enum frame_type type, char *payload)
{
	memset(big, 0, sizeof(*big));
	big->iov[1].iov_base = payload;
	big->iov[1].iov_len = strlen(payload);
	big->tx.iov = big->iov;
	big->tx.n = 2;
	big->tx.done = big_done;
	link_send(link, &big->tx, type, 1);
}

/*
 * The refused end is busy, and sends before it reads that it was; what it has sent was
 * not read either.
 */
static void test_refused_unread(void)
{
	open_both();
	near_end.put_off = true;
	far_end.put_off = true;
	send_small(far_end.link, &bigs[0], FRAME_ACK, "");
	send_small(near_end.link, &bigs[1], FRAME_ACK, "");
	UNTIL(bigs[0].done && bigs[1].done && !near_end.put_off && !far_end.put_off);
	send_small(near_end.link, &bigs[0], FRAME_ACK, "");
	UNTIL(bigs[0].done);
	send_small(far_end.link, &bigs[1], FRAME_REFUSE, "no");
	link_close_soon(far_end.link);
	UNTIL(bigs[1].done);
	send_small(near_end.link, &bigs[0], FRAME_ACK, "");
	UNTIL(bigs[0].done);
	if (near_end.link)
		link_resume(near_end.link);
	tap_ok(UNTIL(near_end.frames == 2 || near_end.down) && near_end.last_type == FRAME_REFUSE &&
	       !near_end.down, "a refusal is read, though what it refuses never was%s%s",
	       near_end.down ? ": " : "", near_end.why);
	if (near_end.link)
		link_close(near_end.link);
	tap_ok(UNTIL(far_end.closed) && !far_end.down, "and then it ends");
	close_both();
}

int main(int argc, char **argv)
{
	static struct key key = { .bytes = "thirty-two bytes that are random", .id = "0123456789abcdef" };
	bool tls = argc > 1 && !strcmp(argv[1], "--tls");

	loop = loop_new();
	if (!loop)
		tap_die("no io_uring");
	open_door(tls ? &key : NULL);
	test_frames();
	test_goodbye();
	test_lost();
	test_nobody();
	/* With TLS these are tls_test's. */
	if (!tls)
		test_strangers();
	test_close_soon();
	test_refused_unread();
	link_tcp.unlisten(door);
	loop_stop(loop);
	loop_run(loop);
	tap_ok(true, "a loop that was stopped before it ran returns at once");
	loop_free(loop);
	return tap_done();
}
