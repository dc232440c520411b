// SPDX-License-Identifier: GPL-2.0
/*
 * I3: a page in an epoch has the content that it had at the freeze, although the
 * guest and the host go on writing before it is copied.
 *
 * Every kind of writer hammers the same pages. At each epoch all of them stand, RAM
 * is copied here, the freeze is made, and all go on at once. When the epoch is whole,
 * what the records of all epochs so far say RAM was must equal that copy: a page
 * that differs was copied too late, or was missed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "consumer.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		640UL
#define HOT		448UL			/* pages that all of them write */
#define OWN		16UL			/* behind them: only write_mprotect() */
#define RING_SLOTS	2048
#define HUGE		(2UL << 20)

static const char *const kind_name[] = {
	[VMM_RAM_ANON] = "anonymous RAM",
	[VMM_RAM_THP] = "huge pages",
	[VMM_RAM_MEMFD] = "memfd",
	[VMM_RAM_HUGETLB] = "hugetlbfs, private",
	[VMM_RAM_HUGEFD] = "hugetlbfs, shared",
};

/* What each writer does between two epochs: enough to be in the way of the copy. */
#define PASSES		2

/*
 * Host-side writers. Each turn all of them write, and stand when they have; a freeze
 * waits for that.
 */
struct writers {
	struct vmm *vmm;
	pthread_mutex_t lock;
	pthread_cond_t moved;
	uint64_t turn;
	int busy;
	bool stop;
	int nr;
	int urandom, disk;
};

struct writer {
	struct writers *all;
	int kind;
	uint64_t x;
	uint64_t turn;
};

static uint8_t *page(struct vmm *v, uint64_t p)
{
	return v->ram + (VMM_FIRST_PAGE + p % HOT) * VMM_PAGE;
}

static void write_store(struct writers *w, uint64_t x)
{
	for (int i = 0; i < 32; i++)
		*(volatile uint64_t *)(page(w->vmm, x + i) + 64) = x;
}

static void write_read(struct writers *w, uint64_t x)
{
	if (read(w->urandom, page(w->vmm, x) + 128, 64) != 64)
		tap_die("urandom: %s", strerror(errno));
}

static void write_direct(struct writers *w, uint64_t x)
{
	if (pread(w->disk, page(w->vmm, x & ~7UL), 4 * VMM_PAGE,
		  x % 64 * VMM_PAGE) != 4 * (ssize_t)VMM_PAGE)
		tap_die("/dev/ram0: %s", strerror(errno));
}

static void write_process_vm(struct writers *w, uint64_t x)
{
	char data[64];
	struct iovec from = { data, sizeof(data) };
	struct iovec to = { page(w->vmm, x) + 256, sizeof(data) };

	memset(data, (int)x, sizeof(data));
	if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != sizeof(data))
		tap_die("process_vm_writev: %s", strerror(errno));
}

/*
 * Makes page-table entries writable without a fault, then writes. Nobody else may
 * be refused meanwhile.
 */
static void write_mprotect(struct writers *w, uint64_t x)
{
	uint8_t *at = w->vmm->ram + (VMM_FIRST_PAGE + HOT + x % OWN / 8 * 8) * VMM_PAGE;

	/* A part of a huge page of hugetlbfs has no protection of its own. */
	if (w->vmm->kind < VMM_RAM_HUGETLB &&
	    (mprotect(at, 8 * VMM_PAGE, PROT_READ) ||
	     mprotect(at, 8 * VMM_PAGE, PROT_READ | PROT_WRITE)))
		tap_die("mprotect: %s", strerror(errno));
	for (int i = 0; i < 8; i++)
		*(volatile uint64_t *)(at + i * VMM_PAGE + 512) = x;
}

static void write_discard(struct writers *w, uint64_t x)
{
	bool huge = w->vmm->kind >= VMM_RAM_HUGETLB;
	/* The first huge page has the guest's code. */
	uint8_t *at = huge ? w->vmm->ram + HUGE : page(w->vmm, x & ~3UL);
	size_t len = huge ? HUGE : 4 * VMM_PAGE;
	int err = w->vmm->memfd >= 0 ?
		fallocate(w->vmm->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  at - w->vmm->ram, len) :
		madvise(at, len, MADV_DONTNEED);

	if (err)
		tap_die("discard: %s", strerror(errno));
}

