// SPDX-License-Identifier: GPL-2.0
/*
 * I4: whatever changed guest memory since the last freeze is in the set.
 *
 * The reference is the memory itself: after each quiet freeze, what the records
 * say must equal all of RAM, byte for byte. Where pages are small, the set must
 * also be exact: each page that was written once, and no other.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "hostwrite.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		4096UL			/* 16 MiB */
/* Where host writes go. */
#define AT		200UL
/* A second disk in memory; see selftests/run. */
#define SWAP_DISK	"/dev/ram1"

static const char *const kind_name[] = {
	[VMM_RAM_ANON] = "anonymous RAM",
	[VMM_RAM_THP] = "huge pages",
	[VMM_RAM_MEMFD] = "memfd",
};

/*
 * Is the set exactly @count pages from @first on, every @stride-th? The guest's
 * page tables do not count: to the processor, its walk through them is a write.
 * Of a huge page the set may have all.
 */
static bool set_is(enum vmm_ram kind, struct consumer *c, uint64_t first,
		   uint64_t count, uint64_t stride)
{
	uint64_t wrong = 0;

	for (uint64_t p = VMM_FIRST_PAGE; p < c->pages; p++) {
		bool in = p >= first && (p - first) % stride == 0 &&
			  (p - first) / stride < count;

		if (c->seen[p] == in || (kind == VMM_RAM_THP && c->seen[p] == 1))
			continue;
		if (!wrong++)
			tap_note("page %lu is in the set %u times", p, c->seen[p]);
	}
	if (wrong)
		tap_note("%lu pages wrong; %lu records for %lu pages", wrong,
			 c->records, count);
	return !wrong;
}

static struct vmm *start(struct consumer *c, enum vmm_ram kind, int vcpus,
			 uint32_t ring_slots)
{
	/* Not all of it: some is to be just zero. */
	struct vmm *v = expect_vmm(kind, PAGES, PAGES - 512, vcpus);

	expect_session(v, c, ring_slots);
	return v;
}

static bool same(struct vmm *v, struct consumer *c)
{
	return expect_same(v, c, 0, PAGES);
}

static void test_vcpu_writes(enum vmm_ram kind, int vcpus)
{
	const char *name = kind_name[kind];
	struct consumer c;
	struct vmm *v = start(&c, kind, vcpus, 0);
	uint64_t share = 900 / vcpus;

	expect_epoch(&c, 0);
	tap_ok(c.records >= PAGES && same(v, &c),
	       "%s, %d vCPUs: the first set is all of RAM", name, vcpus);
	expect_settle(&c);
	tap_ok(c.records < VMM_FIRST_PAGE, "%s, %d vCPUs: nothing written, nothing in the set",
	       name, vcpus);

	for (int round = 1; round <= 3; round++) {
		for (int i = 0; i < vcpus; i++)
			vmm_write(v, i, 100 + 3 * i * share, share, 3,
				  (uint64_t)round << 32 | i);
		expect_epoch(&c, 0);
		tap_ok(set_is(kind, &c, 100, share * vcpus, 3) && same(v, &c),
		       "%s, %d vCPUs: the set is what they wrote (%d)", name,
		       vcpus, round);
	}

	/* More than a log holds is not needed here: all of it, twice. */
	vmm_write(v, 0, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE, 1, 7);
	vmm_write(v, vcpus - 1, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE, 1, 8);
	expect_epoch(&c, 0);
	tap_ok(set_is(kind, &c, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE, 1) &&
	       same(v, &c),
	       "%s, %d vCPUs: pages written twice are in the set once", name,
	       vcpus);
	expect_end(v, &c);
}

/* KVM itself, in the kernel: the clock page of vCPU 0. */
static bool by_kvm(struct vmm *v, uint64_t first)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e[1]; } msrs = {
		.head.nmsrs = 1,
		.e[0] = { .index = 0x4b564d01, .data = first * VMM_PAGE | 1 },
	};

	if (ioctl(v->vcpu[0].fd, KVM_SET_MSRS, &msrs) != 1)
		return false;
	vmm_write(v, 0, first + 1, HOSTWRITE_PAGES - 1, 1, 9);
	msrs.e[0].data = 0;
	return ioctl(v->vcpu[0].fd, KVM_SET_MSRS, &msrs) == 1;
}

static bool by_discard(struct vmm *v, uint64_t first)
{
	if (v->memfd >= 0)
		return !fallocate(v->memfd, FALLOC_FL_PUNCH_HOLE |
				  FALLOC_FL_KEEP_SIZE, first * VMM_PAGE,
				  HOSTWRITE_PAGES * VMM_PAGE);
	return !madvise(v->ram + first * VMM_PAGE, HOSTWRITE_PAGES * VMM_PAGE,
			MADV_DONTNEED);
}

static bool by_store_after_mprotect(struct vmm *v, uint64_t first)
{
	size_t bytes = HOSTWRITE_PAGES * VMM_PAGE;
	uint8_t *at = v->ram + first * VMM_PAGE;

	return !mprotect(at, bytes, PROT_READ) &&
	       !mprotect(at, bytes, PROT_READ | PROT_WRITE) &&
	       hostwrite_store(v, first);
}

