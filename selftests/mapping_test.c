// SPDX-License-Identifier: GPL-2.0
/*
 * mapping_test: an agent that maps its rings and unmaps them, cuts them up, moves
 * them, takes their permissions away and hands them on, while workers write into
 * them. The session is whole for who reads it rightly, and ends with the last piece. TAP.
 *
 *	mapping_test [ROUNDS]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		2048UL
#define SLOTS		256u
#define CHURNERS	2

static bool is_errno(bool failed, int want)
{
	return failed && expect_errno(errno, want);
}

static void *map_ring(struct consumer *c, uint32_t i)
{
	return mmap(NULL, c->attach.ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		    c->fd, i * c->attach.ring_bytes);
}

struct churner {
	pthread_t thread;
	struct consumer *c;
	uint64_t random;
	volatile bool stop;
	uint64_t turns;
	uint64_t grown;		/* a mapping became larger than its ring */
	uint64_t inherited;	/* a child had one unasked */
};

/* xorshift64: Marsaglia, Xorshift RNGs, 2003. */
static uint64_t below(struct churner *h, uint64_t n)
{
	h->random ^= h->random << 13;
	h->random ^= h->random >> 7;
	h->random ^= h->random << 17;
	return h->random % n;
}

/* Does a write through the kernel go there? A wrong one says EFAULT and no more. */
static bool writable(void *at)
{
	uint64_t word = 0;
	struct iovec from = { &word, sizeof(word) }, to = { at, sizeof(word) };

	return process_vm_writev(getpid(), &from, 1, &to, 1, 0) == sizeof(word);
}

/* One mapping, and one or two things that are done to it. */
static void churn(struct churner *h)
{
	static const int advice[] = {
		MADV_DONTNEED, MADV_WILLNEED, MADV_DOFORK, MADV_COLD, MADV_PAGEOUT,
		MADV_HUGEPAGE, MADV_REMOVE, MADV_FREE, MADV_DONTDUMP,
	};
	size_t bytes = h->c->attach.ring_bytes, pages = bytes / VMM_PAGE;
	uint8_t *ring = map_ring(h->c, below(h, h->c->attach.nr_rings)), *moved;
	/* Records and their pages; the head and the tail are left alone. */
	uint8_t *in = ring + VMM_PAGE * (1 + below(h, pages - 2));
	bool asked;
	pid_t child;

	if (ring == MAP_FAILED)
		return;
	switch (below(h, 8)) {
	case 0:
		munmap(in, VMM_PAGE);
		break;
	case 1:
		munmap(in, ring + bytes - in);
		break;
	case 2:
		moved = mremap(ring, bytes, bytes + VMM_PAGE, MREMAP_MAYMOVE);
		if (moved != MAP_FAILED) {
			h->grown++;
			ring = moved;
			bytes += VMM_PAGE;
		}
		break;
	case 3:
		moved = mremap(ring, bytes, VMM_PAGE, MREMAP_MAYMOVE);
		if (moved != MAP_FAILED) {
			ring = moved;
			bytes = VMM_PAGE;
		}
		break;
	case 4:
		mprotect(in, VMM_PAGE, below(h, 2) ? PROT_NONE : PROT_READ | PROT_EXEC);
		mlock(ring, bytes);
		break;
	case 5:
	case 6:
		madvise(below(h, 2) ? ring : in, VMM_PAGE,
			advice[below(h, sizeof(advice) / sizeof(*advice))]);
		break;
	default:
		if (below(h, 8))
			break;
		asked = below(h, 2) && !madvise(ring, bytes, MADV_DOFORK);
		child = fork();
		if (!child)
			_exit(writable(ring + offsetof(struct vmrepl_ring, pad2)));
		if (child > 0) {
			int status = 0;

			waitpid(child, &status, 0);
			h->inherited += status != 0 && !asked;
		}
	}
	writable(in);
	munmap(ring, bytes);
	h->turns++;
}

static void *churner_main(void *data)
{
	struct churner *h = data;

	while (!h->stop)
		churn(h);
	return NULL;
}

/*
 * A freeze succeeds when the workers have ended the epoch before, whose records go by
 * unread: they may be scribbled over.
 */
static void next_epoch(struct consumer *c)
{
	int err;

	while ((err = consumer_freeze(c, 0)) == EBUSY) {
		for (uint32_t r = 0; r < c->attach.nr_rings; r++)
			__atomic_store_n(&c->ring[r]->tail,
					 __atomic_load_n(&c->ring[r]->head,
							 __ATOMIC_ACQUIRE),
					 __ATOMIC_RELEASE);
		ioctl(c->fd, VMREPL_KICK);
	}
	if (err)
		tap_die("freeze: %s", strerror(err));
}

/*
 * Epochs are whole for who has mappings of its own, whatever happens to others of the
 * same rings. (Words are written into pages that hold no record any more or not
 * yet, or one that is shown: so only what no churner has touched is compared.)
 */