static const struct {
	int times;		/* each turn */
	void (*write)(struct writers *w, uint64_t x);
} kinds[] = {
	{ 8, write_store },
	{ 16, write_read },
	{ 4, write_direct },
	{ 16, write_process_vm },
	{ 2, write_mprotect },
	{ 2, write_discard },
};
#define KINDS	((int)(sizeof(kinds) / sizeof(*kinds)))

static void *writer_main(void *data)
{
	struct writer *me = data;
	struct writers *w = me->all;

	for (uint64_t turn = me->turn;; turn++) {
		pthread_mutex_lock(&w->lock);
		while (w->turn == turn && !w->stop)
			pthread_cond_wait(&w->moved, &w->lock);
		pthread_mutex_unlock(&w->lock);
		if (w->stop)
			return NULL;
		for (int i = 0; i < kinds[me->kind].times; i++) {
			me->x ^= me->x << 13;
			me->x ^= me->x >> 7;
			me->x ^= me->x << 17;
			kinds[me->kind].write(w, me->x);
		}
		pthread_mutex_lock(&w->lock);
		w->busy--;
		pthread_cond_broadcast(&w->moved);
		pthread_mutex_unlock(&w->lock);
	}
}

static void writers_go(struct writers *w)
{
	pthread_mutex_lock(&w->lock);
	w->busy = w->nr;
	w->turn++;
	pthread_cond_broadcast(&w->moved);
	pthread_mutex_unlock(&w->lock);
	vmm_go(w->vmm);
}

static void writers_wait(struct writers *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->busy)
		pthread_cond_wait(&w->moved, &w->lock);
	pthread_mutex_unlock(&w->lock);
	vmm_pause(w->vmm);
}

struct tally {
	uint64_t epochs, torn, waited, wrong, missed, pages;
};

static void compare(struct consumer *c, const uint8_t *was, struct tally *t)
{
	for (uint64_t p = 0; p < PAGES; p++) {
		if (!memcmp(c->copy + p * VMM_PAGE, was + p * VMM_PAGE, VMM_PAGE))
			continue;
		if (c->seen[p])
			t->wrong++;
		else
			t->missed++;
		if (t->wrong + t->missed < 8)
			tap_note("epoch %lu: page %lu is %s", c->epoch, p,
				 c->seen[p] ? "wrong" : "missed");
		/* Counted once. */
		memcpy(c->copy + p * VMM_PAGE, was + p * VMM_PAGE, VMM_PAGE);
	}
}

/* Who was held up goes on before the copy begins, or there is nothing to see. */
static void one_epoch(struct consumer *c, struct writers *w, uint8_t *was,
		      struct tally *t, uint32_t flags)
{
	int err = 0;

	/* While they write: every second epoch is begun early, every fourth twice. */
	if (flags && c->epoch % 2)
		err = consumer_prepare(c);
	if (flags && c->epoch % 4 == 1)
		err = err ?: consumer_prepare(c);
	if (err)
		tap_die("prepare: %s", strerror(err));
	writers_wait(w);
	memcpy(was, w->vmm->ram, PAGES * VMM_PAGE);
	err = consumer_freeze(c, flags);
	if (err)
		tap_die("freeze: %s", strerror(err));
	if (c->freeze.flags & VMREPL_FREEZE_COW) {
		writers_go(w);
		err = consumer_drain(c);
	} else {
		t->waited += flags & VMREPL_FREEZE_COW ? 1 : 0;
		err = consumer_drain(c);
		writers_go(w);
	}
	if (err)
		tap_die("epoch %lu: %s", c->epoch, strerror(err));
	t->epochs++;
	t->pages += c->records;
	t->torn += c->torn;
	if (!c->torn)
		compare(c, was, t);
}

/*
 * What each log says, and what all of them make. The host's first write to a page of
 * 2 MiB puts all that is in it into the bitmaps, so that a vCPU may have none to list.
 */
static bool stats_add_up(struct consumer *c, const struct vmrepl_stats *all,
			 enum vmm_ram kind)
{
	uint64_t pages = 0, copied = 0, events = 0;
	struct vmrepl_log_stats st;
	bool each = true;