static void swap_on(void)
{
	static struct {
		uint8_t boot[1024];
		uint32_t version, last_page, nr_bad;
		uint8_t rest[VMM_PAGE - 1024 - 12 - 10];
		char magic[10];
	} head = { .version = 1, .magic = "SWAPSPACE2" };
	int fd = open(SWAP_DISK, O_RDWR | O_CLOEXEC);
	off_t bytes = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);

	_Static_assert(sizeof(head) == VMM_PAGE, "swap header");
	head.last_page = bytes / VMM_PAGE - 1;
	/* A run that was broken off may have left it. */
	swapoff(SWAP_DISK);
	if (!bytes || pwrite(fd, &head, sizeof(head), 0) != sizeof(head) ||
	    fsync(fd) || close(fd) || swapon(SWAP_DISK, 0))
		tap_die(SWAP_DISK ": %s (modprobe brd rd_nr=2)", strerror(errno));
}

static bool in_swap(const void *at)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;
	bool ok = pread(fd, &entry, 8, (uintptr_t)at / VMM_PAGE * 8) == 8;

	close(fd);
	return ok && entry >> 62 & 1;
}

/* Who copies the set brings the pages back; the store after that needs a fault. */
static bool by_store_after_swap(struct vmm *v, uint64_t first)
{
	size_t bytes = HOSTWRITE_PAGES * VMM_PAGE;
	uint8_t *at = v->ram + first * VMM_PAGE;
	static bool now;

	hostwrite_store(v, first);
	now = !now;
	/* Pages that are on their way to a list are not taken at the first try. */
	for (int ms = 0; now && ms < 10000; ms++) {
		if (madvise(at, bytes, MADV_PAGEOUT))
			return false;
		/* Of shared memory the entry does not tell. */
		if (v->memfd >= 0 || (in_swap(at) && in_swap(at + bytes - VMM_PAGE)))
			return true;
		usleep(1000);
	}
	return !now;
}

static const struct hostwrite host_writes[] = {
	HOSTWRITE_ALL,
	{ "KVM's own clock page", by_kvm },
	{ "a discard", by_discard },
	{ "a store after mprotect", by_store_after_mprotect },
	{ "a store after swap", by_store_after_swap },
};

static void test_host_writes(enum vmm_ram kind)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 1, 0);

	expect_settle(&c);
	for (unsigned int i = 0; i < sizeof(host_writes) / sizeof(*host_writes); i++)
		tap_ok(hostwrite_is_seen(&host_writes[i], v, &c, AT, PAGES),
		       "%s: %s is in the set", kind_name[kind], host_writes[i].name);
	expect_end(v, &c);
}

struct compaction {
	volatile bool stop;
	uint64_t times;
};

/* The kernel moves pages about under everybody's feet. */
static void *compact_main(void *data)
{
	struct compaction *c = data;
	int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);

	while (!c->stop && write(fd, "1", 1) == 1)
		c->times++;
	close(fd);
	return NULL;
}

/* Live rounds under writers of every kind; then all stand still. */
static void test_live(enum vmm_ram kind, int vcpus, int rounds)
{
	struct hostwrite_hammer h = {
		.end = PAGES, .first = VMM_FIRST_PAGE, .count = 1024,
	};
	struct compaction compaction = {};
	int quiet_ok = 0, quiet = 0;
	struct consumer c;
	pthread_t compact;

	h.vmm = start(&c, kind, vcpus, 1024);
	for (int turn = 0; turn < rounds; turn++) {
		for (int i = 0; i < vcpus; i++)
			vmm_hammer(h.vmm, i, VMM_FIRST_PAGE + i, PAGES / 8, 7);
		compaction.stop = false;
		pthread_create(&compact, NULL, compact_main, &compaction);
		hostwrite_hammer_start(&h);
		for (int i = 0; i < 5; i++)
			expect_epoch(&c, VMREPL_FREEZE_LIVE);
		vmm_stop(h.vmm);
		compaction.stop = true;
		hostwrite_hammer_stop(&h);
		pthread_join(compact, NULL);
		expect_epoch(&c, 0);
		quiet++;
		quiet_ok += same(h.vmm, &c);
	}
	tap_ok(quiet_ok == quiet,
	       "%s: %d vCPUs, a host thread and a disk writing over live rounds: %d of %d times whole",
	       kind_name[kind], vcpus, quiet_ok, quiet);
	tap_ok(h.reads, "%s: %lu direct reads among them",
	       kind_name[kind], h.reads);
	tap_ok(compaction.times, "%s: memory was compacted %lu times meanwhile",
	       kind_name[kind], compaction.times);
	expect_end(h.vmm, &c);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 2;
	pid_t keeper;

	if (rounds < 1)
		tap_die("usage: dirty_test [ROUNDS]");
	hostwrite_prepare_disk();
	swap_on();
	keeper = expect_keeper();

	for (int kind = VMM_RAM_ANON; kind <= VMM_RAM_MEMFD; kind++) {
		for (int vcpus = 1; vcpus <= 4; vcpus++)
			if (kind == VMM_RAM_ANON || vcpus == 2)
				test_vcpu_writes(kind, vcpus);
		test_host_writes(kind);
		test_live(kind, 2, rounds);
		test_live(kind, 0, rounds);
	}
	test_live(VMM_RAM_ANON, 4, rounds);
	expect_no_keeper(keeper);
	swapoff(SWAP_DISK);
	return tap_done();
}
