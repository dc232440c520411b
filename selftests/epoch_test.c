// SPDX-License-Identifier: GPL-2.0
/*
 * epoch_test: the standby's memory is always that of some whole epoch (I2).
 *
 *	epoch_test
 *
 * A stream of one epoch after a committed one is cut at every byte, has every byte
 * damaged, and has frames left out, doubled, swapped and forged; each time the
 * memory must be what it was. With VMREPL_DEBUG_BREAK=apply-early, which breaks
 * that on purpose, the test fails. Needs no privileges and no module.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "epoch.h"
#include "feed.h"
#include "sent.h"
#include "tap.h"

static const uint64_t shape_pages[BLOCKS] = { PAGES, PAGES };
static struct epoch_shape shape = {
	.nr_blocks = BLOCKS,
	.pages = shape_pages,
	.max_bytes = STREAM_MAX,
};
static struct memory vm, after;
static struct inbox in;
static struct epoch *epoch;
static struct epoch_state state;

static int apply(void *arg, const struct epoch_page *pages, unsigned int nr, struct why *why)
{
	struct memory *memory = arg;
	unsigned int i;

	(void)why;
	for (i = 0; i < nr; i++) {
		uint8_t *to = memory->byte[pages[i].block][pages[i].page];

		if (pages[i].data)
			memcpy(to, pages[i].data, FRAME_PAGE_SIZE);
		else
			memset(to, 0, FRAME_PAGE_SIZE);
	}
	return 0;
}

static int vm_read(void *arg, uint32_t block, uint64_t page, void *data, struct why *why)
{
	const struct memory *memory = arg;

	(void)why;
	memcpy(data, memory->byte[block][page], FRAME_PAGE_SIZE);
	return 0;
}

/* ---- a standby ---- */

/*
 * What standby.c does with the bytes of a connection: returns how many epochs were
 * committed and applied, or -1 where the stream was refused.
 */
static int receive(const uint8_t *byte, size_t len)
{
	int committed = 0;
	ssize_t n = 0;

	in.seq = 0;
	while (committed >= 0 && n >= 0 && (len || n)) {
		struct frame frame;
		struct why why;
		const char *fault;
		int ret;

		if (len)
			feed(&in, &byte, &len);
		n = inbox_empty(&in) ? 0 : inbox_look(&in, &frame, &fault);
		if (n <= 0)
			continue;
		ret = epoch_add(epoch, &frame, &why);
		inbox_pass(&in, (size_t)n);
		if (ret < 0) {
			committed = -1;
		} else if (ret > 0) {
			epoch_swap_state(epoch, &state);
			while (epoch_apply(epoch, 2, &why) > 0)
				;
			epoch_reset(epoch);
			committed++;
		}
	}
	if (n < 0)
		committed = -1;
	inbox_drop(&in);
	/* The connection is gone: what was collected goes with it. */
	epoch_reset(epoch);
	return committed;
}

static bool unchanged(void)
{
	return !memcmp(&vm, &before, sizeof(vm)) && state.len == STATE_BYTES + 1000 &&
	       state.data[0] == 1;
}

/* A refused stream; afterwards the memory is made right for the next test. */
static void refused(const struct stream *s, const char *what)
{
	int ret = receive(s->byte, s->len);

	tap_ok(ret == -1 && unchanged(), "%s: refused, nothing changed", what);
	vm = before;
}

static void test_cut(const struct stream *s)
{
	unsigned int i, wrong = 0;
	size_t n;

	for (i = 0; i < s->nr; i++)
		if (receive(s->byte, s->at[i]) != 0 || !unchanged()) {
			vm = before;
			wrong++;
		}
	tap_ok(!wrong, "cut at each of %u frame boundaries: nothing changed", i);

	for (n = 0, wrong = 0; n < s->len; n++)
		if (receive(s->byte, n) != 0 || !unchanged()) {
			vm = before;
			wrong++;
		}
	tap_ok(!wrong, "cut at each of %zu bytes: nothing changed", n);
}

static void test_damaged(struct stream *s)
{
	size_t n, wrong = 0;

	for (n = 0; n < s->len; n++) {
		s->byte[n] ^= (uint8_t)(1u << n % 8);
		if (receive(s->byte, s->len) > 0 || !unchanged()) {
			vm = before;
			wrong++;
		}
		s->byte[n] ^= (uint8_t)(1u << n % 8);
	}
	tap_ok(!wrong, "each of %zu bytes damaged: nothing changed", n);
}

/* The same frames in another order, numbered anew so that only the epoch is wrong. */
static void reorder(struct stream *to, const struct stream *from, const unsigned int *order,
		    unsigned int nr)
{
	unsigned int i;

	stream_reset(to, from->epoch);
	for (i = 0; i < nr; i++) {
		const uint8_t *byte = from->byte + from->at[order[i]];
		size_t len = from->at[order[i] + 1] - from->at[order[i]];
		struct frame_header head;

		memcpy(&head, byte, sizeof(head));
		stream_put(to, (enum frame_type)head.type, byte + sizeof(head),
			   len - sizeof(head));
	}
}

