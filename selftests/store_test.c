// SPDX-License-Identifier: GPL-2.0
/*
 * store_test: when the standby has something to run, and what its memory is then.
 *
 *	store_test
 *
 * The "VM" is this process: its memory is written the way a QEMU's is. With
 * VMREPL_DEBUG_BREAK=apply-early the test fails. Needs no privileges, no module.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "codec.h"
#include "feed.h"
#include "store.h"
#include "tap.h"

#define PAGES	2048u

static uint8_t *ram;
static struct loop *loop;
static struct store store;
static struct hello next;
static struct frame_digest digest;
static struct inbox in;
static struct frame_end totals;
static unsigned int rooms;

static void on_room(void *arg)
{
	(void)arg;
	rooms++;
}

static void on_broken(void *arg, const struct why *why)
{
	(void)arg;
	tap_die("the memory cannot be written: %s", why->text);
}

/* A primary with a guest RAM block and a small one connects. */
static void connected(void)
{
	hello_free(&next);
	ramblock_init(&next.blocks);
	if (ramblock_add(&next.blocks, "pc.ram", PAGES * FRAME_PAGE_SIZE, true) != 0 ||
	    ramblock_add(&next.blocks, "pc.bios", 4 * FRAME_PAGE_SIZE, false) != 1)
		tap_die("no memory");
	next.blocks.blocks[0].hva = (uintptr_t)ram;
	next.ram_bytes = PAGES * FRAME_PAGE_SIZE;
	store_connected(&store);
}

static enum store_verdict show(enum frame_type type, uint64_t epoch, const void *payload,
			       size_t len)
{
	static uint8_t buf[FRAME_MAX];
	struct iovec iov = { (void *)(uintptr_t)payload, len };
	enum store_verdict verdict;
	struct frame_header head;
	struct frame frame;
	const char *fault;
	struct why why;

	frame_digest_add(&digest, type, frame_seal(&head, type, epoch, in.seq, &iov, 1));
	memcpy(buf, &head, sizeof(head));
	memcpy(buf + sizeof(head), payload, len);
	if (feed_frame(&in, buf, sizeof(head) + len, &frame, &fault) <= 0)
		tap_die("the test makes wrong frames: %s", fault);
	verdict = store_frame(&store, &frame, &next, &why);
	inbox_pass(&in, sizeof(head) + len);
	if (verdict == STORE_REFUSED)
		tap_note("refused: %s", why.text);
	return verdict;
}

static enum store_verdict begin(uint64_t epoch, bool live)
{
	struct frame_begin payload = { .flags = live ? FRAME_BEGIN_LIVE : 0 };

	memset(&digest, 0, sizeof(digest));
	memset(&totals, 0, sizeof(totals));
	return show(FRAME_EPOCH_BEGIN, epoch, &payload, sizeof(payload));
}

/* @nr pages of @block from 0 on, filled with @byte. */
static enum store_verdict pages(uint64_t epoch, uint32_t block, uint32_t nr, int byte)
{
	static uint8_t payload[FRAME_PAYLOAD_MAX];
	enum store_verdict verdict = STORE_MORE;
	uint64_t first = 0;

	while (nr && verdict == STORE_MORE) {
		struct frame_pages head = { .nr = nr < FRAME_PAGES_MAX ? nr : FRAME_PAGES_MAX };
		size_t descs = sizeof(head) + head.nr * sizeof(struct frame_page);
		uint32_t i;

		head.bytes = head.nr * FRAME_PAGE_SIZE;
		for (i = 0; i < head.nr; i++) {
			struct frame_page page = {
				.block = block, .bytes = FRAME_PAGE_SIZE, .page = first + i,
			};

			memcpy(payload + sizeof(head) + i * sizeof(page), &page, sizeof(page));
		}
		memcpy(payload, &head, sizeof(head));
		memset(payload + descs, byte, (size_t)head.nr * FRAME_PAGE_SIZE);
		totals.pages += head.nr;
		verdict = show(FRAME_PAGES, epoch, payload,
			       descs + (size_t)head.nr * FRAME_PAGE_SIZE);
		first += head.nr;
		nr -= head.nr;
	}
	return verdict;
}

/* FRAME_END_* of the next end(). */
static uint32_t end_flags;

#define STATE_BYTES	64u

