// SPDX-License-Identifier: GPL-2.0
/*
 * tls_test: who has not got the key gets nowhere, and who sits on the way can neither
 * read, change nor repeat anything.
 *
 *	tls_test
 *
 * Needs a kernel with TLS, no privileges and no module.
 */
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "ends.h"
#include "tls.h"

#define RECORD_BYTES	(1u << 20)

/* Somebody on the way: passes everything on, keeps what the caller sends, changes a byte. */
struct middle {
	int door;
	struct link_addr addr;
	int64_t change_at;	/* which byte of the caller's; -1: none */
	uint8_t record[RECORD_BYTES];
	size_t recorded;
	pthread_t thread;
};

static struct middle middle;
static struct key key, other;

static void write_all(int fd, const uint8_t *buf, size_t len)
{
	while (len) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		buf += n;
		len -= (size_t)n;
	}
}

/* Ends when either side does. */
static void *middle_run(void *arg)
{
	struct middle *m = arg;
	int caller = accept(m->door, NULL, NULL);
	int callee = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd p[2] = {
		{ .fd = caller, .events = POLLIN }, { .fd = callee, .events = POLLIN },
	};
	uint8_t buf[4096];

	if (connect(callee, (struct sockaddr *)&addr.sa, addr.len))
		abort();
	while (poll(p, 2, -1) > 0) {
		int from = p[0].revents ? 0 : 1;
		ssize_t n = recv(p[from].fd, buf, sizeof(buf), 0);

		if (n <= 0)
			break;
		if (!from) {
			int64_t at = m->change_at - (int64_t)m->recorded;

			memcpy(m->record + m->recorded, buf, (size_t)n);
			m->recorded += (size_t)n;
			if (m->change_at >= 0 && at >= 0 && at < n)
				buf[at] ^= 1;
		}
		write_all(p[!from].fd, buf, (size_t)n);
	}
	close(caller);
	close(callee);
	return NULL;
}

/* near_end connects, through somebody on the way. */
static void open_through(int64_t change_at)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&middle.addr.sa;

	middle.addr = addr;
	in->sin_port = 0;
	middle.addr.len = sizeof(*in);
	middle.door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(middle.door, (struct sockaddr *)in, sizeof(*in)) || listen(middle.door, 1) ||
	    getsockname(middle.door, (struct sockaddr *)in, &middle.addr.len))
		tap_die("cannot listen: %s", strerror(errno));
	middle.change_at = change_at;
	middle.recorded = 0;
	if (pthread_create(&middle.thread, NULL, middle_run, &middle))
		tap_die("no thread");
	open_to(&middle.addr);
}

static void close_through(void)
{
	close_both();
	pthread_join(middle.thread, NULL);
	close(middle.door);
}

static const char secret[] = "a page of the guest with a password in it";

/* It, as device state. */
static void send_secret(struct link *link)
{
	struct { struct frame_state head; char text[sizeof(secret)]; } state = {
		.head = { .kind = FRAME_STATE_RAW, .bytes = sizeof(secret) },
	};

	memcpy(state.text, secret, sizeof(secret));
	link_send_copy(link, FRAME_STATE, 1, &state, sizeof(state.head) + sizeof(secret));
}

static void test_on_the_way(void)
{
	size_t handshake, whole;

	open_through(-1);
	if (!UNTIL(near_end.up && far_end.link))
		tap_die("no connection through somebody on the way: %s", near_end.why);
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	UNTIL(far_end.frames == 1);
	handshake = middle.recorded;
	send_secret(near_end.link);
	UNTIL(far_end.frames == 2);
	whole = middle.recorded;
	tap_ok(far_end.frames == 2 && whole > handshake + sizeof(secret) &&
	       !memmem(middle.record, whole, secret, sizeof(secret) - 1) &&
	       !memmem(middle.record, whole, "LPMV", 4) && !memmem(middle.record, whole, "VMPL", 4),
	       "nothing can be read on the way");
	close_through();

	/* What was recorded, once more. */
	memset(&far_end, 0, sizeof(far_end));
	{
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (connect(fd, (struct sockaddr *)&addr.sa, addr.len))
			tap_die("cannot connect");
		write_all(fd, middle.record, whole);
		tap_ok(UNTIL(far_end.closed) && !far_end.frames && far_end.down,
		       "a recorded conversation is refused: %s", far_end.why);
		close(fd);
	}

	open_through((int64_t)handshake + 40);
	UNTIL(near_end.up && far_end.link);
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	UNTIL(far_end.frames == 1);
	send_secret(near_end.link);
	tap_ok(UNTIL(far_end.closed) && far_end.frames == 1 && far_end.down,
	       "a frame that was changed on the way does not arrive: %s", far_end.why);
	close_through();

	open_through(100);
	tap_ok(UNTIL(near_end.closed && far_end.closed) && !near_end.up && !far_end.frames,
	       "nor a handshake that was: %s", far_end.why);
	close_through();
}