/* Well-formed but for what is compressed: found when it comes, not when it is applied. */
static void test_undecodable(void)
{
	struct frame_page page = { .page = 1, .bytes = 100 };
	struct frame_pages head = { .nr = 1, .bytes = 100 };
	uint8_t payload[sizeof(head) + sizeof(page) + 100];
	static struct stream s;

	memset(payload, 0x77, sizeof(payload));
	memcpy(payload, &head, sizeof(head));
	for (page.kind = FRAME_PAGE_LZ4; page.kind <= FRAME_PAGE_DELTA; page.kind++) {
		memcpy(payload + sizeof(head), &page, sizeof(page));
		stream_reset(&s, 2);
		stream_begin(&s, 0);
		stream_put(&s, FRAME_PAGES, payload, sizeof(payload));
		refused(&s, page.kind == FRAME_PAGE_LZ4 ? "a page that is no LZ4" :
			"a difference that is no LZ4");
	}
}

/* The state of @n bytes is @seed everywhere. */
static bool state_is(size_t n, int seed)
{
	size_t i;

	for (i = 0; i < state.len && state.data[i] == (uint8_t)seed; i++)
		;
	return state.len == n && i == n;
}

static void test_state_undecodable(void)
{
	uint8_t payload[sizeof(struct frame_state) + 100];
	struct frame_state head = { .bytes = 1000 };
	static struct stream s;

	memset(payload, 0x77, sizeof(payload));
	for (head.kind = FRAME_STATE_LZ4; head.kind <= FRAME_STATE_DELTA; head.kind++) {
		memcpy(payload, &head, sizeof(head));
		stream_reset(&s, 2);
		stream_begin(&s, 0);
		stream_put(&s, FRAME_STATE, payload, sizeof(payload));
		refused(&s, head.kind == FRAME_STATE_LZ4 ? "state that is no LZ4" :
			"a difference of state that is no LZ4");
	}
	stream_reset(&s, 2);
	stream_begin(&s, 0);
	stream_state(&s, 9, 1000);
	stream_state_coded(&s, 9, STATE_BYTES, state.data + 1000);
	stream_state_coded(&s, 9, 100, state.data);
	refused(&s, "a difference of state behind its end");
	epoch_compare_state(epoch, NULL);
	stream_reset(&s, 2);
	stream_begin(&s, 0);
	stream_state_coded(&s, 9, 1000, state.data);
	refused(&s, "a difference of state that was never sent");
	epoch_compare_state(epoch, &state);
}

/* After a checkpoint whose state is all 100: one that differs, one that is longer. */
static void test_state(void)
{
	static struct stream s;

	stream_reset(&s, 3);
	stream_begin(&s, 0);
	stream_state_coded(&s, 101, STATE_BYTES, state.data);
	stream_state_coded(&s, 101, 1000, state.data + STATE_BYTES);
	stream_end(&s);
	tap_ok(receive(s.byte, s.len) == 1 && state_is(STATE_BYTES + 1000, 101),
	       "what differs in device state is the state");
	stream_reset(&s, 4);
	stream_begin(&s, 0);
	stream_state_coded(&s, 102, STATE_BYTES, state.data);
	stream_state(&s, 102, STATE_BYTES);
	stream_state_coded(&s, 102, STATE_BYTES, NULL);
	stream_end(&s);
	tap_ok(receive(s.byte, s.len) == 1 && state_is(3 * STATE_BYTES, 102),
	       "also where it has become longer");
}