static void test_churn(struct vmm *v, int rounds)
{
	struct churner churner[CHURNERS] = {};
	uint64_t turns = 0, grown = 0, inherited = 0;
	struct consumer c;
	int epochs = 0;

	expect_attach(&c, getpid(), SLOTS);
	for (int i = 0; i < CHURNERS; i++) {
		churner[i].c = &c;
		churner[i].random = 0x9e3779b97f4a7c15ULL * (i + 1);
		if (pthread_create(&churner[i].thread, NULL, churner_main, &churner[i]))
			tap_die("pthread_create: %s", strerror(errno));
	}
	for (int i = 0; i < rounds; i++) {
		uint64_t before = churner[0].turns;

		vmm_write(v, i % 2, VMM_FIRST_PAGE, 1000, 2, i);
		next_epoch(&c);
		epochs++;
		if (!expect_until(churner[0].turns > before))
			tap_die("mappings do not come and go");
	}
	next_epoch(&c);
	for (int i = 0; i < CHURNERS; i++) {
		churner[i].stop = true;
		pthread_join(churner[i].thread, NULL);
		turns += churner[i].turns;
		grown += churner[i].grown;
		inherited += churner[i].inherited;
	}
	tap_ok(epochs == rounds, "%d epochs while rings were mapped and unmapped %lu times",
	       epochs, turns);
	tap_ok(!grown, "no mapping became larger than its ring");
	tap_ok(!inherited, "no child has inherited one that it was not meant to");
	consumer_close(&c);
	tap_ok(expect_untouched(v), "the VM is untouched by it");
}

/* The agent unmaps everything in the middle of a copy, and comes back. */
static void test_gone_meanwhile(struct vmm *v, int rounds)
{
	struct consumer c;
	int whole = 0;

	expect_attach(&c, getpid(), SLOTS);
	consumer_watch(&c, v->ram, PAGES);
	for (int i = 0; i < rounds; i++) {
		uint64_t full = consumer_stats(&c).ring_full;

		vmm_write(v, i % 2, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE, 1, 50 + i);
		if (consumer_freeze(&c, 0))
			tap_die("freeze: %s", strerror(errno));
		for (uint32_t r = 0; r < c.attach.nr_rings; r++)
			munmap(c.ring[r], c.attach.ring_bytes);
		if (!expect_until(consumer_stats(&c).ring_full > full))
			tap_die("the ring does not fill up");
		for (uint32_t r = 0; r < c.attach.nr_rings; r++) {
			c.ring[r] = map_ring(&c, r);
			if (c.ring[r] == MAP_FAILED)
				tap_die("mmap: %s", strerror(errno));
		}
		if (consumer_drain(&c))
			tap_die("the epoch does not end");
		whole += !c.errors && expect_same(v, &c, 0, PAGES);
	}
	tap_ok(whole == rounds, "unmapped in the middle of a copy and mapped again: %d of %d whole",
	       whole, rounds);
	consumer_close(&c);
	tap_ok(expect_untouched(v), "the VM is untouched by it");
}

/* A mapping holds the session, down to its last page. */
static void test_last_piece(struct vmm *v)
{
	struct consumer c;
	uint8_t *ring;
	size_t bytes;
	bool held = true;

	expect_attach(&c, getpid(), SLOTS);
	bytes = c.attach.ring_bytes;
	if (consumer_freeze(&c, 0))
		tap_die("freeze: %s", strerror(errno));
	close(c.fd);
	for (uint32_t r = 1; r < c.attach.nr_rings; r++)
		munmap(c.ring[r], bytes);
	ring = (uint8_t *)c.ring[0];
	/* Every other page first, then the rest but one. */
	for (size_t at = 0; at < bytes; at += 2 * VMM_PAGE)
		munmap(ring + at, VMM_PAGE);
	held = held && vmm_slot_logged(v, 0, PAGES);
	for (size_t at = 3 * VMM_PAGE; at < bytes; at += 2 * VMM_PAGE)
		munmap(ring + at, VMM_PAGE);
	held = held && vmm_slot_logged(v, 0, PAGES) && expect_guest_runs(v);
	tap_ok(held, "the last page of a ring that is mapped holds the session");
	munmap(ring + VMM_PAGE, VMM_PAGE);
	tap_ok(expect_untouched(v), "and with it the session ends, in the middle of a copy");
}

/* What else a file can be asked for. */
static void test_no_file(struct vmm *v)
{
	struct consumer c;
	char byte = 0;

	expect_attach(&c, getpid(), SLOTS);
	tap_ok(is_errno(ftruncate(c.fd, 0) < 0, EINVAL) &&
	       is_errno(ftruncate(c.fd, 1 << 20) < 0, EINVAL), "it cannot be truncated");
	tap_ok(is_errno(fallocate(c.fd, 0, 0, VMM_PAGE) < 0, ENODEV) &&
	       is_errno(fallocate(c.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				  VMM_PAGE) < 0, ENODEV), "nor can holes be punched");
	tap_ok(is_errno(read(c.fd, &byte, 1) < 0, EINVAL) &&
	       is_errno(write(c.fd, &byte, 1) < 0, EINVAL), "nor read or written");
	consumer_watch(&c, v->ram, PAGES);
	expect_epoch(&c, 0);
	tap_ok(expect_same(v, &c, 0, PAGES), "and it works as before");
	consumer_close(&c);
	tap_ok(expect_untouched(v), "the VM is untouched by it");
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 20;
	struct vmm *v;

	if (rounds < 1)
		tap_die("usage: mapping_test [ROUNDS]");
	v = vmm_create(VMM_RAM_ANON, PAGES, 2);
	test_no_file(v);
	test_gone_meanwhile(v, rounds);
	test_last_piece(v);
	test_churn(v, rounds);
	vmm_destroy(v);
	return tap_done();
}
