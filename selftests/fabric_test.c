// SPDX-License-Identifier: GPL-2.0
/*
 * fabric_test: a link whose pages go by RDMA: who may join, that all arrives whole and no
 * more is sent than there is room for, what is forged, and what a lost device does.
 *
 *	fabric_test ADDRESS NETDEV
 *
 * Makes a soft-RoCE device on NETDEV, which has ADDRESS, and takes it away. In a lab host,
 * with rdma_rxe and rdma_ucm loaded.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ends.h"
#include "placed.h"
#include "qpair.h"

#define TIMEOUT_NS	(10 * NSEC_PER_SEC)
#define SILENCE_NS	(300 * NSEC_PER_MSEC)

/* What link_join() or fabric_join() has come to. */
struct joining {
	bool told;
	bool refused;
	char why[WHY_LEN];
};

static struct joining joining;
static struct fabric_offer offer;
static const char *netdev;

static void on_joined(void *arg, const char *why)
{
	struct joining *j = arg;

	j->told = true;
	j->refused = why;
	snprintf(j->why, sizeof(j->why), "%s", why ? why : "");
}

/* Without waiting: the device waits for whoever uses it. */
static void device(const char *verb)
{
	char command[160];

	if (!strcmp(verb, "add"))
		snprintf(command, sizeof(command), "rdma link add rxe_test type rxe netdev %s", netdev);
	else
		snprintf(command, sizeof(command), "rdma link del rxe_test &");
	if (system(command))
		tap_die("failed: %s", command);
}

static void make_offer(void)
{
	struct why why;

	if (link_offer(far_end.link, TIMEOUT_NS, &offer, &why))
		tap_die("nothing is offered: %s", why.text);
}

/* Joins with what is in @offer. */
static bool join(void)
{
	struct why why;

	memset(&joining, 0, sizeof(joining));
	if (link_join(near_end.link, TIMEOUT_NS, &offer, on_joined, &joining, &why)) {
		snprintf(joining.why, sizeof(joining.why), "%s", why.text);
		return false;
	}
	return UNTIL(joining.told) && !joining.refused;
}

static void open_joined(void)
{
	struct why why;

	open_both();
	make_offer();
	if (!join())
		tap_die("not joined: %s", joining.why);
	if (link_lend(near_end.link, data, sizeof(data), &why))
		tap_die("memory cannot be lent: %s", why.text);
}

static uint64_t by_rdma(void)
{
	uint64_t bytes = 0;

	return link_direct(near_end.link, &bytes) ? bytes : 0;
}

static unsigned int handed_back(bool sent)
{
	unsigned int i, n = 0;

	for (i = 0; i < BIG_FRAMES; i++)
		n += bigs[i].done && bigs[i].sent == sent;
	return n;
}

static void send_bigs(void)
{
	unsigned int i;

	for (i = 0; i < BIG_FRAMES; i++)
		send_big(near_end.link, &bigs[i]);
}

static void test_without(void)
{
	struct why why = { .text = "" };

	open_both();
	tap_ok(link_offer(far_end.link, TIMEOUT_NS, &offer, &why) && strstr(why.text, "no RDMA device"),
	       "there is no device: %s", why.text);
	offer = (struct fabric_offer) { .port = 1, .slots = 1 };
	tap_ok(!join() && strstr(joining.why, "no RDMA device"), "nor one to join with: %s",
	       joining.why);
	send_bigs();
	tap_ok(UNTIL(far_end.frames == BIG_FRAMES) && !by_rdma(), "all goes by TCP");
	close_both();
}

static void test_frames(void)
{
	static uint8_t other[FRAME_PAGE_SIZE];
	unsigned int i;

	open_joined();
	tap_ok(link_direct(near_end.link, &(uint64_t){ 0 }) &&
	       UNTIL(link_direct(far_end.link, &(uint64_t){ 0 })), "joined");
	for (i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 31 >> 3);
	send_bigs();
	tap_ok(UNTIL(far_end.frames == BIG_FRAMES) && !far_end.down && far_end.bytes ==
	       BIG_FRAMES * (sizeof(desc) + sizeof(data)),
	       "%u frames of 1 MiB in 256 pieces each arrive whole", BIG_FRAMES);
	tap_ok(UNTIL(handed_back(true) == BIG_FRAMES) && by_rdma() == BIG_FRAMES * sizeof(data),
	       "each is handed back as sent, and its data went by RDMA");

	memset(&bigs[0], 0, sizeof(bigs[0]));
	desc.head = (struct frame_pages) { .nr = 1, .bytes = sizeof(other) };
	bigs[0].tx = (struct link_tx) { .iov = bigs[0].iov, .n = 3, .done = big_done };
	bigs[0].iov[1] = (struct iovec) { &desc, sizeof(desc.head) + sizeof(desc.pages[0]) };
	bigs[0].iov[2] = (struct iovec) { other, sizeof(other) };
	link_send(near_end.link, &bigs[0].tx, FRAME_PAGES, 1);
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	tap_ok(UNTIL(far_end.frames == BIG_FRAMES + 2) && far_end.last_type == FRAME_HELLO &&
	       by_rdma() == BIG_FRAMES * sizeof(data), "what was not lent goes by TCP, in its turn");
	close_both();
	tap_ok(near_end.closed && far_end.closed, "both ends are closed");
}