static void test_forged(const struct stream *good)
{
	static const unsigned int left_out[] = { 0, 1, 3, 4, 5, 6 };
	static const unsigned int doubled[] = { 0, 1, 2, 2, 3, 4, 5, 6 };
	static const unsigned int swapped[] = { 0, 2, 1, 3, 4, 5, 6 };
	static const unsigned int begins_twice[] = { 0, 0, 1, 2, 3, 4, 5, 6 };
	static const unsigned int no_begin[] = { 1, 2, 3, 4, 5, 6 };
	static struct stream s;

	reorder(&s, good, left_out, 6);
	refused(&s, "a frame left out");
	reorder(&s, good, doubled, 8);
	refused(&s, "a frame doubled");
	reorder(&s, good, swapped, 7);
	refused(&s, "two frames swapped");
	reorder(&s, good, begins_twice, 8);
	refused(&s, "an epoch within an epoch");
	reorder(&s, good, no_begin, 6);
	refused(&s, "pages outside any epoch");

	stream_reset(&s, 2);
	stream_begin(&s, 0);
	stream_pages(&s, 0, 0, 4, 9);
	stream_pages(&s, 0, PAGES - 1, 2, 9);
	refused(&s, "a page behind the block's end");
	stream_reset(&s, 2);
	stream_begin(&s, 0);
	stream_pages(&s, 0, 0, 4, 9);
	stream_pages(&s, BLOCKS, 0, 1, 9);
	refused(&s, "a block that is not there");
	stream_reset(&s, 2);
	stream_begin(&s, 0);
	stream_pages(&s, 0, UINT64_MAX / FRAME_PAGE_SIZE, 1, 9);
	refused(&s, "a page number that overflows");
	stream_reset(&s, 2);
	stream_begin(&s, 0);
	stream_pages(&s, 0, 0, 4, 9);
	stream_end(&s);
	refused(&s, "no device state");
	stream_reset(&s, 2);
	stream_begin(&s, 0);
	stream_pages(&s, 0, 0, 4, 9);
	s.epoch = 3;
	stream_state(&s, 9, 10);
	refused(&s, "a frame of another epoch");
	stream_reset(&s, 0);
	stream_begin(&s, 0);
	refused(&s, "epoch 0");

	test_undecodable();
	test_state_undecodable();
	shape.max_bytes = 3 * FRAME_PAGE_SIZE;
	stream_epoch(&s, 2, 9);
	refused(&s, "an epoch over the limit");
	shape.max_bytes = STREAM_MAX;
}

static size_t mapped_pages(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	size_t pages;

	if (!f || fscanf(f, "%zu", &pages) != 1)
		tap_die("cannot read /proc/self/statm");
	fclose(f);
	return pages;
}

/* Memory of frames that nobody has any more, beyond what was reserved. */
static void test_given_back(void)
{
	static struct stream s;
	size_t before, pages;

	inbox_free(&in);
	landing_reserve(0);
	before = mapped_pages();
	if (!inbox_open(&in))
		tap_die("no memory");
	stream_epoch(&s, 5, 1);
	if (receive(s.byte, s.len) != 1)
		tap_die("an epoch is refused");
	pages = mapped_pages();
	inbox_free(&in);
	tap_ok(pages > before && mapped_pages() + LANDING_MAP / 4096 <= pages,
	       "memory beyond what was reserved is given back");
}

/* The same as reorder(), but the end says what was sent in that order. */
static void shuffle(struct stream *to, const struct stream *from, const unsigned int *order,
		    unsigned int nr)
{
	struct frame_digest digest = { .streams = true };
	struct frame_header head;
	unsigned int i;

	reorder(to, from, order, nr);
	for (i = 0; i < nr; i++) {
		memcpy(&head, to->byte + to->at[i], sizeof(head));
		if (head.type != FRAME_EPOCH_END)
			frame_digest_add(&digest, (enum frame_type)head.type, head.checksum);
	}
	for (i = 0; i < nr; i++) {
		uint8_t *byte = to->byte + to->at[i];
		struct frame_end end = from->end;
		struct iovec iov = { &end, sizeof(end) };

		memcpy(&head, byte, sizeof(head));
		if (head.type != FRAME_EPOCH_END)
			continue;
		end.digest = frame_digest_value(&digest);
		frame_seal(&head, FRAME_EPOCH_END, head.epoch, head.seq, &iov, 1);
		memcpy(byte, &head, sizeof(head));
		memcpy(byte + sizeof(head), &end, sizeof(end));
	}
}

/* Little that is kept of much that has come. */
static void test_held(void)
{
	struct {
		struct frame_pages head;
		struct frame_page page;
	} payload = { { .nr = 1 }, { .kind = FRAME_PAGE_ZERO } };
	static struct landing *landings[64];
	struct frame_begin begin = { 0 };
	struct frame frame = {
		.type = FRAME_EPOCH_BEGIN, .epoch = 7, .payload = (uint8_t *)&begin,
		.length = sizeof(begin),
	};
	struct why why;
	unsigned int n;

	epoch_add(epoch, &frame, &why);
	for (n = 0; n < 64; n++) {
		landings[n] = landing_get();
		memcpy(landings[n]->data, &payload, sizeof(payload));
		frame = (struct frame) {
			.type = FRAME_PAGES, .epoch = 7, .payload = landings[n]->data,
			.length = sizeof(payload), .landing = landings[n],
		};
		if (epoch_add(epoch, &frame, &why))
			break;
	}
	tap_ok(n < 32, "%u pages that keep %u MiB: refused: %s", n, n * (LANDING_MAP >> 20),
	       n < 64 ? why.text : "");
	epoch_reset(epoch);
	for (; n < 64; n--)
		landing_put(landings[n]);
}

