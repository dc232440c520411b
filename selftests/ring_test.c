// SPDX-License-Identifier: GPL-2.0
/*
 * The ring when the agent is slow, absent, wrong or hostile. Whatever it does,
 * the guest goes on and the module is fine for the next session.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		3000UL
#define SCRIBBLES	5

static uint64_t head_of(struct consumer *c, uint32_t i)
{
	return __atomic_load_n(&c->ring[i]->head, __ATOMIC_ACQUIRE);
}

static void set_tail(struct consumer *c, uint32_t i, uint64_t tail)
{
	__atomic_store_n(&c->ring[i]->tail, tail, __ATOMIC_RELEASE);
	atomic_thread_fence(memory_order_seq_cst);
}

static void set_seen(struct consumer *c, uint32_t i, uint64_t seen)
{
	__atomic_store_n(&c->ring[i]->seen, seen, __ATOMIC_RELAXED);
}

/* Whether poll() shows records now. */
static bool readable(struct consumer *c)
{
	struct pollfd pfd = { .fd = c->fd, .events = POLLIN };

	return poll(&pfd, 1, 0) == 1 && pfd.revents & POLLIN;
}

static bool kick_wanted(struct consumer *c, uint32_t i)
{
	return __atomic_load_n(&c->ring[i]->flags, __ATOMIC_RELAXED) &
	       VMREPL_RING_NEED_KICK;
}

static int freeze_errno(struct consumer *c)
{
	struct vmrepl_freeze f = { .epoch = c->epoch + 1 };
	int err = expect_ioctl(c->fd, VMREPL_FREEZE, &f);

	if (!err)
		c->epoch++;
	return err;
}

static struct vmrepl_rec *record(struct consumer *c, uint32_t i, uint64_t n)
{
	struct vmrepl_ring *r = c->ring[i];

	return (struct vmrepl_rec *)((char *)r + r->rec_offset) +
	       n % r->nr_slots;
}

static void begin(struct consumer *c, struct vmm *v)
{
	for (uint64_t p = VMM_FIRST_PAGE; p < v->pages; p++)
		*(uint64_t *)(v->ram + p * VMM_PAGE) = ~p;
	expect_attach(c, getpid(), VMREPL_RING_MIN);
	consumer_watch(c, v->ram, v->pages);
}

/* One whole session, as a good agent has it. */
static bool next_session_works(struct vmm *v)
{
	struct consumer c;
	bool ok;

	begin(&c, v);
	expect_epoch(&c, 0);
	vmm_write(v, 0, 700, 100, 3, 99);
	expect_epoch(&c, 0);
	ok = expect_same(v, &c, 0, v->pages) && expect_seen(&c, 700, 1);
	consumer_close(&c);
	return ok && expect_untouched(v);
}

/*
 * One record at a time, the tail moved after each, and a kick only where the
 * module asks for it. Return: kicks, or -1 if it never ended.
 */
static long drain_one_by_one(struct consumer *c, uint64_t *pages)
{
	struct pollfd pfd = { .fd = c->fd, .events = POLLIN };
	bool ended[CONSUMER_MAX_RINGS] = {};
	uint32_t left = c->attach.nr_rings;
	long kicks = 0;

	*pages = 0;
	while (left) {
		if (poll(&pfd, 1, EXPECT_MS) <= 0 || pfd.revents & POLLERR)
			return -1;
		for (uint32_t i = 0; i < c->attach.nr_rings; i++) {
			struct vmrepl_rec *rec = record(c, i, c->tail[i]);
			uint64_t page = (rec->hva - c->base) / VMM_PAGE;

			if (ended[i] || c->tail[i] == head_of(c, i))
				continue;
			if (rec->type == VMREPL_REC_END) {
				ended[i] = true;
				left--;
			} else if (page < c->pages) {
				(*pages)++;
				memcpy(c->copy + page * VMM_PAGE,
				       (char *)c->ring[i] +
				       c->ring[i]->data_offset +
				       c->tail[i] % VMREPL_RING_MIN * VMM_PAGE,
				       VMM_PAGE);
				if (rec->type == VMREPL_REC_ZERO)
					memset(c->copy + page * VMM_PAGE, 0,
					       VMM_PAGE);
			}
			set_tail(c, i, ++c->tail[i]);
			if (kick_wanted(c, i)) {
				ioctl(c->fd, VMREPL_KICK);
				kicks++;
			}
		}
	}
	return kicks;
}

