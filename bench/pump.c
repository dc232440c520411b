// SPDX-License-Identifier: GPL-2.0
/*
 * pump: frames of pages over a link, as fast as it takes them, and nothing else: no VM and
 * no module. bench/link has it beside iperf3 and ib_write_bw.
 *
 *	pump listen LINK ADDRESS [KEY FILE]
 *	pump send LINK ADDRESS SECONDS [KEY FILE]
 *
 * LINK is tcp, with one stream, tcp:STREAMS, or rdma. Both print "BYTES SECONDS CPU-SECONDS"
 * of the data of all frames: the sender until the last was acknowledged.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "key.h"
#include "link.h"

/* As many as the rings of a VM with four vCPUs hold. */
#define FRAMES		64u
#define TIMEOUT_NS	(60 * NSEC_PER_SEC)

struct pump_frame {
	struct link_tx tx;
	struct iovec iov[2 + FRAME_PAGES_MAX];
	struct {
		struct frame_pages head;
		struct frame_page pages[FRAME_PAGES_MAX];
	} desc;
	uint8_t *data;
};

static struct loop *loop;
static struct link *link;
static struct pump_frame frames[FRAMES];
static uint8_t *memory;
static uint64_t began, ends, bytes;
static unsigned int under_way;
static bool stopped;
static bool by_rdma;	/* nothing else counts */
static unsigned int streams = 1;
static struct link_addr addr;

static void fail(const char *why)
{
	fprintf(stderr, "pump: %s\n", why);
	exit(1);
}