/* Pages that come by other connections: before, between and behind what comes on this one. */
static void test_streams(void)
{
	static const unsigned int late[] = { 0, 3, 1, 5, 4, 6, 2 };
	static const unsigned int missing[] = { 0, 1, 3, 4, 5, 6 };
	static const unsigned int behind[] = { 0, 1, 2, 4, 5, 6, 3 };
	static const unsigned int again[] = { 0, 1, 2, 3, 5, 6, 6, 4 };
	static const unsigned int more[] = { 0, 1, 1, 2, 3, 4, 5, 6 };
	static struct stream good, s;
	static struct memory right;

	before = vm;
	stream_reset(&good, 6);
	stream_begin(&good, FRAME_BEGIN_STREAMS);
	stream_pages(&good, 0, 0, 1, 30);
	stream_pages(&good, 1, 3, 4, 30);
	stream_state(&good, 30, 1000);
	stream_pages(&good, 0, 10, 4, 30);
	stream_state(&good, 31, STATE_BYTES);
	stream_end(&good);
	if (receive(good.byte, good.len) != 1)
		tap_die("an epoch with streams is refused");
	right = vm;
	vm = before;

	shuffle(&s, &good, missing, 6);
	tap_ok(!receive(s.byte, s.len) && !memcmp(&vm, &before, sizeof(vm)),
	       "its end without some of its pages commits nothing");
	shuffle(&s, &good, late, 7);
	tap_ok(receive(s.byte, s.len) == 1 && !memcmp(&vm, &right, sizeof(vm)),
	       "the last of them does, behind the end");
	before = vm;
	shuffle(&s, &good, behind, 7);
	tap_ok(receive(s.byte, s.len) == -1, "device state behind the end: refused");
	vm = before;
	shuffle(&s, &good, again, 8);
	tap_ok(receive(s.byte, s.len) == -1, "two ends: refused");
	vm = before;
	shuffle(&s, &good, more, 8);
	tap_ok(receive(s.byte, s.len) == -1, "more pages than it says: refused");
	vm = before;
	good.byte[good.at[1] + 20] ^= 1;
	tap_ok(receive(good.byte, good.len) == -1, "another page than was sent: refused");
	vm = before;
}

int main(void)
{
	const char *debug = getenv("VMREPL_DEBUG_BREAK");
	bool early = debug && !strcmp(debug, "apply-early");
	static struct stream first, second, live;
	unsigned int rounds;
	uint64_t bytes;

	epoch = epoch_new(&shape, apply, vm_read, &vm, early);
	if (!epoch || landing_reserve(1 << 20) || !inbox_open(&in))
		tap_die("no memory");
	epoch_compare_state(epoch, &state);

	/* Rounds of a first sync are applied as they come: nothing to protect yet. */
	stream_reset(&live, 1);
	stream_begin(&live, FRAME_BEGIN_LIVE);
	stream_pages(&live, 0, 0, PAGES, 50);
	bytes = live.len;
	stream_end(&live);
	receive(live.byte, bytes);
	tap_ok(vm.byte[0][0][0] == 50, "a live round is applied as it comes");
	tap_ok(receive(live.byte, live.len) == 1, "a live round is acknowledged as a whole");

	stream_epoch(&first, 1, 1);
	tap_ok(receive(first.byte, first.len) == 1, "a whole epoch is committed");
	before = vm;
	stream_epoch(&second, 2, 100);

	test_cut(&second);
	test_damaged(&second);
	test_forged(&second);

	tap_ok(unchanged(), "the memory is still that of the first epoch");
	for (rounds = 0; rounds < 3; rounds++) {
		/* What it is compared with. */
		vm = before;
		if (receive(second.byte, second.len) != 1)
			break;
	}
	after = before;
	memset(after.byte[0][0], 100, FRAME_PAGE_SIZE);
	memset(after.byte[1][3], 100 + PAGES + 3, FRAME_PAGE_SIZE);
	memset(after.byte[1][4], 0, FRAME_PAGE_SIZE);
	memset(after.byte[1][5], 100 + PAGES + 5, FRAME_PAGE_SIZE);
	memset(after.byte[1][6], 100 + PAGES + 6, FRAME_PAGE_SIZE);
	memset(after.byte[1][7], 100 + PAGES + 7, FRAME_PAGE_SIZE);
	memset(after.byte[0][10], 110, FRAME_PAGE_SIZE);
	memset(after.byte[0][11], 0, FRAME_PAGE_SIZE);
	memset(after.byte[0][12], 112, FRAME_PAGE_SIZE);
	memset(after.byte[0][13], 113, FRAME_PAGE_SIZE);
	tap_ok(rounds == 3 && !memcmp(&vm, &after, sizeof(vm)) &&
	       state_is(STATE_BYTES + 1000, 100),
	       "the whole second epoch makes exactly its memory and state");
	test_state();
	test_streams();
	test_held();
	test_given_back();
	epoch_free(epoch);
	return tap_done();
}