static void test_slow(struct vmm *v)
{
	struct consumer c;
	uint64_t pages;
	long kicks;

	begin(&c, v);
	for (int round = 0; round < 3; round++) {
		if (consumer_freeze(&c, 0))
			tap_die("freeze: %s", strerror(errno));
		kicks = drain_one_by_one(&c, &pages);
		/* How many there are is a matter of time. */
		tap_ok(kicks >= 0 && pages >= PAGES - VMM_FIRST_PAGE &&
		       expect_same(v, &c, 0, PAGES),
		       "%lu pages through 64 slots, one by one, %ld kicks",
		       pages, kicks);
		for (int i = 0; i < v->nr_vcpus; i++)
			vmm_write(v, i, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE,
				  1, 10 * round + i);
	}
	tap_ok(consumer_stats(&c).ring_full > 0, "workers have waited for room");
	consumer_close(&c);
	tap_ok(expect_untouched(v), "the VM is untouched by it");
}

/* No record is taken for a while. */
static void test_absent(struct vmm *v)
{
	struct pollfd pfd;
	struct consumer c;
	bool all = true;

	begin(&c, v);
	pfd = (struct pollfd){ .fd = c.fd, .events = POLLIN };
	if (consumer_freeze(&c, 0))
		tap_die("freeze: %s", strerror(errno));
	tap_ok(expect_errno(freeze_errno(&c), EBUSY),
	       "FREEZE while the epoch before is copied: EBUSY");
	tap_ok(expect_until(consumer_stats(&c).ring_full > 0) &&
	       poll(&pfd, 1, EXPECT_MS) == 1 && pfd.revents == POLLIN,
	       "the ring fills up, and poll says so");
	tap_ok(expect_errno(freeze_errno(&c), EBUSY) && expect_guest_runs(v),
	       "still EBUSY, and the guest runs");
	for (uint32_t i = 0; i < c.attach.nr_rings; i++)
		all = all && head_of(&c, i) <= VMREPL_RING_MIN;
	tap_ok(all, "no record was overwritten");
	tap_ok(expect_errno(consumer_drain(&c), 0) && c.records >= PAGES &&
	       !c.errors, "the agent comes back: nothing was lost meanwhile");
	expect_epoch(&c, 0);
	tap_ok(expect_same(v, &c, 0, PAGES), "and the next epoch is whole");

	/* END is shown, but not taken: the next epoch may begin. */
	vmm_write(v, 0, 100, 5, 1, 3);
	if (consumer_freeze(&c, 0))
		tap_die("freeze: %s", strerror(errno));
	all = expect_until(({
		bool shown = true;

		for (uint32_t i = 0; i < c.attach.nr_rings; i++)
			shown = shown && head_of(&c, i) > c.tail[i] &&
				record(&c, i, head_of(&c, i) - 1)->type ==
				VMREPL_REC_END;
		shown;
	}));
	for (uint32_t i = 0; i < c.attach.nr_rings; i++)
		set_seen(&c, i, head_of(&c, i));
	tap_ok(all && !readable(&c), "what was seen is nothing to poll for, though not taken");
	vmm_write(v, 0, 110, 5, 1, 4);
	tap_ok(all && expect_errno(freeze_errno(&c), 0),
	       "FREEZE when every ring has shown END, though not taken");
	tap_ok(expect_until(readable(&c)), "what comes after it is");
	for (uint32_t i = 0; i < c.attach.nr_rings; i++)
		set_seen(&c, i, 0);
	c.epoch--;
	all = !consumer_drain(&c);
	c.epoch++;
	tap_ok(all && !consumer_drain(&c) && !c.errors && !c.strange &&
	       expect_same(v, &c, 0, PAGES), "both epochs are read one after the other");
	consumer_close(&c);

	/* Not a word from the agent: the worker waits when the file is closed. */
	begin(&c, v);
	if (consumer_freeze(&c, 0) ||
	    !expect_until(consumer_stats(&c).ring_full > 0))
		tap_die("the ring does not fill up");
	for (uint32_t i = 0; i < c.attach.nr_rings; i++)
		set_tail(&c, i, head_of(&c, i));
	consumer_close(&c);
	tap_ok(expect_untouched(v), "closed while a worker waits for a kick");
	tap_ok(next_session_works(v), "the next session works");
}