/* The state of epoch @epoch, all of the same byte; compared with that of @base, if any. */
static enum store_verdict state(uint64_t epoch, uint64_t base)
{
	uint8_t bytes[STATE_BYTES], before[STATE_BYTES], differs[STATE_BYTES];
	struct { struct frame_state head; uint8_t data[STATE_BYTES]; } payload = {
		.head = { .kind = base ? FRAME_STATE_DELTA : FRAME_STATE_LZ4, .bytes = STATE_BYTES },
	};
	size_t n;

	memset(bytes, (int)epoch, sizeof(bytes));
	memset(before, (int)base, sizeof(before));
	n = codec_state(bytes, base ? before : NULL, STATE_BYTES, differs, payload.data);
	totals.state_bytes += STATE_BYTES;
	return show(FRAME_STATE, epoch, &payload, sizeof(payload.head) + n);
}

static bool state_is(uint64_t epoch)
{
	size_t i;

	for (i = 0; i < store.state.len && store.state.data[i] == (uint8_t)epoch; i++)
		;
	return store.state.len == STATE_BYTES && i == STATE_BYTES;
}

static enum store_verdict end(uint64_t epoch, bool live)
{
	totals.flags = end_flags;
	if (!live && !totals.state_bytes)
		state(epoch, 0);
	totals.digest = frame_digest_value(&digest);
	return show(FRAME_EPOCH_END, epoch, &totals, sizeof(totals));
}

static enum store_verdict whole(uint64_t epoch, bool live, uint32_t nr, int byte)
{
	enum store_verdict verdict = begin(epoch, live);

	if (verdict != STORE_MORE)
		return verdict;
	pages(epoch, 0, nr, byte);
	return end(epoch, live);
}

/* The RAM: the first @nr pages are @byte, the rest @rest. */
static bool ram_is(uint32_t nr, int byte, int rest)
{
	size_t i;

	for (i = 0; i < (size_t)PAGES * FRAME_PAGE_SIZE; i++)
		if (ram[i] != (i < (size_t)nr * FRAME_PAGE_SIZE ? byte : rest))
			return false;
	return true;
}

static void settle(void)
{
	while (!store_applied(&store))
		loop_turn(loop, NSEC_PER_SEC);
}

static void test_order(void)
{
	connected();
	tap_ok(pages(1, 0, 1, 1) == STORE_REFUSED && ram_is(0, 0, 0),
	       "pages before any epoch are refused");
	connected();
	tap_ok(begin(1, false) == STORE_REFUSED, "a checkpoint before the first sync is refused");
	connected();
	tap_ok(whole(1, true, PAGES, 10) == STORE_SYNCED && ram_is(PAGES, 10, 0) && !store.valid,
	       "the first sync is applied and is nothing to run");
	tap_ok(begin(1, true) == STORE_REFUSED, "an epoch that does not go up is refused");
	store_disconnected(&store);
}

static void test_commit(void)
{
	struct why why;

	connected();
	whole(1, true, PAGES, 20);
	begin(2, false);
	pages(2, 0, 300, 30);
	pages(2, 1, 4, 31);
	tap_ok(!store.valid && ram_is(PAGES, 20, 0), "a checkpoint on its way changes nothing");
	tap_ok(end(2, false) == STORE_COMMITTED && store.valid && store.number == 2 &&
	       state_is(2), "whole, it is committed");
	settle();
	tap_ok(ram_is(300, 30, 20), "and applied from the loop");
	tap_ok(store.theirs.blocks.blocks[1].copy[4 * FRAME_PAGE_SIZE - 1] == 31,
	       "a small block goes into its copy");

	tap_ok(!store.stands, "its guest would be run");

	begin(3, false);
	pages(3, 0, PAGES, 40);
	store_disconnected(&store);
	tap_ok(store.valid && store.number == 2 && state_is(2) &&
	       ram_is(300, 30, 20), "a connection cut in the next one leaves it as it was");
	tap_ok(!store_finish(&store, &why) && ram_is(300, 30, 20), "also when it is run then");

	connected();
	whole(1, true, PAGES, 20);
	end_flags = FRAME_END_STANDS;
	tap_ok(whole(2, false, 4, 30) == STORE_COMMITTED && store.stands,
	       "one of a guest that somebody had stopped: it would stand");
	end_flags = 0;
	tap_ok(whole(3, false, 4, 31) == STORE_COMMITTED && !store.stands,
	       "one after it was let run: it would run");
	settle();
	store_disconnected(&store);
}

