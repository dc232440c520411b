// SPDX-License-Identifier: GPL-2.0
/*
 * census_test: what a standby tells that it holds is what is in its VM's memory, and
 * to look makes nothing there. Between the two is a link.
 *
 *	census_test [--early]
 *
 * --early: the census does not wait until the last checkpoint is in memory; the test
 * must fail then. Needs no privileges and no module.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "census.h"
#include "ends.h"
#include "pagesums.h"
#include "twin.h"

#define PAGES	1024u
#define BYTES	((size_t)PAGES * RAMBLOCK_PAGE)

enum { ANON, SHARED, ROM };

static struct ramblock_table blocks;
static struct store store;
static char key[PAGESUMS_KEY_LEN + 1];
static struct pagesums *sums;
static int taken;
static unsigned int told_frames;

static void *at(unsigned int block, uint64_t page)
{
	return (void *)(uintptr_t)(blocks.blocks[block].hva + page * RAMBLOCK_PAGE);
}

/* As an epoch is applied. */
static void put(unsigned int block, uint64_t page, int byte)
{
	uint8_t data[RAMBLOCK_PAGE];
	struct iovec local = { data, sizeof(data) };
	struct iovec remote = { at(block, page), sizeof(data) };

	memset(data, byte, sizeof(data));
	if (process_vm_writev(store.target.vm, &local, 1, &remote, 1, 0) != sizeof(data))
		tap_die("process_vm_writev: %s", strerror(errno));
}

static bool holds(unsigned int block, uint64_t page, int byte)
{
	uint8_t data[RAMBLOCK_PAGE];

	memset(data, byte, sizeof(data));
	return pagesums_holds(sums, block, page, data);
}

/* Pages that the VM's page tables have. */
static unsigned int there(unsigned int block)
{
	static uint64_t entries[PAGES];
	unsigned int n = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", store.target.vm);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (pread(fd, entries, sizeof(entries),
		  (off_t)(blocks.blocks[block].hva / RAMBLOCK_PAGE * 8)) != sizeof(entries))
		tap_die("%s: %s", path, strerror(errno));
	close(fd);
	for (unsigned int i = 0; i < PAGES; i++)
		n += entries[i] >> 62 != 0;
	return n;
}

static void take(const struct frame *frame)
{
	if (frame->type != FRAME_SUMS || taken)
		return;
	told_frames++;
	taken = pagesums_take(sums, frame);
}

/* A primary connects, and nothing is told yet. */
static struct census *begin(void)
{
	struct census *census;

	if (pagesums_draw(key))
		tap_die("getrandom: %s", strerror(errno));
	pagesums_free(sums);
	sums = pagesums_new(&blocks, key);
	taken = 0;
	told_frames = 0;
	open_both();
	near_end.show = take;
	census = census_new(loop, far_end.link, &store, &blocks, key);
	if (!sums || !census)
		tap_die("no memory");
	return census;
}

static void test_told(void)
{
	unsigned int anon = there(ANON), shared = there(SHARED);
	struct census *census = begin();

	tap_ok(UNTIL(taken) && taken == 1, "the census comes to its end");
	tap_ok(pagesums_told(sums) == anon + shared, "told are %lu pages, %u are there",
	       (unsigned long)pagesums_told(sums), anon + shared);
	tap_ok(holds(ANON, 10, 1) && holds(ANON, 1023, 2) && holds(SHARED, 700, 3),
	       "what is there is held");
	tap_ok(!holds(ANON, 10, 2) && !holds(SHARED, 700, 1), "nothing else in its place is");
	tap_ok(!holds(ANON, 11, 0) && !holds(SHARED, 0, 0) && !holds(ROM, 0, 0),
	       "of what is not there nothing is told");
	tap_ok(there(ANON) == anon && there(SHARED) == shared, "the look has made no page there");
	tap_ok(told_frames == 4, "memory that is not there costs no frame (%u)", told_frames);
	census_end(census);
	close_both();
}

/* @early: as if nothing were to be waited for. */
static void test_waits(bool early)
{
	struct census *census;

	/* All that the census asks is whether there is one. */
	store.applying = early ? NULL : (struct epoch *)&store;
	census = begin();
	for (int i = 0; i < 50; i++)
		loop_turn(loop, NSEC_PER_MSEC);
	tap_ok(!told_frames, "nothing is told while an epoch is applied");
	put(ANON, 10, 77);
	store.applying = NULL;
	tap_ok(UNTIL(taken) && holds(ANON, 10, 77) && !holds(ANON, 10, 1),
	       "what it has put there is what is told");
	put(ANON, 10, 1);
	census_end(census);
	close_both();
}

static void test_ends(void)
{
	struct census *census = begin();

	census_end(census);
	for (int i = 0; i < 50; i++)
		loop_turn(loop, NSEC_PER_MSEC);
	tap_ok(!told_frames, "ended before it began, it tells nothing");
	close_both();
	census = begin();
	tap_ok(UNTIL(told_frames), "ended in the middle of it");
	census_end(census);
	for (int i = 0; i < 50; i++)
		loop_turn(loop, NSEC_PER_MSEC);
	tap_ok(!taken, "it tells no end");
	close_both();
	census = begin();
	link_close(far_end.link);
	census_end(census);
	tap_ok(UNTIL(far_end.closed), "its link is closed first");
	close_both();
	census = begin();
	/* The standby's QEMU is gone: not a word about its pages. */
	kill(store.target.vm, SIGKILL);
	waitpid(store.target.vm, NULL, 0);
	tap_ok(UNTIL(taken) && !pagesums_told(sums), "a VM that has ended holds nothing");
	census_end(census);
	close_both();
}