/* POLLERR, EIO and the flag: the session is over. */
static bool is_broken(struct consumer *c)
{
	struct pollfd pfd = { .fd = c->fd };

	if (poll(&pfd, 1, EXPECT_MS) != 1 || !(pfd.revents & POLLERR)) {
		tap_note("no POLLERR");
		return false;
	}
	for (uint32_t i = 0; i < c->attach.nr_rings; i++) {
		if (!expect_until(__atomic_load_n(&c->ring[i]->flags,
						  __ATOMIC_RELAXED) &
				  VMREPL_RING_BROKEN)) {
			tap_note("ring %u does not say that it is broken", i);
			return false;
		}
	}
	return expect_errno(freeze_errno(c), EIO);
}

static const struct {
	const char *name;
	bool from_head;
	int64_t offset;
} wild[] = {
	{ "one beyond the head", true, 1 },
	{ "far beyond the head", true, 1LL << 40 },
	{ "one ring beyond the head", true, VMREPL_RING_MIN },
	{ "back before one that was seen", false, -1 },
	{ "a ring before one that was seen", false, -(int64_t)VMREPL_RING_MIN },
	{ "all ones", true, 0 },
	{ "half the number space away", true, INT64_MIN },
};

/* @seen: a tail that the module has seen for sure. */
static uint64_t wild_tail(struct consumer *c, uint32_t ring, uint64_t seen,
			  unsigned int i)
{
	if (!wild[i].offset)
		return ~0ULL;
	return (wild[i].from_head ? head_of(c, ring) : seen) + wild[i].offset;
}

static void test_wild_tails(struct vmm *v)
{
	for (unsigned int i = 0; i < sizeof(wild) / sizeof(*wild); i++) {
		struct consumer c;
		uint64_t seen;
		uint32_t ring;
		int err;
		bool ok;

		/* Between two epochs: the next one finds it. */
		begin(&c, v);
		ring = i % c.attach.nr_rings;
		expect_epoch(&c, 0);
		seen = c.tail[ring];
		expect_epoch(&c, 0);
		set_tail(&c, ring, wild_tail(&c, ring, seen, i));
		vmm_write(v, 0, 100, 50, 1, 5);
		err = freeze_errno(&c);
		ok = (!err || err == EIO) && is_broken(&c);
		consumer_close(&c);
		tap_ok(ok && expect_untouched(v), "tail %s, between epochs",
		       wild[i].name);

		/* While a worker waits for room. */
		begin(&c, v);
		expect_epoch(&c, 0);
		seen = c.tail[0];
		vmm_write(v, 0, VMM_FIRST_PAGE, 1000, 1, 6);
		ok = !freeze_errno(&c) && expect_until(kick_wanted(&c, 0));
		set_tail(&c, 0, wild_tail(&c, 0, seen, i));
		ioctl(c.fd, VMREPL_KICK);
		ok = ok && is_broken(&c);
		consumer_close(&c);
		tap_ok(ok && expect_untouched(v), "tail %s, in an epoch",
		       wild[i].name);
	}
	tap_ok(next_session_works(v), "the next session works");
}

struct scribbler {
	struct consumer *c;
	bool counts;		/* over head and tail too */
	uint64_t x;
	volatile bool stop;
};

static uint64_t next(struct scribbler *s)
{
	s->x ^= s->x << 13;
	s->x ^= s->x >> 7;
	s->x ^= s->x << 17;
	return s->x;
}

/* Random words over all that the agent has mapped, half of them in the front. */
static void *scribbler_main(void *data)
{
	struct scribbler *s = data;
	uint64_t words = s->c->attach.ring_bytes / 8;

	while (!s->stop) {
		uint64_t *ring = (uint64_t *)s->c->ring[next(s) %
							s->c->attach.nr_rings];
		uint64_t word = next(s) % (next(s) % 2 ? words : 32);

		if (s->counts ||
		    (word != offsetof(struct vmrepl_ring, head) / 8 &&
		     word != offsetof(struct vmrepl_ring, tail) / 8))
			__atomic_store_n(&ring[word], next(s), __ATOMIC_RELAXED);
	}
	return NULL;
}

/*
 * FREEZE for an agent that cannot trust any record: it takes all there are,
 * unread, and kicks always. Return: 0 when FREEZE has worked, or its errno.
 */