/* Memory that the device cannot have: it is gone. */
static void test_not_lent(void)
{
	struct why why = { .text = "" };
	void *nothing = mmap(NULL, sizeof(data), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	open_both();
	make_offer();
	if (nothing == MAP_FAILED || munmap(nothing, sizeof(data)) || !join())
		tap_die("not joined: %s", joining.why);
	tap_ok(link_lend(near_end.link, nothing, sizeof(data), &why) && *why.text &&
	       !link_direct(near_end.link, &(uint64_t){ 0 }),
	       "what cannot be registered is not lent: %s", why.text);
	send_bigs();
	tap_ok(UNTIL(far_end.frames == BIG_FRAMES) && !far_end.down && !by_rdma(),
	       "all goes by TCP then");
	close_both();
}

/* The other side does not read: what was written waits in its slots. */
static void test_flow(void)
{
	unsigned int sent;

	open_joined();
	far_end.put_off = true;
	link_send_copy(near_end.link, FRAME_HELLO, 0, "{}", 2);
	UNTIL(far_end.shown_again);
	send_bigs();
	UNTIL(handed_back(true) >= FABRIC_SLOTS);
	loop_turn(loop, 200 * NSEC_PER_MSEC);
	sent = handed_back(true);
	tap_ok(sent == FABRIC_SLOTS, "no more is written than there are slots: %u", sent);
	link_resume(far_end.link);
	tap_ok(UNTIL(far_end.frames == 1 + BIG_FRAMES) && UNTIL(handed_back(true) == BIG_FRAMES),
	       "and the rest when they were read");
	close_both();
}

static void on_moved(void *arg)
{
	(void)arg;
}

static void test_tokens(void)
{
	const struct fabric_handlers stranger = { .joined = on_joined, .moved = on_moved };
	struct fabric_offer right;
	struct fabric *fabric;
	struct why why;
	unsigned int i, refused = 0;

	open_both();
	make_offer();
	right = offer;
	for (i = 0; i < FABRIC_TOKEN_BYTES; i++) {
		offer.token[i] ^= (uint8_t)(1u << i % 8);
		refused += !join() && strstr(joining.why, "refuses");
		offer = right;
	}
	tap_ok(refused == FABRIC_TOKEN_BYTES, "a wrong token is refused: %s", joining.why);
	tap_ok(join(), "the right one is not");
	memset(&joining, 0, sizeof(joining));
	fabric = fabric_join(loop, &addr.sa, TIMEOUT_NS, &stranger, &joining, &right, &why);
	tap_ok(fabric && UNTIL(joining.told) && joining.refused, "a second one is: %s", joining.why);
	fabric_close(fabric);
	if (link_lend(near_end.link, data, sizeof(data), &why))
		tap_die("memory cannot be lent: %s", why.text);
	send_bigs();
	tap_ok(UNTIL(far_end.frames == BIG_FRAMES) && by_rdma(), "which does not mind the first");
	close_both();
}

static void test_closed(void)
{
	open_joined();
	send_bigs();
	UNTIL(far_end.frames >= 3);
	link_close(near_end.link);
	tap_ok(UNTIL(near_end.closed) && handed_back(true) + handed_back(false) == BIG_FRAMES,
	       "closed while it writes: every frame is handed back");
	tap_ok(UNTIL(far_end.closed) && far_end.down, "and the other end sees it: %s", far_end.why);
	close_both();

	open_joined();
	send_bigs();
	UNTIL(far_end.frames >= 3);
	link_close(far_end.link);
	tap_ok(UNTIL(near_end.closed) && near_end.down &&
	       handed_back(true) + handed_back(false) == BIG_FRAMES,
	       "closed while it reads: the same: %s", near_end.why);
	close_both();
}

/* A connection by hand, with an offer. */
static int connect_by_hand(void)
{
	int fd = socket(addr.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memset(&far_end, 0, sizeof(far_end));
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr.sa, addr.len) || !UNTIL(far_end.link))
		tap_die("cannot connect");
	make_offer();
	return fd;
}

