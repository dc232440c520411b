// SPDX-License-Identifier: GPL-2.0
/*
 * adapt: checkpoints of one kind of pages over a link, by one of the ways in which pages can
 * go: what the agent does with its link and its encoder, and nothing else; no VM and no
 * module. bench/adapt has links of several speeds for it.
 *
 *	adapt listen ADDRESS
 *	adapt send ADDRESS auto|always|never fresh|changed SECONDS
 *
 * fresh: pages that the other side has never seen, of a program; changed: pages of which it
 * has all but a hundredth. Sends 1024 pages, waits until they are acknowledged, sends the
 * next, and prints "CHECKPOINTS ENCODED BYTES SECONDS CPU-SECONDS": how many of them were
 * encoded, and the bytes of all on the wire. The first eight do not count: by then auto knows.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "encoder.h"
#include "link.h"
#include "pageframe.h"

#define PAGES		1024u
#define FRAMES		(PAGES / FRAME_PAGES_MAX)
/* Of fresh pages so many are there; they come again after as many checkpoints. */
#define SETS		16u
#define FIRST		8u

static struct loop *loop;
static struct link *link;
static struct link_addr addr;
static struct encoder *encoder;
static struct pageframe frames[FRAMES];
static uint8_t *rooms, *memory;
static bool changed;
static uint64_t epoch, began, ends, sent_pages, came, bytes, encoded;
static unsigned int under_way;
static bool acked;
static double cpu_before;

static void fail(const char *why)
{
	fprintf(stderr, "adapt: %s\n", why);
	exit(1);
}

/* ---- sending ---- */

/* A hundredth of each page, other bytes than before. */
static void change(uint8_t *page)
{
	for (unsigned int i = 0; i < 5; i++) {
		uint64_t noise = (epoch + i) * 0x9e3779b97f4a7c15u;

		memcpy(page + i * 800, &noise, sizeof(noise));
	}
}

static void send_one(void)
{
	uint8_t *set = memory + (changed ? 0 : epoch % SETS * PAGES * FRAME_PAGE_SIZE);
	struct frame_begin begin = { .flags = FRAME_BEGIN_STREAMS };
	bool encode;

	epoch++;
	if (changed)
		for (unsigned int i = 0; i < PAGES; i++)
			change(set + (size_t)i * FRAME_PAGE_SIZE);
	link_send_copy(link, FRAME_EPOCH_BEGIN, epoch, &begin, sizeof(begin));
	encode = encoder_pays(encoder, link_rate(link));
	encoded += encode;
	for (unsigned int f = 0; f < FRAMES; f++) {
		struct pageframe *frame = &frames[f];

		pageframe_begin(frame, encode ? rooms + f * PAGEFRAME_ROOM : NULL);
		for (unsigned int i = 0; i < FRAME_PAGES_MAX; i++) {
			unsigned int n = f * FRAME_PAGES_MAX + i;

			/* What was never seen is at a place of its own. */
			pageframe_add(frame, encoder, epoch, 0, changed ? n : epoch * PAGES + n,
				      set + (size_t)n * FRAME_PAGE_SIZE);
		}
		pageframe_end(frame);
		for (int i = 1; i < frame->tx.n; i++)
			bytes += frame->iov[i].iov_len;
		bytes += sizeof(struct frame_header);
		under_way++;
		link_send(link, &frame->tx, FRAME_PAGES, epoch);
	}
	sent_pages += PAGES;
	link_send_copy(link, FRAME_EPOCH_END, epoch,
		       &(struct frame_end) { .pages = sent_pages }, sizeof(struct frame_end));
}

