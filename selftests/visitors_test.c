// SPDX-License-Identifier: GPL-2.0
/*
 * visitors_test: who comes to a standby's port, who keeps a place there and who goes
 * when there are too many. Strangers are plain sockets from addresses of their own.
 *
 *	visitors_test
 *
 * Needs no privileges and no module.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ends.h"
#include "visitors.h"

static struct visitors visitors;
static struct visitor *primary;
static unsigned int downs, closes, hellos;
static bool refuses;

static bool on_hello(void *arg, struct visitor *visitor, const struct frame *frame)
{
	(void)arg;
	(void)frame;
	hellos++;
	if (refuses) {
		visitors_refuse(visitor, "not now");
		return false;
	}
	primary = visitor;
	return true;
}

static bool on_its_frame(void *arg, struct visitor *visitor, const struct frame *frame)
{
	(void)arg;
	(void)frame;
	return visitor == primary;
}

static void on_its_down(void *arg, struct visitor *visitor, const char *why)
{
	(void)arg;
	(void)why;
	downs += visitor == primary;
}

static void on_its_closed(void *arg, struct visitor *visitor)
{
	(void)arg;
	closes += visitor == primary;
	primary = NULL;
}

/* A stranger, from 127.0.0.@host. */
static int stranger(unsigned int host)
{
	struct sockaddr_in from = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	from.sin_addr.s_addr = htonl(0x7f000000 | host);
	if (fd < 0 || bind(fd, (struct sockaddr *)&from, sizeof(from)) ||
	    connect(fd, (struct sockaddr *)&addr.sa, addr.len))
		tap_die("a connection from 127.0.0.%u: %s", host, strerror(errno));
	return fd;
}

/* How many places are taken by somebody. */
static unsigned int taken(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < VISITORS_PLACES; i++)
		n += visitors.places[i].visitors != NULL;
	return n;
}

static bool gone(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char byte;

	return poll(&p, 1, 0) == 1 && recv(fd, &byte, 1, MSG_DONTWAIT) <= 0;
}

static void turn(void)
{
	for (int i = 0; i < 20; i++)
		loop_turn(loop, NSEC_PER_MSEC);
}

static void say(int fd, enum frame_type type)
{
	struct iovec iov = { (void *)(uintptr_t)"{}", 2 };
	struct frame_header head;

	frame_seal(&head, type, 0, 0, &iov, 1);
	if (send(fd, &head, sizeof(head), MSG_NOSIGNAL) != sizeof(head) ||
	    send(fd, "{}", 2, MSG_NOSIGNAL) != 2)
		tap_die("send: %s", strerror(errno));
}

static void test_one(void)
{
	int fd = stranger(2);

	tap_ok(UNTIL(taken() == 1) && !hellos, "a connection that says nothing has a place");
	say(fd, FRAME_HELLO);
	tap_ok(UNTIL(primary) && hellos == 1, "it says HELLO: it is taken");
	say(fd, FRAME_HEARTBEAT);
	tap_ok(UNTIL(downs == 1 && closes == 1) && taken() == 0,
	       "it does something else then: its owner hears of the loss, the place is free");
	close(fd);
	fd = stranger(2);
	say(fd, FRAME_ACK);
	tap_ok(UNTIL(gone(fd)) && hellos == 1 && downs == 1, "one that begins with ACK is closed");
	close(fd);
	refuses = true;
	fd = stranger(2);
	say(fd, FRAME_HELLO);
	turn();
	close(fd);
	tap_ok(UNTIL(!taken()) && hellos == 2 && downs == 1 && closes == 1,
	       "of one that is refused its owner hears no more");
	refuses = false;
}

static void test_flood(void)
{
	int first = stranger(2), flood[3 * VISITORS_PLACES], late;
	unsigned int i, kept = 0;

	turn();
	for (i = 0; i < sizeof(flood) / sizeof(*flood); i++) {
		flood[i] = stranger(3);
		turn();
	}
	for (i = 0; i < sizeof(flood) / sizeof(*flood); i++)
		kept += !gone(flood[i]);
	tap_ok(!gone(first), "another address's flood does not drive one out that was there before");
	tap_ok(kept == VISITORS_WAITING - 1, "of the flood as many are left as there are places (%u)",
	       kept);
	tap_ok(gone(flood[0]) && !gone(flood[i - 1]), "those that came first have gone first");
	late = stranger(4);
	turn();
	tap_ok(!gone(late) && !gone(first), "who comes then has a place, too");
	say(late, FRAME_HELLO);
	tap_ok(UNTIL(primary), "and is taken");
	close(stranger(5));
	turn();
	tap_ok(primary && !gone(late), "whoever comes after that does not drive it out");
	for (i = 0; i < sizeof(flood) / sizeof(*flood); i++)
		close(flood[i]);
	close(first);
	close(late);
	tap_ok(UNTIL(!taken()), "all places are free again");
}

/* Those that are refused, and do not go: they are waited for, but not at others' cost. */
static void test_refused(void)
{
	int flood[3 * VISITORS_PLACES], late;
	unsigned int i;

	refuses = true;
	for (i = 0; i < sizeof(flood) / sizeof(*flood); i++) {
		flood[i] = stranger(3);
		loop_turn(loop, NSEC_PER_MSEC);
		say(flood[i], FRAME_HELLO);
		loop_turn(loop, NSEC_PER_MSEC);
	}
	refuses = false;
	late = stranger(4);
	turn();
	say(late, FRAME_HELLO);
	turn();
	tap_ok(primary, "a flood of those that are refused does not keep another one out");
	for (i = 0; i < sizeof(flood) / sizeof(*flood); i++)
		close(flood[i]);
	close(late);
	tap_ok(UNTIL(!taken()), "all places are free again");
}

/* As many addresses as places: nobody has more than the others. */
static void test_ties(void)
{
	int fds[VISITORS_WAITING + 1];
	unsigned int i;

	for (i = 0; i <= VISITORS_WAITING; i++) {
		fds[i] = stranger(2 + i);
		turn();
	}
	tap_ok(gone(fds[0]) && !gone(fds[1]) && !gone(fds[VISITORS_WAITING]),
	       "among equals the one goes that has waited longest");
	for (i = 0; i <= VISITORS_WAITING; i++)
		close(fds[i]);
	tap_ok(UNTIL(!taken()), "all places are free again");
}

static void test_late(void)
{
	uint64_t began = loop_now();
	int fd = stranger(2);

	tap_ok(UNTIL(gone(fd)) && loop_now() - began >= VISITORS_GREET_NS,
	       "one that says nothing for long is closed");
	close(fd);
}

int main(void)
{
	struct why why;
	int fd;

	loop = loop_new();
	if (!loop)
		tap_die("io_uring: %s", strerror(errno));
	/* Finds a port that is free. */
	open_door(NULL);
	link_tcp.unlisten(door);
	visitors.hello = on_hello;
	visitors.frame = on_its_frame;
	visitors.down = on_its_down;
	visitors.closed = on_its_closed;
	if (visitors_open(&visitors, loop, &link_tcp, &addr, &why))
		tap_die("%s", why.text);
	test_one();
	test_flood();
	test_refused();
	test_ties();
	test_late();
	fd = stranger(2);
	turn();
	visitors_close(&visitors);
	tap_ok(!taken() && gone(fd), "the port is closed, and who was there");
	close(fd);
	loop_free(loop);
	return tap_done();
}
