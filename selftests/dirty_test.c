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
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "consumer.h"
#include "tap.h"
#include "vmm.h"

#define PAGES	4096UL			/* 16 MiB */

static const char *const kind_name[] = {
	[VMM_RAM_ANON] = "anonymous RAM",
	[VMM_RAM_THP] = "huge pages",
	[VMM_RAM_MEMFD] = "memfd",
};

static bool copy_is_ram(struct vmm *v, struct consumer *c)
{
	uint64_t bad = 0, first = 0;

	for (uint64_t p = 0; p < v->pages; p++) {
		if (!memcmp(c->copy + p * VMM_PAGE, v->ram + p * VMM_PAGE,
			    VMM_PAGE))
			continue;
		if (!bad++)
			first = p;
	}
	if (bad)
		tap_note("%lu pages differ, the first is %lu", bad, first);
	return !bad;
}

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
	return !wrong && !c->errors && !c->strange;
}

static void epoch(struct consumer *c, uint32_t flags)
{
	int err = consumer_epoch(c, flags);

	if (err)
		tap_die("epoch %lu: %s", c->epoch, strerror(err));
}

static struct vmm *start(struct consumer *c, enum vmm_ram kind, int vcpus,
			 uint32_t ring_slots)
{
	struct vmm *v = vmm_create(kind, PAGES, vcpus);
	int err;

	/* Something in most of it, so that pages are not just zero. */
	for (uint64_t p = VMM_FIRST_PAGE; p < PAGES - 512; p++)
		*(uint64_t *)(v->ram + p * VMM_PAGE) = p;
	err = consumer_attach(c, getpid(), ring_slots);
	if (err)
		tap_die("attach: %s %s", strerror(err), c->attach.why);
	consumer_watch(c, v->ram, PAGES);
	return v;
}

static void stop(struct vmm *v, struct consumer *c)
{
	vmm_stop(v);
	consumer_close(c);
	vmm_destroy(v);
}

/* Epochs until what the first sync itself mapped has settled. */
static void settle(struct consumer *c)
{
	for (int i = 0; i < 4; i++) {
		epoch(c, 0);
		if (c->records < VMM_FIRST_PAGE)
			return;
	}
}

static void test_vcpu_writes(enum vmm_ram kind, int vcpus)
{
	const char *name = kind_name[kind];
	struct consumer c;
	struct vmm *v = start(&c, kind, vcpus, 0);
	uint64_t share = 900 / vcpus;

	epoch(&c, 0);
	tap_ok(c.records >= PAGES && copy_is_ram(v, &c) && !c.errors,
	       "%s, %d vCPUs: the first set is all of RAM", name, vcpus);
	settle(&c);
	tap_ok(c.records < VMM_FIRST_PAGE, "%s, %d vCPUs: nothing written, nothing in the set",
	       name, vcpus);

	for (int round = 1; round <= 3; round++) {
		for (int i = 0; i < vcpus; i++)
			vmm_write(v, i, 100 + 3 * i * share, share, 3,
				  (uint64_t)round << 32 | i);
		epoch(&c, 0);
		tap_ok(set_is(kind, &c, 100, share * vcpus, 3) && copy_is_ram(v, &c),
		       "%s, %d vCPUs: the set is what they wrote (%d)", name,
		       vcpus, round);
	}

	/* More than a log holds is not needed here: all of it, twice. */
	vmm_write(v, 0, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE, 1, 7);
	vmm_write(v, vcpus - 1, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE, 1, 8);
	epoch(&c, 0);
	tap_ok(set_is(kind, &c, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE, 1) &&
	       copy_is_ram(v, &c),
	       "%s, %d vCPUs: pages written twice are in the set once", name,
	       vcpus);
	stop(v, &c);
}

/* A disk in memory that reads past the page cache; see selftests/run. */
#define DIRECT_DISK	"/dev/ram0"

static bool by_store(struct vmm *v)
{
	for (uint64_t p = 200; p < 216; p++)
		v->ram[p * VMM_PAGE + 5]++;
	return true;
}

static bool by_read(struct vmm *v)
{
	int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	bool ok = read(fd, v->ram + 200 * VMM_PAGE, 16 * VMM_PAGE) ==
		  16 * VMM_PAGE;

	close(fd);
	return ok;
}

static bool by_direct_io(struct vmm *v)
{
	int fd = open(DIRECT_DISK, O_RDONLY | O_CLOEXEC | O_DIRECT);
	static off_t at;
	bool ok = fd >= 0 && pread(fd, v->ram + 200 * VMM_PAGE, 16 * VMM_PAGE,
				   at) == 16 * VMM_PAGE;

	at ^= 16 * VMM_PAGE;
	close(fd);
	return ok;
}