/* Says that a page, the first of @data, is in the landing buffer. */
static void say_placed(int fd, uint64_t number)
{
	struct frame_header head;
	struct iovec iov[] = {
		{ &head, sizeof(head) },
		{ &desc, sizeof(desc.head) + sizeof(desc.pages[0]) },
		{ data, FRAME_PAGE_SIZE },
	};
	struct placed_out out;
	int i;

	desc.head = (struct frame_pages) { .nr = 1, .bytes = FRAME_PAGE_SIZE };
	desc.pages[0] = (struct frame_page) { .bytes = FRAME_PAGE_SIZE };
	frame_seal(&head, FRAME_PAGES, 1, 0, iov + 1, 2);
	placed_split(&out, iov, 3, number);
	for (i = 0; i < PLACED_PARTS; i++)
		if (write(fd, out.iov[i].iov_base, out.iov[i].iov_len) < 0)
			tap_die("cannot write");
}

/* Who says that data is in the landing buffer, and has written none. */
static void forge(uint64_t number)
{
	int fd = connect_by_hand();

	say_placed(fd, number);
	link_watch(far_end.link, SILENCE_NS / 8, SILENCE_NS);
	UNTIL(far_end.closed);
	close(fd);
}

/* The data comes late, when the reader reads on already, and is not what was sealed. */
static void test_damaged(void)
{
	const struct fabric_handlers handlers = { .joined = on_joined, .moved = on_moved };
	struct iovec iov = { data, FRAME_PAGE_SIZE };
	int fd = connect_by_hand();
	struct fabric *fabric;
	uint64_t number;
	struct why why;

	memset(&joining, 0, sizeof(joining));
	fabric = fabric_join(loop, &addr.sa, TIMEOUT_NS, &handlers, &joining, &offer, &why);
	if (!fabric || !UNTIL(joining.told) || joining.refused ||
	    qpair_lend(fabric_qpair(fabric), data, sizeof(data), &why))
		tap_die("not joined: %s", joining.why);
	say_placed(fd, 0);
	loop_turn(loop, 200 * NSEC_PER_MSEC);
	loop_turn(loop, 200 * NSEC_PER_MSEC);
	data[5] ^= 1;
	if (qpair_write(fabric_qpair(fabric), &iov, 1, &number))
		tap_die("nothing is written");
	tap_ok(UNTIL(far_end.closed) && far_end.down && !far_end.frames &&
	       strstr(far_end.why, "checksum"), "data that is not what was sent: %s", far_end.why);
	data[5] ^= 1;
	loop_turn(loop, 200 * NSEC_PER_MSEC);
	fabric_close(fabric);
	close(fd);
}

static void test_forged(void)
{
	forge(7);
	tap_ok(far_end.down && !far_end.frames && strstr(far_end.why, "did not write"),
	       "data that was not written, out of turn: %s", far_end.why);
	forge(0);
	tap_ok(far_end.down && !far_end.frames && strstr(far_end.why, "no sign of life"),
	       "in turn: it is waited for as long as for anything: %s", far_end.why);
}

static void test_device_lost(void)
{
	open_joined();
	send_bigs();
	UNTIL(far_end.frames >= 3);
	device("del");
	tap_ok(UNTIL(far_end.frames == BIG_FRAMES) && !near_end.down && !far_end.down &&
	       far_end.bytes == BIG_FRAMES * (sizeof(desc) + sizeof(data)),
	       "the device goes: every frame arrives, the rest by TCP");
	tap_ok(UNTIL(handed_back(true) == BIG_FRAMES), "every frame is handed back as sent");
	tap_ok(!by_rdma() && link_why(near_end.link) && strstr(link_why(near_end.link), "RDMA"),
	       "and why is told: %s", link_why(near_end.link) ? link_why(near_end.link) : "");
	close_both();
}

int main(int argc, char **argv)
{
	if (argc != 3)
		tap_die("usage: fabric_test ADDRESS NETDEV");
	host = argv[1];
	netdev = argv[2];
	ops = &link_rdma;
	loop = loop_new();
	if (!loop)
		tap_die("no io_uring");
	open_door(NULL);
	test_without();
	device("add");
	test_frames();
	test_not_lent();
	test_flow();
	test_tokens();
	test_closed();
	test_forged();
	test_damaged();
	test_device_lost();
	ops->unlisten(door);
	loop_free(loop);
	return tap_done();
}