static void tell(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	printf("%llu %.3f %.3f\n", (unsigned long long)bytes,
	       (double)(loop_now() - began) / (double)NSEC_PER_SEC,
	       (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6);
	loop_stop(loop);
}

/* ---- sending ---- */

static void send_one(struct pump_frame *f)
{
	f->iov[1] = (struct iovec) { &f->desc, sizeof(f->desc) };
	for (unsigned int i = 0; i < FRAME_PAGES_MAX; i++)
		f->iov[2 + i] = (struct iovec) { f->data + i * FRAME_PAGE_SIZE, FRAME_PAGE_SIZE };
	under_way++;
	bytes += FRAME_PAGES_MAX * FRAME_PAGE_SIZE;
	link_send(link, &f->tx, FRAME_PAGES, 1);
}

/* Behind it pages may still come, by streams: it says how many. */
static void send_end(void)
{
	struct frame_end end = { .pages = bytes / FRAME_PAGE_SIZE };

	link_send_copy(link, FRAME_EPOCH_END, 1, &end, sizeof(end));
}

static void frame_done(struct link_tx *tx, bool sent)
{
	under_way--;
	if (!sent)
		return;
	if (loop_now() < ends)
		send_one((struct pump_frame *)tx);
	else if (!under_way)
		send_end();
}

static void send_all(void)
{
	struct frame_begin begin = { .flags = FRAME_BEGIN_STREAMS };
	struct why why;

	link_send_copy(link, FRAME_EPOCH_BEGIN, 1, &begin, sizeof(begin));

	if (link_lend(link, memory, FRAMES * FRAME_PAGES_MAX * FRAME_PAGE_SIZE, &why))
		fail(why.text);
	began = loop_now();
	ends += began;
	for (unsigned int i = 0; i < FRAMES; i++)
		send_one(&frames[i]);
}

static void joined(void *arg, const char *why)
{
	(void)arg;
	if (why)
		fail(why);
	send_all();
}

static void sender_up(void *arg)
{
	(void)arg;
	link_send_copy(link, FRAME_HELLO, 0, "{}", 2);
}

static bool sender_frame(void *arg, const struct frame *frame)
{
	struct fabric_offer offer;
	struct why why;

	(void)arg;
	if (frame->type == FRAME_ACK) {
		stopped = true;
		if (by_rdma && !link_direct(link, &(uint64_t){ 0 }))
			fail("it did not go by RDMA to the end");
		tell();
	} else if (frame->type == FRAME_ACCEPT && frame->length == sizeof(offer)) {
		memcpy(&offer, frame->payload, sizeof(offer));
		if (link_join(link, TIMEOUT_NS, &offer, joined, NULL, &why))
			fail(why.text);
	} else if (by_rdma) {
		fail("the other side offers no RDMA");
	} else if (frame->length != FRAME_TOKEN_BYTES ||
		   !link_dial_lanes(link, &addr, streams, frame->payload, joined, NULL)) {
		fail("there can be no streams");
	}
	return true;
}

static void prepare(void)
{
	memory = mmap(NULL, FRAMES * FRAME_PAGES_MAX * FRAME_PAGE_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("out of memory");
	memset(memory, 0x5a, FRAMES * FRAME_PAGES_MAX * FRAME_PAGE_SIZE);
	for (unsigned int n = 0; n < FRAMES; n++) {
		struct pump_frame *f = &frames[n];

		f->data = memory + (size_t)n * FRAME_PAGES_MAX * FRAME_PAGE_SIZE;
		f->tx = (struct link_tx) {
			.iov = f->iov, .n = 2 + FRAME_PAGES_MAX, .done = frame_done,
		};
		f->desc.head.nr = FRAME_PAGES_MAX;
		f->desc.head.bytes = FRAME_PAGES_MAX * FRAME_PAGE_SIZE;
		for (unsigned int i = 0; i < FRAME_PAGES_MAX; i++)
			f->desc.pages[i] = (struct frame_page) { .bytes = FRAME_PAGE_SIZE, .page = i };
	}
}

/* ---- receiving ---- */

static bool receiver_frame(void *arg, const struct frame *frame)
{
	static uint64_t all = UINT64_MAX;
	uint8_t token[FRAME_TOKEN_BYTES];
	struct fabric_offer offer;
	struct why why;

	(void)arg;
	switch (frame->type) {
	case FRAME_EPOCH_BEGIN:
		break;
	case FRAME_PAGES:
		if (!bytes)
			began = loop_now();
		bytes += frame_get_pages(frame).bytes;
		break;
	case FRAME_HELLO:
		if (!link_offer(link, TIMEOUT_NS, &offer, &why))
			link_send_copy(link, FRAME_ACCEPT, 0, &offer, sizeof(offer));
		else if (!link_offer_lanes(link, LINK_LANES_MAX, token))
			link_send_copy(link, FRAME_ACCEPT, 0, token, sizeof(token));
		break;
	default:
		all = frame_get_end(frame).pages * FRAME_PAGE_SIZE;
		break;
	}
	if (bytes == all) {
		stopped = true;
		link_send_copy(link, FRAME_ACK, 1, NULL, 0);
		tell();
	}
	return true;
}

static void down(void *arg, const char *why)
{
	(void)arg;
	if (!stopped)
		fail(why);
}

static const struct link_handlers sender = { .up = sender_up, .frame = sender_frame, .down = down };
static const struct link_handlers receiver = { .frame = receiver_frame, .down = down };

/* What comes after the first connection is a stream of it. */
static bool stream_frame(void *arg, const struct frame *frame)
{
	struct link **stream = arg;

	if (frame->type != FRAME_JOIN || !link_adopt_lane(link, *stream, frame))
		fail("a connection that is no stream");
	return true;
}

static const struct link_handlers stream = { .frame = stream_frame, .down = down };

static void accepted(void *arg, struct link_wire *wire, const char *peer)
{
	static struct link *other;

	if (link)
		other = link_adopt(loop, arg, wire, peer, &stream, &other);
	else
		link = link_adopt(loop, arg, wire, peer, &receiver, NULL);
}

int main(int argc, char **argv)
{
	bool sends = argc > 4 && !strcmp(argv[1], "send");
	const char *key_file = argc > 4 + sends ? argv[4 + sends] : NULL;
	char *colon = argc > 3 ? strchr(argv[2], ':') : NULL;
	const struct link_ops *ops;
	struct key key;
	struct why why;

	if (colon) {
		*colon = '\0';
		streams = (unsigned int)strtoul(colon + 1, NULL, 10);
	}
	ops = argc > 3 && streams >= 1 && streams <= LINK_LANES_MAX ? link_named(argv[2]) : NULL;
	if (!ops || (!sends && strcmp(argv[1], "listen"))) {
		fprintf(stderr, "usage: pump listen tcp[:STREAMS]|rdma ADDRESS [KEY FILE]\n"
			"       pump send tcp[:STREAMS]|rdma ADDRESS SECONDS [KEY FILE]\n");
		return 2;
	}
	by_rdma = ops == &link_rdma;
	loop = loop_new();
	if (!loop)
		fail("no io_uring");
	if (!ops->resolve(argv[3], &addr, &why) || (key_file && key_load(&key, key_file, &why)))
		fail(why.text);
	addr.key = key_file ? &key : NULL;
	if (sends) {
		prepare();
		ends = strtoull(argv[4], NULL, 10) * NSEC_PER_SEC;
		link = link_connect(loop, ops, &addr, &sender, NULL, &why);
		if (!link)
			fail(why.text);
	} else if (!ops->listen(loop, &addr, accepted, (void *)(uintptr_t)ops, &why)) {
		fail(why.text);
	} else {
		printf("listening\n");
		fflush(stdout);
	}
	loop_run(loop);
	/* What was answered is on its way. */
	link_close_soon(link);
	loop_turn(loop, NSEC_PER_SEC);
	return 0;
}