static double cpu(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

static void tell(void)
{
	printf("%llu %llu %llu %.3f %.3f\n", (unsigned long long)epoch - FIRST,
	       (unsigned long long)encoded, (unsigned long long)bytes,
	       (double)(loop_now() - began) / (double)NSEC_PER_SEC, cpu() - cpu_before);
	exit(0);
}

/* The memory is used again: also what was acknowledged may still be read. */
static void next_one(void)
{
	if (!acked || under_way)
		return;
	acked = false;
	if (epoch == FIRST) {
		began = loop_now();
		ends += began;
		cpu_before = cpu();
		bytes = 0;
		encoded = 0;
	} else if (epoch > FIRST && loop_now() > ends) {
		tell();
	}
	send_one();
}

static void frame_done(struct link_tx *tx, bool whole)
{
	(void)tx;
	if (!whole)
		fail("a frame was not sent");
	under_way--;
	next_one();
}

static void joined(void *arg, const char *why)
{
	(void)arg;
	if (why)
		fail(why);
	acked = true;
	next_one();
}

static void sender_up(void *arg)
{
	(void)arg;
	link_send_copy(link, FRAME_HELLO, 0, "{}", 2);
}

static bool sender_frame(void *arg, const struct frame *frame)
{
	(void)arg;
	if (frame->type == FRAME_ACCEPT) {
		link_dial_lanes(link, &addr, 1, frame->payload, joined, NULL);
	} else if (frame->epoch == epoch) {
		acked = true;
		next_one();
	}
	return true;
}

static void prepare(void)
{
	size_t have = 0, all = (size_t)SETS * PAGES * FRAME_PAGE_SIZE;
	FILE *f = fopen("/proc/self/exe", "re");

	memory = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	rooms = mmap(NULL, FRAMES * PAGEFRAME_ROOM, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || rooms == MAP_FAILED || !f)
		fail("out of memory");
	while (have < all) {
		size_t n = fread(memory + have, 1, all - have, f);

		have += n;
		if (!n)
			rewind(f);
	}
	fclose(f);
	for (unsigned int f = 0; f < FRAMES; f++) {
		pageframe_init(&frames[f]);
		frames[f].tx.done = frame_done;
	}
}

/* ---- receiving ---- */

static bool receiver_frame(void *arg, const struct frame *frame)
{
	static uint64_t end, all;
	uint8_t token[FRAME_TOKEN_BYTES];

	(void)arg;
	if (frame->type == FRAME_HELLO) {
		if (link_offer_lanes(link, 1, token))
			fail("out of memory");
		link_send_copy(link, FRAME_ACCEPT, 0, token, sizeof(token));
	} else if (frame->type == FRAME_PAGES) {
		came += frame_get_pages(frame).nr;
	} else if (frame->type == FRAME_EPOCH_END) {
		all = frame_get_end(frame).pages;
		end = frame->epoch;
	}
	if (end && came == all) {
		link_send_copy(link, FRAME_ACK, end, NULL, 0);
		end = 0;
	}
	return true;
}

static bool stream_frame(void *arg, const struct frame *frame)
{
	if (frame->type != FRAME_JOIN || !link_adopt_lane(link, *(struct link **)arg, frame))
		fail("a connection that is no stream");
	return true;
}

static void down(void *arg, const char *why)
{
	(void)arg;
	/* The sender goes without a word. */
	if (came)
		exit(0);
	fail(why);
}

static const struct link_handlers sender = { .up = sender_up, .frame = sender_frame, .down = down };
static const struct link_handlers receiver = { .frame = receiver_frame, .down = down };
static const struct link_handlers stream = { .frame = stream_frame, .down = down };

static void accepted(void *arg, struct link_wire *wire, const char *peer)
{
	static struct link *other;

	(void)arg;
	if (link)
		other = link_adopt(loop, &link_tcp, wire, peer, &stream, &other);
	else
		link = link_adopt(loop, &link_tcp, wire, peer, &receiver, NULL);
}

int main(int argc, char **argv)
{
	static const char *const modes[] = { "auto", "always", "never" };
	bool sends = argc == 6 && !strcmp(argv[1], "send");
	enum encoder_mode mode = ENCODER_AUTO;
	struct why why;

	if (!sends && (argc != 3 || strcmp(argv[1], "listen"))) {
		fprintf(stderr, "usage: adapt listen ADDRESS\n"
			"       adapt send ADDRESS auto|always|never fresh|changed SECONDS\n");
		return 2;
	}
	loop = loop_new();
	if (!loop)
		fail("no io_uring");
	if (!link_tcp.resolve(argv[2], &addr, &why))
		fail(why.text);
	if (sends) {
		while (strcmp(modes[mode], argv[3]))
			if (++mode > ENCODER_NEVER)
				fail("a way is auto, always or never");
		changed = !strcmp(argv[4], "changed");
		prepare();
		encoder = encoder_new(mode, 64u << 20);
		ends = strtoull(argv[5], NULL, 10) * NSEC_PER_SEC;
		link = link_connect(loop, &link_tcp, &addr, &sender, NULL, &why);
		if (!encoder || !link)
			fail("out of memory");
	} else if (!link_tcp.listen(loop, &addr, accepted, NULL, &why)) {
		fail(why.text);
	} else {
		printf("listening\n");
		fflush(stdout);
	}
	loop_run(loop);
	return 0;
}