static bool by_other_process(struct vmm *v)
{
	static char data[16 * VMM_PAGE];
	struct iovec from = { data, sizeof(data) };
	struct iovec to = { v->ram + 200 * VMM_PAGE, sizeof(data) };
	pid_t parent = getpid(), child;
	int status;

	memset(data, 0x33, sizeof(data));
	child = fork();
	if (!child)
		_exit(process_vm_writev(parent, &from, 1, &to, 1, 0) !=
		      sizeof(data));
	return waitpid(child, &status, 0) == child && !status;
}

static bool by_proc_mem(struct vmm *v)
{
	static char data[16 * VMM_PAGE];
	int fd = open("/proc/self/mem", O_RDWR);
	bool ok;

	memset(data, 0x44, sizeof(data));
	ok = pwrite(fd, data, sizeof(data), (uintptr_t)v->ram + 200 * VMM_PAGE) ==
	     sizeof(data);
	close(fd);
	return ok;
}

/* KVM itself, in the kernel: the clock page of vCPU 0. */
static bool by_kvm(struct vmm *v)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e[1]; } msrs = {
		.head.nmsrs = 1,
		.e[0] = { .index = 0x4b564d01, .data = 200 * VMM_PAGE | 1 },
	};

	if (ioctl(v->vcpu[0].fd, KVM_SET_MSRS, &msrs) != 1)
		return false;
	vmm_write(v, 0, 201, 15, 1, 9);
	msrs.e[0].data = 0;
	return ioctl(v->vcpu[0].fd, KVM_SET_MSRS, &msrs) == 1;
}

static bool by_discard(struct vmm *v)
{
	if (v->memfd >= 0)
		return !fallocate(v->memfd, FALLOC_FL_PUNCH_HOLE |
				  FALLOC_FL_KEEP_SIZE, 200 * VMM_PAGE,
				  16 * VMM_PAGE);
	return !madvise(v->ram + 200 * VMM_PAGE, 16 * VMM_PAGE, MADV_DONTNEED);
}

static bool by_mprotect(struct vmm *v)
{
	uint8_t *at = v->ram + 200 * VMM_PAGE;
	bool ok = !mprotect(at, 16 * VMM_PAGE, PROT_READ) &&
		  !mprotect(at, 16 * VMM_PAGE, PROT_READ | PROT_WRITE);

	return ok && by_store(v);
}

/* A child that lives on shares the pages: the next write moves them. */
static bool by_store_after_fork(struct vmm *v)
{
	int pipefd[2], status;
	pid_t child;
	char c;

	if (pipe(pipefd))
		return false;
	child = fork();
	if (!child) {
		close(pipefd[1]);
		_exit(read(pipefd[0], &c, 1));
	}
	by_store(v);
	close(pipefd[0]);
	close(pipefd[1]);
	waitpid(child, &status, 0);
	return true;
}

/* A second disk in memory; see selftests/run. */
#define SWAP_DISK	"/dev/ram1"

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
static bool by_store_after_swap(struct vmm *v)
{
	uint8_t *at = v->ram + 200 * VMM_PAGE;
	static bool now;

	by_store(v);
	now = !now;
	/* Pages that are on their way to a list are not taken at the first try. */
	for (int ms = 0; now && ms < 10000; ms++) {
		if (madvise(at, 16 * VMM_PAGE, MADV_PAGEOUT))
			return false;
		/* Of shared memory the entry does not tell. */
		if (v->memfd >= 0 || (in_swap(at) && in_swap(at + 15 * VMM_PAGE)))
			return true;
		usleep(1000);
	}
	return !now;
}

static const struct {
	const char *name;
	bool (*write)(struct vmm *v);
} host_writes[] = {
	{ "a plain store", by_store },
	{ "read(2)", by_read },
	{ "O_DIRECT", by_direct_io },
	{ "process_vm_writev", by_other_process },
	{ "/proc/PID/mem", by_proc_mem },
	{ "KVM's own clock page", by_kvm },
	{ "a discard", by_discard },
	{ "a store after mprotect", by_mprotect },
	{ "a store after fork", by_store_after_fork },
	{ "a store after swap", by_store_after_swap },
};

static void test_host_writes(enum vmm_ram kind)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 1, 0);

	settle(&c);
	for (unsigned int i = 0; i < sizeof(host_writes) / sizeof(*host_writes); i++) {
		bool ok = true;

		/* Twice: the second finds pages that an epoch has protected. */
		for (int again = 0; again < 2; again++) {
			ok = ok && host_writes[i].write(v);
			if (!ok)
				tap_note("could not write: %s", strerror(errno));
			epoch(&c, 0);
			for (uint64_t p = 200; p < 216; p++)
				ok = ok && c.seen[p];
			ok = copy_is_ram(v, &c) && ok;
		}
		tap_ok(ok, "%s: %s is in the set", kind_name[kind],
		       host_writes[i].name);
	}
	stop(v, &c);
}