static void test_other_keys(void)
{
	struct link_addr to = addr;

	to.key = &other;
	open_to(&to);
	tap_ok(UNTIL(near_end.closed && far_end.closed) && !near_end.up && near_end.down &&
	       strstr(near_end.why, "does not take our key"), "another key: %s", near_end.why);
	tap_ok(far_end.down && !far_end.frames && strstr(far_end.why, other.id),
	       "which the other side names: %s", far_end.why);

	/* The name of ours, which can be heard on the way, and not the key. */
	strcpy(other.id, key.id);
	open_to(&to);
	tap_ok(UNTIL(near_end.closed && far_end.closed) && !near_end.up && !far_end.frames &&
	       far_end.down, "another key with the name of ours: %s", far_end.why);

	to.key = NULL;
	open_to(&to);
	UNTIL(near_end.up);
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	tap_ok(UNTIL(near_end.closed && far_end.closed) && !far_end.frames,
	       "no key: %s", far_end.why);
	tap_ok(strstr(near_end.why, "--key"), "who has none is told: %s", near_end.why);
}

/* A door of somebody who has not got the key. */
static void test_false_door(void)
{
	struct link_door *true_door = door;
	struct link_addr true_addr = addr, to;

	door = NULL;
	open_door(NULL);
	to = addr;
	to.key = &key;
	open_to(&to);
	tap_ok(UNTIL(near_end.closed) && !near_end.up && near_end.down && !far_end.frames,
	       "who answers without the key is told nothing: %s", near_end.why);
	close_both();
	link_tcp.unlisten(door);
	door = true_door;
	addr = true_addr;
}

/* TLS 1.3 as a browser speaks it, with no key. */
static void test_no_psk(void)
{
	gnutls_certificate_credentials_t none;
	gnutls_session_t session;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), err;

	memset(&far_end, 0, sizeof(far_end));
	if (connect(fd, (struct sockaddr *)&addr.sa, addr.len) ||
	    fcntl(fd, F_SETFL, O_NONBLOCK) || gnutls_certificate_allocate_credentials(&none) ||
	    gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) ||
	    gnutls_priority_set_direct(session, "NORMAL:-VERS-ALL:+VERS-TLS1.3", NULL) ||
	    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, none))
		tap_die("cannot begin TLS");
	gnutls_transport_set_int(session, fd);
	UNTIL((err = gnutls_handshake(session)) == 0 || gnutls_error_is_fatal(err));
	tap_ok(err && UNTIL(far_end.closed) && far_end.down && !far_end.frames,
	       "TLS without a key is refused: %s", far_end.why);
	gnutls_deinit(session);
	gnutls_certificate_free_credentials(none);
	close(fd);
}

static void test_strangers(void)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
	uint8_t noise[4096];
	unsigned int i, refused = 0;

	for (i = 0; i < 200; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		size_t len = 1 + (size_t)rand() % sizeof(noise), j;

		memset(&far_end, 0, sizeof(far_end));
		for (j = 0; j < len; j++)
			noise[j] = (uint8_t)rand();
		/* Some of them with the header of a record in front. */
		if (i & 1)
			memcpy(noise, "\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03", 11);
		if (connect(fd, (struct sockaddr *)&addr.sa, addr.len))
			tap_die("cannot connect");
		write_all(fd, i ? noise : (const void *)http, i ? len : sizeof(http) - 1);
		shutdown(fd, SHUT_WR);
		refused += UNTIL(far_end.closed) && far_end.down && !far_end.frames;
		if (!i)
			tap_note("HTTP: %s", far_end.why);
		close(fd);
	}
	tap_ok(refused == 200, "200 strangers that send noise are refused");
}

int main(void)
{
	struct why why;

	if (tls_available(&why))
		tap_die("%s", why.text);
	loop = loop_new();
	if (!loop)
		tap_die("no io_uring");
	memcpy(key.bytes, "thirty-two bytes that are random", KEY_BYTES);
	memcpy(other.bytes, "thirty-two other, random bytes!!", KEY_BYTES);
	strcpy(key.id, "0123456789abcdef");
	strcpy(other.id, "fedcba9876543210");
	open_door(&key);
	test_on_the_way();
	test_other_keys();
	test_false_door();
	test_no_psk();
	test_strangers();
	open_both();
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	tap_ok(UNTIL(far_end.frames == 1), "and after all that who has the key is let in");
	close_both();
	link_tcp.unlisten(door);
	loop_free(loop);
	return tap_done();
}