	for (uint32_t i = 0; i < c->attach.nr_rings; i++) {
		if (consumer_log_stats(c, i, &st))
			return false;
		pages += st.pages;
		copied += st.cow_worker + st.cow_pause + st.cow_vcpu + st.cow_host +
			  st.cow_range;
		events += st.events;
		each = each && (st.events || kind >= VMM_RAM_HUGETLB) && st.copy_ns;
	}
	if (!each || events < all->vcpu_events)
		tap_note("listed %lu, %llu seen for vCPUs; each log has some: %d",
			 events, all->vcpu_events, each);
	return each && pages == all->pages && copied == all->planned &&
	       events >= all->vcpu_events && all->freeze_ns && all->prepare_ns &&
	       consumer_log_stats(c, c->attach.nr_rings, &st) == EINVAL;
}

static void test_cow(enum vmm_ram kind, int vcpus, int epochs, uint32_t attach_flags)
{
	struct vmm *v = vmm_create(kind, PAGES, vcpus);
	struct writers w = {
		.vmm = v,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.moved = PTHREAD_COND_INITIALIZER,
	};
	uint8_t *was = malloc(PAGES * VMM_PAGE);
	pthread_t threads[KINDS];
	struct writer me[KINDS];
	struct tally t = {};
	struct vmrepl_stats st;
	struct consumer c;
	int err;

	memset(v->ram + VMM_FIRST_PAGE * VMM_PAGE, 0x11,
	       (PAGES - VMM_FIRST_PAGE) * VMM_PAGE);
	w.urandom = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	w.disk = open("/dev/ram0", O_RDONLY | O_CLOEXEC | O_DIRECT);
	if (!was || w.urandom < 0 || w.disk < 0)
		tap_die("set-up: %s (modprobe brd)", strerror(errno));
	err = consumer_attach_with(&c, getpid(), RING_SLOTS, attach_flags);
	if (err)
		tap_die("attach: %s %s", strerror(err), c.attach.why);
	consumer_watch(&c, v->ram, PAGES);

	/* The first set is everything, and its pages are not protected yet. */
	one_epoch(&c, &w, was, &t, 0);
	v->passes = PASSES;
	for (int i = 0; i < vcpus; i++)
		vmm_hammer(v, i, VMM_FIRST_PAGE, HOT, 1);
	for (int i = 0; i < KINDS; i++) {
		me[i] = (struct writer){ &w, i, 88172645463325252ULL + i, w.turn };
		w.nr++;
		pthread_create(&threads[i], NULL, writer_main, &me[i]);
	}
	for (int i = 0; i < epochs; i++)
		one_epoch(&c, &w, was, &t, VMREPL_FREEZE_COW);
	writers_wait(&w);
	pthread_mutex_lock(&w.lock);
	w.stop = true;
	pthread_cond_broadcast(&w.moved);
	pthread_mutex_unlock(&w.lock);
	for (int i = 0; i < KINDS; i++)
		pthread_join(threads[i], NULL);
	vmm_stop(v);
	/* A log counts an event when its epoch is closed, KVM's hook at once. */
	err = consumer_epoch(&c, 0);
	if (err)
		tap_die("the last epoch: %s", strerror(err));

	st = consumer_stats(&c);
	tap_note("%lu pages in %lu epochs; copied by their worker %llu, in the pause %llu, for a vCPU %llu, a host fault %llu, a change of mappings %llu; %llu freezes had to wait",
		 t.pages, t.epochs, st.cow_worker, st.cow_pause, st.cow_vcpu,
		 st.cow_host, st.cow_range, st.cow_refused);
	tap_ok(!t.wrong && !t.missed && !c.errors && !c.strange,
	       "%s, %d vCPUs%s: %lu epochs: %lu pages wrong, %lu missed",
	       kind_name[kind], vcpus, attach_flags ? ", hashes" : "", t.epochs,
	       t.wrong, t.missed);
	tap_ok(!t.torn && !st.slipped, "%s, %d vCPUs: %lu epochs torn (%llu pages)",
	       kind_name[kind], vcpus, t.torn, st.slipped);
	/* The host's first write to a page of 2 MiB copies all that is in it. */
	tap_ok(((st.cow_vcpu && st.cow_range) || kind >= VMM_RAM_HUGETLB) &&
	       st.cow_host && st.cow_worker,
	       "%s, %d vCPUs: vCPUs, the host, changes of mappings and workers all came first at times",
	       kind_name[kind], vcpus);
	tap_ok(stats_add_up(&c, &st, kind), "%s, %d vCPUs: the logs' numbers add up to the session's",
	       kind_name[kind], vcpus);
	consumer_close(&c);
	vmm_destroy(v);
	close(w.urandom);
	close(w.disk);
	free(was);
}