static void test_wrong(void)
{
	store_forget(&store);
	connected();
	whole(1, true, PAGES, 50);
	whole(2, false, 100, 51);
	settle();
	begin(3, false);
	pages(3, 0, 200, 52);
	totals.pages++;
	tap_ok(end(3, false) == STORE_REFUSED && store.valid && store.number == 2 &&
	       ram_is(100, 51, 50), "wrong totals: refused, the one before stays");
	store_disconnected(&store);
	tap_ok(store.valid, "and stays");
}

static void test_again(void)
{
	connected();
	tap_ok(store.valid && store.number == 2, "a new connection leaves the checkpoint alone");
	begin(1, true);
	tap_ok(!store.valid, "its first round ends it: there is nothing to run");
	pages(1, 0, PAGES, 60);
	store_disconnected(&store);
	tap_ok(!store.valid, "cut in that round there still is not");
	connected();
	whole(1, true, PAGES, 61);
	whole(2, false, 10, 62);
	tap_ok(store.valid && store.number == 2, "the next whole checkpoint brings it back");
	store_forget(&store);
	tap_ok(!store.valid, "a goodbye ends it, too");
	settle();
	store_disconnected(&store);
}

static void test_behind(void)
{
	struct why why;

	connected();
	whole(1, true, PAGES, 70);
	rooms = 0;
	tap_ok(whole(2, false, PAGES, 71) == STORE_COMMITTED &&
	       whole(3, false, 1000, 72) == STORE_COMMITTED && store.number == 3,
	       "a second checkpoint while the first is being applied");
	tap_ok(whole(4, false, 10, 73) == STORE_LATER, "a third has to wait");
	tap_ok(!store_finish(&store, &why) && ram_is(1000, 72, 71) && state_is(3),
	       "run then: both are applied, in order");
	whole(4, false, PAGES, 74);
	whole(5, false, PAGES, 75);
	while (!rooms)
		loop_turn(loop, NSEC_PER_SEC);
	tap_ok(begin(6, false) == STORE_MORE, "there is room when one is applied");
	settle();
	tap_ok(ram_is(PAGES, 75, 0), "and the loop goes on with the other");
	store_disconnected(&store);
}

/* What differs in device state differs from the last checkpoint of this connection. */
static void test_state(void)
{
	connected();
	whole(1, true, PAGES, 80);
	tap_ok(begin(2, false) == STORE_MORE && state(2, 5) == STORE_REFUSED,
	       "before the first checkpoint of a connection nothing can differ in its state");
	store_disconnected(&store);

	connected();
	whole(1, true, PAGES, 80);
	whole(2, false, 10, 81);
	begin(3, false);
	pages(3, 0, 10, 82);
	state(3, 2);
	tap_ok(end(3, false) == STORE_COMMITTED && state_is(3), "after it, it is that one's");
	settle();
	begin(4, false);
	pages(4, 0, 10, 83);
	end_flags = FRAME_END_TORN;
	totals.flags = end_flags;
	totals.digest = frame_digest_value(&digest);
	tap_ok(show(FRAME_EPOCH_END, 4, &totals, sizeof(totals)) == STORE_DROPPED && state_is(3),
	       "a torn one leaves it alone");
	end_flags = 0;
	begin(5, false);
	pages(5, 0, 10, 84);
	state(5, 3);
	tap_ok(end(5, false) == STORE_COMMITTED && state_is(5), "and the next is still compared with it");
	settle();
	store_disconnected(&store);
}

int main(void)
{
	const char *debug = getenv("VMREPL_DEBUG_BREAK");
	bool early = debug && !strcmp(debug, "apply-early");
	struct why why;

	ram = mmap(NULL, (size_t)PAGES * FRAME_PAGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	loop = loop_new();
	if (ram == MAP_FAILED || !loop)
		tap_die("no memory, or no io_uring");
	store.room = on_room;
	store.broken = on_broken;
	ramblock_init(&next.blocks);
	if (!inbox_open(&in))
		tap_die("no memory");
	if (store_open(&store, loop, getpid(), 0, early, &why))
		tap_die("%s", why.text);
	test_order();
	test_commit();
	test_wrong();
	test_again();
	test_behind();
	test_state();
	store_close(&store);
	hello_free(&next);
	loop_free(loop);
	munmap(ram, (size_t)PAGES * FRAME_PAGE_SIZE);
	return tap_done();
}