static int freeze_scribbled(struct consumer *c, bool counts)
{
	uint64_t end = expect_now_ms() + EXPECT_MS;
	struct pollfd pfd = { .fd = c->fd, .events = POLLIN };

	while (expect_now_ms() < end) {
		int err = freeze_errno(c);

		if (err != EBUSY)
			return err;
		poll(&pfd, 1, 10);
		for (uint32_t i = 0; i < c->attach.nr_rings && !counts; i++)
			set_tail(c, i, head_of(c, i));
		ioctl(c->fd, VMREPL_KICK);
	}
	return ETIMEDOUT;
}

/* Return: epochs frozen, of @epochs; -1 if something else than that failed. */
static int scribbled_session(struct vmm *v, int nr, bool counts, int epochs)
{
	struct scribbler s = { .counts = counts, .x = 0x9e3779b97f4a7c15 + nr };
	struct consumer c;
	pthread_t thread;
	int frozen = 0, err = 0;

	expect_attach(&c, getpid(), VMREPL_RING_MIN);
	s.c = &c;
	vmm_hammer(v, 0, 100, 500, 2);
	vmm_hammer(v, 1, 101, 500, 2);
	pthread_create(&thread, NULL, scribbler_main, &s);
	while (frozen < epochs && !err) {
		err = freeze_scribbled(&c, counts);
		frozen += !err;
	}
	s.stop = true;
	pthread_join(thread, NULL);
	vmm_stop(v);
	consumer_close(&c);
	if (err && err != EIO)
		tap_note("FREEZE: %s", strerror(err));
	return expect_untouched(v) && (!err || err == EIO) ? frozen : -1;
}

/* Only the tail is believed, and that only within its range. */
static void test_scribble(struct vmm *v)
{
	int whole = 0, fine = 0, frozen = 0, epochs = 10, got;

	for (int i = 0; i < SCRIBBLES; i++)
		whole += scribbled_session(v, i, false, epochs) == epochs;
	tap_ok(whole == SCRIBBLES,
	       "random words over all but the counts: %d of %d sessions go on",
	       whole, SCRIBBLES);
	for (int i = 0; i < SCRIBBLES; i++) {
		got = scribbled_session(v, i, true, epochs);
		fine += got >= 0;
		frozen += got;
	}
	tap_ok(fine == SCRIBBLES,
	       "random words over everything: the guests of %d of %d sessions go on, after %d epochs",
	       fine, SCRIBBLES, frozen);
	tap_ok(next_session_works(v), "the next session works");
}

/* The same, with an agent that keeps its own count and so never errs itself. */
static void test_scribble_records(struct vmm *v)
{
	int whole = 0, turns = 10;
	struct consumer c;

	begin(&c, v);
	expect_epoch(&c, 0);
	for (int i = 0; i < turns; i++) {
		/* All of every ring but the tail, between two epochs. */
		for (uint32_t r = 0; r < c.attach.nr_rings; r++) {
			struct vmrepl_ring keep = *c.ring[r];

			memset(c.ring[r], 0xee, offsetof(struct vmrepl_ring, tail));
			memset((char *)c.ring[r] + VMM_PAGE, 0xee,
			       c.attach.ring_bytes - VMM_PAGE);
			/* An agent may not lose its own copy of these. */
			c.ring[r]->nr_slots = keep.nr_slots;
			c.ring[r]->rec_offset = keep.rec_offset;
			c.ring[r]->data_offset = keep.data_offset;
			c.ring[r]->head = keep.head;
			c.ring[r]->flags = keep.flags;
		}
		vmm_write(v, 0, 200, 300, 2, i);
		expect_epoch(&c, 0);
		whole += expect_same(v, &c, 0, PAGES) &&
			 expect_seen(&c, 200, 1) && c.records >= 300;
	}
	tap_ok(whole == turns, "old content of the ring does not matter: %d of %d whole",
	       whole, turns);
	consumer_close(&c);
	tap_ok(expect_untouched(v), "the VM is untouched by it");
}

int main(void)
{
	pid_t keeper = expect_keeper();
	struct vmm *v = vmm_create(VMM_RAM_ANON, PAGES, 2);

	test_slow(v);
	test_absent(v);
	test_wild_tails(v);
	test_scribble_records(v);
	test_scribble(v);
	vmm_destroy(v);
	expect_no_keeper(keeper);
	return tap_done();
}