/* What does not fit into the rings is copied while the guest stands, and is told. */
static void test_no_room(void)
{
	struct vmm *v = vmm_create(VMM_RAM_ANON, PAGES, 1);
	struct consumer c;
	int err = consumer_attach(&c, getpid(), VMREPL_RING_MIN);
	bool first;

	if (err)
		tap_die("attach: %s %s", strerror(err), c.attach.why);
	consumer_watch(&c, v->ram, PAGES);
	for (int i = 0; i < 3; i++)
		if (consumer_epoch(&c, 0))
			tap_die("epoch %lu", c.epoch);
	vmm_write(v, 0, VMM_FIRST_PAGE, HOT, 1, 7);
	err = consumer_epoch(&c, VMREPL_FREEZE_COW);
	tap_ok(!err && !(c.freeze.flags & VMREPL_FREEZE_COW) && c.records >= HOT &&
	       !memcmp(c.copy, v->ram, PAGES * VMM_PAGE),
	       "a set larger than the rings: the guest has to wait, and all of it comes");
	vmm_write(v, 0, VMM_FIRST_PAGE, 100, 1, 8);
	err = consumer_freeze(&c, VMREPL_FREEZE_COW);
	first = !err && c.freeze.flags & VMREPL_FREEZE_COW;
	vmm_write(v, 0, VMM_FIRST_PAGE, 100, 1, 9);
	err = err ?: consumer_drain(&c);
	for (uint64_t p = VMM_FIRST_PAGE; p < VMM_FIRST_PAGE + 100; p++)
		first = first && *(uint64_t *)(c.copy + p * VMM_PAGE) == 8;
	tap_ok(!err && first, "a set larger than one ring, but not than both: the other takes the rest");
	err = consumer_freeze(&c, VMREPL_FREEZE_COW | VMREPL_FREEZE_LIVE);
	tap_ok(err == EINVAL, "a live round cannot be copied on write");
	consumer_close(&c);
	vmm_destroy(v);
}

/* How many of them the host sets aside. */
static void hugepages(const char *nr)
{
	int fd = open("/proc/sys/vm/nr_hugepages", O_WRONLY | O_CLOEXEC);

	if (write(fd, nr, strlen(nr)) != (ssize_t)strlen(nr))
		tap_die("huge pages: %s", strerror(errno));
	close(fd);
}

int main(int argc, char **argv)
{
	int epochs = argc > 1 ? atoi(argv[1]) : 100;
	int first = argc > 2 ? atoi(argv[2]) : epochs;
	static char block[128 * VMM_PAGE];
	int disk = open("/dev/ram0", O_RDWR | O_CLOEXEC);

	if (epochs < 1 || first < 1)
		tap_die("usage: cow_test [EPOCHS [EPOCHS OF PRIVATE MEMORY AND 4 VCPUS]]");
	for (size_t i = 0; i < sizeof(block) / 8; i++)
		((uint64_t *)block)[i] = 0x1000000 + i;
	if (disk < 0 || write(disk, block, sizeof(block)) != sizeof(block) ||
	    fsync(disk))
		tap_die("/dev/ram0: %s (modprobe brd)", strerror(errno));
	close(disk);

	test_no_room();
	test_cow(VMM_RAM_ANON, 4, first, 0);
	test_cow(VMM_RAM_ANON, 1, epochs / 2, VMREPL_ATTACH_HASH);
	test_cow(VMM_RAM_THP, 2, epochs / 2, VMREPL_ATTACH_HASH);
	test_cow(VMM_RAM_MEMFD, 2, epochs / 2, 0);
	hugepages("12\n");
	test_cow(VMM_RAM_HUGETLB, 2, epochs / 4, VMREPL_ATTACH_HASH);
	test_cow(VMM_RAM_HUGEFD, 2, epochs / 4, 0);
	hugepages("0\n");
	return tap_done();
}