struct host_hammer {
	struct vmm *vmm;
	volatile bool stop;
	volatile uint64_t direct_reads;
	uint64_t compactions;
};

/* A thread that has not begun yet proves nothing. */
static void wait_for_direct_read(struct host_hammer *h, uint64_t before)
{
	for (int ms = 0; h->direct_reads == before; ms++) {
		if (ms == 60000)
			tap_die("no read from " DIRECT_DISK " within a minute");
		usleep(1000);
	}
}

/* The disk writes pages that it took hold of before; no fault comes then. */
static void *direct_hammer_main(void *data)
{
	struct host_hammer *h = data;
	int fd = open(DIRECT_DISK, O_RDONLY | O_CLOEXEC | O_DIRECT);

	for (uint64_t n = 0; !h->stop; n++)
		h->direct_reads += pread(fd, h->vmm->ram + (VMM_FIRST_PAGE +
					 n * 8 % 1024) * VMM_PAGE, 8 * VMM_PAGE,
					 n % 64 * 8 * VMM_PAGE) > 0;
	close(fd);
	return NULL;
}

static void *host_hammer_main(void *data)
{
	struct host_hammer *h = data;
	uint64_t x = 88172645463325252ULL;

	while (!h->stop) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		*(volatile uint64_t *)(h->vmm->ram + (VMM_FIRST_PAGE + x %
				       (PAGES - VMM_FIRST_PAGE)) * VMM_PAGE + 64) = x;
	}
	return NULL;
}

/* The kernel moves pages about under everybody's feet. */
static void *compact_main(void *data)
{
	struct host_hammer *h = data;
	int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);

	while (!h->stop && write(fd, "1", 1) == 1)
		h->compactions++;
	close(fd);
	return NULL;
}

/* Live rounds under writers of every kind; then all stand still. */
static void test_live(enum vmm_ram kind, int vcpus, int rounds)
{
	struct host_hammer h = {};
	pthread_t thread, direct, compact;
	struct consumer c;
	int quiet_ok = 0, quiet = 0;

	h.vmm = start(&c, kind, vcpus, 1024);
	for (int turn = 0; turn < rounds; turn++) {
		uint64_t direct_reads = h.direct_reads;

		h.stop = false;
		for (int i = 0; i < vcpus; i++)
			vmm_hammer(h.vmm, i, VMM_FIRST_PAGE + i, PAGES / 8, 7);
		pthread_create(&thread, NULL, host_hammer_main, &h);
		pthread_create(&direct, NULL, direct_hammer_main, &h);
		pthread_create(&compact, NULL, compact_main, &h);
		wait_for_direct_read(&h, direct_reads);
		for (int i = 0; i < 5; i++)
			epoch(&c, VMREPL_FREEZE_LIVE);
		vmm_stop(h.vmm);
		h.stop = true;
		pthread_join(thread, NULL);
		pthread_join(direct, NULL);
		pthread_join(compact, NULL);
		epoch(&c, 0);
		quiet++;
		quiet_ok += copy_is_ram(h.vmm, &c) && !c.errors;
	}
	tap_ok(quiet_ok == quiet,
	       "%s: %d vCPUs, a host thread and a disk writing over live rounds: %d of %d times whole",
	       kind_name[kind], vcpus, quiet_ok, quiet);
	tap_ok(h.direct_reads, "%s: %lu direct reads among them",
	       kind_name[kind], h.direct_reads);
	tap_ok(h.compactions, "%s: memory was compacted %lu times meanwhile",
	       kind_name[kind], h.compactions);
	stop(h.vmm, &c);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 6;
	int disk = open(DIRECT_DISK, O_RDWR | O_CLOEXEC);
	static char block[64 * 8 * VMM_PAGE];

	if (rounds < 1)
		tap_die("usage: dirty_test [ROUNDS]");
	/* Every page of the disk differs from every other. */
	for (size_t i = 0; i < sizeof(block) / 8; i++)
		((uint64_t *)block)[i] = 0x1000000 + i;
	if (disk < 0 || write(disk, block, sizeof(block)) != sizeof(block) ||
	    fsync(disk))
		tap_die(DIRECT_DISK ": %s (modprobe brd)", strerror(errno));
	close(disk);
	swap_on();

	for (int kind = VMM_RAM_ANON; kind <= VMM_RAM_MEMFD; kind++) {
		for (int vcpus = 1; vcpus <= 4; vcpus++)
			if (kind == VMM_RAM_ANON || vcpus == 2)
				test_vcpu_writes(kind, vcpus);
		test_host_writes(kind);
		test_live(kind, 2, rounds);
		test_live(kind, 0, rounds);
	}
	test_live(VMM_RAM_ANON, 4, rounds);
	swapoff(SWAP_DISK);
	return tap_done();
}