static void test_keys(void)
{
	char other[PAGESUMS_KEY_LEN + 2];
	struct pagesums_key *a, *b;
	uint8_t page[RAMBLOCK_PAGE] = { 1 };
	struct frame_sum x, y;
	unsigned int tries, same = 0;

	pagesums_draw(key);
	pagesums_draw(other);
	a = pagesums_key_new(key);
	b = pagesums_key_new(other);
	if (!tap_ok(a && b && strcmp(key, other), "a key is drawn, and another one"))
		tap_die("no keys");
	x = pagesums_of(a, page);
	y = pagesums_of(b, page);
	tap_ok(x.low != y.low && x.high != y.high, "a page has another sum with another key");
	y = pagesums_of(a, page);
	tap_ok(x.low == y.low && x.high == y.high, "and the same with the same");
	/* What a multiplicative hash that is not proven takes for the same, now and then. */
	for (tries = 0; tries < 1000; tries++) {
		page[7] ^= 0x80;
		page[71] ^= 0x80;
		y = pagesums_of(a, page);
		same += x.low == y.low || x.high == y.high;
		x = y;
	}
	tap_ok(!same, "two bits that change make another sum, both halves of it");
	pagesums_key_free(a);
	pagesums_key_free(b);
	other[PAGESUMS_KEY_LEN - 1] = 'g';
	tap_ok(!pagesums_key_new(other), "no digit: no key");
	memcpy(other, key, sizeof(key));
	strcat(other, "0");
	tap_ok(!pagesums_key_new(other) && !pagesums_key_new(key + 1) && !pagesums_key_new(""),
	       "too long, too short, empty: no key");
	tap_ok(!census_new(loop, NULL, &store, &blocks, other), "no census without a key");
}

/* What frame_parse() cannot know. */
static void test_wild(void)
{
	static const struct frame_sums wild[] = {
		{ .block = 3, .nr = 1 }, { .block = UINT32_MAX, .nr = 1 },
		{ .block = ROM, .nr = 1 },
		{ .page = PAGES, .nr = 1 }, { .page = PAGES - 1, .nr = 2 },
		{ .page = UINT64_MAX, .nr = 1 },
	};
	struct { struct frame_sums head; struct frame_sum sums[2]; } payload = { 0 };
	struct frame frame = { .type = FRAME_SUMS, .payload = (uint8_t *)&payload };
	unsigned int refused = 0, i;

	pagesums_free(sums);
	sums = pagesums_new(&blocks, key);
	for (i = 0; i < sizeof(wild) / sizeof(*wild); i++) {
		payload.head = wild[i];
		frame.length = sizeof(payload.head) + wild[i].nr * sizeof(payload.sums[0]);
		refused += pagesums_take(sums, &frame) == -EPROTO;
	}
	tap_ok(refused == i, "sums of pages that are not: refused (%u of %u)", refused, i);
	payload.head = (struct frame_sums){ .page = PAGES - 2, .nr = 2 };
	frame.length = sizeof(payload);
	tap_ok(!pagesums_take(sums, &frame) && pagesums_position(sums) == PAGES &&
	       pagesums_pages(sums) == 2 * PAGES, "those of the last ones are taken");
	tap_ok(!pagesums_told(sums), "a sum of zeros tells nothing");
}

int main(int argc, char **argv)
{
	bool early = argc > 1 && !strcmp(argv[1], "--early");
	int fd = memfd_create("shared", MFD_CLOEXEC);
	unsigned int i;

	if (argc > 2 || (argc == 2 && !early))
		tap_die("usage: census_test [--early]");
	if (fd < 0 || ftruncate(fd, BYTES))
		tap_die("memfd: %s", strerror(errno));
	for (i = ANON; i <= SHARED; i++) {
		void *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
			       i == SHARED ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
			       i == SHARED ? fd : -1, 0);

		if (p == MAP_FAILED ||
		    ramblock_add(&blocks, i == SHARED ? "shared" : "anon", BYTES, true) != (int)i)
			tap_die("mmap: %s", strerror(errno));
		madvise(p, BYTES, MADV_NOHUGEPAGE);
		blocks.blocks[i].hva = (uintptr_t)p;
	}
	ramblock_add(&blocks, "rom", RAMBLOCK_PAGE, false);
	loop = loop_new();
	if (!loop)
		tap_die("io_uring: %s", strerror(errno));
	open_door(NULL);
	store.target.vm = make_vm();
	put(ANON, 10, 1);
	put(ANON, 12, 1);
	put(ANON, 1023, 2);
	put(SHARED, 700, 3);
	test_keys();
	test_told();
	test_waits(early);
	test_wild();
	test_ends();
	pagesums_free(sums);
	ramblock_free(&blocks);
	link_tcp.unlisten(door);
	loop_free(loop);
	close(fd);
	return tap_done();
}
