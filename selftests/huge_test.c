// SPDX-License-Identifier: GPL-2.0
/*
 * Guest RAM on hugetlbfs: I4 holds there too. A vCPU's write is one page in the set,
 * one of the VMM's own makes a whole huge page writable and so is all of that.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		4096UL			/* 16 MiB */
#define HUGE		512UL			/* pages in a huge page of 2 MiB */
/* Beyond this nothing is ever touched but by whoever copies. */
#define USED		(3 * HUGE)
/* Of each host write: in the second huge page. */
#define AT		(HUGE + 200)
#define COUNT		16UL
#define DIRECT_DISK	"/dev/ram0"

#define SYS_2M		"/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define SYS_1G		"/sys/kernel/mm/hugepages/hugepages-1048576kB/"

static const char *name;

static long number(const char *file)
{
	FILE *f = fopen(file, "r");
	long n = -1;

	if (f && fscanf(f, "%ld", &n) != 1)
		n = -1;
	if (f)
		fclose(f);
	return n;
}

/* Returns how many the host has then. */
static long set_aside(const char *file, long n)
{
	FILE *f = fopen(file, "w");

	if (f) {
		fprintf(f, "%ld\n", n);
		fclose(f);
	}
	return number(file);
}

static bool same(struct vmm *v, struct consumer *c)
{
	return expect_same(v, c, 0, USED);
}

static struct vmm *start(struct consumer *c, enum vmm_ram kind, int vcpus)
{
	struct vmm *v = vmm_create(kind, PAGES, vcpus);

	for (uint64_t p = VMM_FIRST_PAGE; p < USED; p++)
		*(uint64_t *)(v->ram + p * VMM_PAGE) = p;
	expect_attach(c, getpid(), 0);
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
		expect_epoch(c, 0);
		if (c->records < VMM_FIRST_PAGE)
			return;
	}
}

static void test_first_sync(enum vmm_ram kind, const char *free_pages)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 1);
	long before = number(free_pages);

	expect_epoch(&c, 0);
	tap_ok(c.records >= PAGES && same(v, &c), "%s: the first set is all of RAM", name);
	settle(&c);
	tap_ok(c.records < VMM_FIRST_PAGE, "%s: then nothing is written, nothing in the set",
	       name);
	tap_ok(before >= 0 && number(free_pages) == before,
	       "%s: holes stay holes (%ld huge pages free)", name, before);
	stop(v, &c);
}

static void test_vcpu_writes(enum vmm_ram kind)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 2);
	uint64_t wrong;

	/* KVM's first look at a page takes it as its VMM would: all of the huge one. */
	vmm_write(v, 0, 100, 600, 1, 0x900);
	settle(&c);
	for (int round = 0; round < 3; round++) {
		vmm_write(v, 0, 100, 200, 3, 0x1000 + round);
		vmm_write(v, 1, 101, 200, 3, 0x2000 + round);
		expect_epoch(&c, 0);
		wrong = 0;
		for (uint64_t p = VMM_FIRST_PAGE; p < PAGES; p++)
			wrong += c.seen[p] != (p >= 100 && p < 700 && (p - 100) % 3 < 2);
		tap_ok(!wrong && same(v, &c), "%s: the set is what the vCPUs wrote (%d)",
		       name, round);
	}
	stop(v, &c);
}

static bool by_store(struct vmm *v)
{
	for (uint64_t p = AT; p < AT + COUNT; p++)
		v->ram[p * VMM_PAGE + 5]++;
	return true;
}

static bool by_read(struct vmm *v)
{
	int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	bool ok = read(fd, v->ram + AT * VMM_PAGE, COUNT * VMM_PAGE) == COUNT * VMM_PAGE;

	close(fd);
	return ok;
}

static bool by_direct_io(struct vmm *v)
{
	int fd = open(DIRECT_DISK, O_RDONLY | O_CLOEXEC | O_DIRECT);
	static off_t at;
	bool ok = fd >= 0 && pread(fd, v->ram + AT * VMM_PAGE, COUNT * VMM_PAGE, at) ==
		  COUNT * VMM_PAGE;

	at ^= COUNT * VMM_PAGE;
	close(fd);
	return ok;
}

static bool by_other_process(struct vmm *v)
{
	static char data[COUNT * VMM_PAGE];
	struct iovec from = { data, sizeof(data) };
	struct iovec to = { v->ram + AT * VMM_PAGE, sizeof(data) };
	pid_t parent = getpid(), child;
	int status;

	data[0]++;
	memset(data + 1, 0x33, sizeof(data) - 1);
	child = fork();
	if (!child)
		_exit(process_vm_writev(parent, &from, 1, &to, 1, 0) != sizeof(data));
	return waitpid(child, &status, 0) == child && !status;
}

static bool by_proc_mem(struct vmm *v)
{
	static char data[COUNT * VMM_PAGE];
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	bool ok;

	data[0]++;
	memset(data + 1, 0x44, sizeof(data) - 1);
	ok = pwrite(fd, data, sizeof(data), (uintptr_t)v->ram + AT * VMM_PAGE) == sizeof(data);
	close(fd);
	return ok;
}

/* Where the guest touches it next there is another page. */
static bool by_discard(struct vmm *v)
{
	size_t unit = v->mapped < 1UL << 30 ? HUGE * VMM_PAGE : 1UL << 30;
	size_t from = unit == 1UL << 30 ? 0 : HUGE * VMM_PAGE;

	if (v->memfd >= 0 && unit < 1UL << 30)
		return !fallocate(v->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, unit);
	/* All of the guest is in the one page: only a part, which zeroes it. */
	if (v->memfd >= 0)
		return !fallocate(v->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  AT * VMM_PAGE, COUNT * VMM_PAGE) && by_store(v);
	return !madvise(v->ram + from, unit, MADV_DONTNEED);
}

static bool by_store_after_mprotect(struct vmm *v)
{
	return !mprotect(v->ram, v->mapped, PROT_READ) &&
	       !mprotect(v->ram, v->mapped, PROT_READ | PROT_WRITE) && by_store(v);
}

/* A child that lives on shares the pages: where they are private the next write moves them. */
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
	return waitpid(child, &status, 0) == child;
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
	{ "a discard", by_discard },
	{ "a store after mprotect", by_store_after_mprotect },
	{ "a store after fork", by_store_after_fork },
};

static void test_host_writes(enum vmm_ram kind)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 1);

	settle(&c);
	for (unsigned int i = 0; i < sizeof(host_writes) / sizeof(*host_writes); i++) {
		bool ok = true;

		/* Twice: the second finds pages that an epoch has protected. */
		for (int again = 0; again < 2; again++) {
			if (!host_writes[i].write(v)) {
				tap_note("could not write: %s", strerror(errno));
				ok = false;
			}
			expect_epoch(&c, 0);
			ok = expect_seen(&c, AT, COUNT) && same(v, &c) && ok;
		}
		tap_ok(ok, "%s: %s is in the set", name, host_writes[i].name);
	}
	stop(v, &c);
}

struct hammer {
	struct vmm *vmm;
	volatile bool stop;
	volatile uint64_t stores;
	volatile uint64_t reads;
};

static void *store_main(void *data)
{
	struct hammer *h = data;
	uint64_t x = 88172645463325252ULL;

	while (!h->stop) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		*(volatile uint64_t *)(h->vmm->ram + (VMM_FIRST_PAGE + x %
				       (USED - VMM_FIRST_PAGE)) * VMM_PAGE + 64) = x;
		h->stores++;
	}
	return NULL;
}

static void *direct_main(void *data)
{
	struct hammer *h = data;
	int fd = open(DIRECT_DISK, O_RDONLY | O_CLOEXEC | O_DIRECT);

	for (uint64_t n = 0; !h->stop; n++)
		h->reads += pread(fd, h->vmm->ram + (HUGE + n * 8 % HUGE) * VMM_PAGE,
				  8 * VMM_PAGE, n % 64 * 8 * VMM_PAGE) > 0;
	close(fd);
	return NULL;
}

/* Live rounds under writers of every kind; then all stand still. */
static void test_live(enum vmm_ram kind)
{
	int rounds = 4, whole = 0;
	struct hammer h = {};
	pthread_t store, direct;
	struct consumer c;

	h.vmm = start(&c, kind, 2);
	for (int i = 0; i < rounds; i++) {
		uint64_t stores = h.stores, reads = h.reads;

		h.stop = false;
		vmm_hammer(h.vmm, 0, VMM_FIRST_PAGE, 150, 7);
		vmm_hammer(h.vmm, 1, VMM_FIRST_PAGE + 1, 150, 7);
		pthread_create(&store, NULL, store_main, &h);
		pthread_create(&direct, NULL, direct_main, &h);
		/* A thread that has not begun yet proves nothing. */
		if (!expect_until(h.stores != stores && h.reads != reads))
			tap_die("no write within a minute");
		for (int live = 0; live < 4; live++)
			expect_epoch(&c, VMREPL_FREEZE_LIVE);
		vmm_stop(h.vmm);
		h.stop = true;
		pthread_join(store, NULL);
		pthread_join(direct, NULL);
		expect_epoch(&c, 0);
		whole += same(h.vmm, &c);
	}
	tap_ok(whole == rounds, "%s: vCPUs, a host thread and a disk writing over live rounds: %d of %d times whole",
	       name, whole, rounds);
	stop(h.vmm, &c);
}

/* The kernel takes the page away from under everybody, and gives another one. */
static void test_migration(enum vmm_ram kind)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 1);
	bool moved = true, ok = true;

	settle(&c);
	for (int i = 0; i < 2; i++) {
		uint8_t *at = v->ram + (i + 1) * HUGE * VMM_PAGE;

		vmm_write(v, 0, (i + 1) * HUGE, 20, 1, 0x71 + i);
		*(uint64_t *)(at + 30 * VMM_PAGE) = 0x72 + i;
		expect_epoch(&c, 0);
		ok = same(v, &c) && ok;
		moved = !madvise(at, VMM_PAGE, MADV_SOFT_OFFLINE) && moved;
		*(uint64_t *)(at + 40 * VMM_PAGE) = 0x73 + i;
		vmm_write(v, 0, (i + 1) * HUGE + 50, 20, 1, 0x74 + i);
		expect_epoch(&c, 0);
		ok = same(v, &c) && expect_seen(&c, (i + 1) * HUGE + 50, 20) &&
		     c.seen[(i + 1) * HUGE + 40] && ok;
	}
	if (!moved)
		tap_note("soft offline: %s", strerror(errno));
	tap_ok(moved && ok, "%s: a page moved to another place, nothing lost", name);
	stop(v, &c);
}

/* Plugged into a VM that is protected already. */
static void test_plugged(void)
{
	struct vmm *v = vmm_create(VMM_RAM_ANON, HUGE, 1);
	size_t bytes = 2 * HUGE * VMM_PAGE;
	struct consumer c;
	uint64_t wrong = 0;
	uint8_t *ram;

	ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		   MAP_HUGETLB, -1, 0);
	if (ram == MAP_FAILED)
		tap_die("huge pages: %s", strerror(errno));
	memset(ram, 0x11, bytes / 2);
	expect_attach(&c, getpid(), 0);
	consumer_watch(&c, ram, 2 * HUGE);
	consumer_epoch(&c, 0);
	consumer_epoch(&c, 0);
	if (vmm_slot(v, 1, HUGE * VMM_PAGE, 2 * HUGE, ram, 0))
		tap_die("a slot: %s", strerror(errno));
	consumer_epoch(&c, 0);
	tap_ok(expect_seen(&c, 0, 2 * HUGE) && !memcmp(c.copy, ram, bytes),
	       "%s: plugged in, all of it is in the set", name);
	vmm_write(v, 0, HUGE + 100, 30, 2, 0x80);
	consumer_epoch(&c, 0);
	consumer_epoch(&c, 0);
	vmm_write(v, 0, HUGE + 100, 30, 2, 0x81);
	consumer_epoch(&c, 0);
	for (uint64_t p = 0; p < 2 * HUGE; p++)
		wrong += c.seen[p] != (p >= 100 && p < 160 && p % 2 == 0);
	tap_ok(!wrong && !memcmp(c.copy, ram, bytes),
	       "%s: and then what is written to it", name);
	vmm_slot(v, 1, 0, 0, ram, 0);
	consumer_close(&c);
	vmm_destroy(v);
	munmap(ram, bytes);
}

static void test_kind(enum vmm_ram kind, const char *what, const char *free_pages)
{
	name = what;
	test_first_sync(kind, free_pages);
	test_vcpu_writes(kind);
	test_host_writes(kind);
	test_live(kind);
	if (kind != VMM_RAM_GIANT)
		test_migration(kind);
}

int main(void)
{
	static char block[64 * 8 * VMM_PAGE];
	int disk = open(DIRECT_DISK, O_RDWR | O_CLOEXEC);

	for (size_t i = 0; i < sizeof(block) / 8; i++)
		((uint64_t *)block)[i] = 0x1000000 + i;
	if (disk < 0 || write(disk, block, sizeof(block)) != sizeof(block) || fsync(disk))
		tap_die(DIRECT_DISK ": %s (modprobe brd)", strerror(errno));
	close(disk);

	if (set_aside(SYS_2M "nr_hugepages", 24) < 24)
		tap_die("the host has no 24 huge pages of 2 MiB");
	test_kind(VMM_RAM_HUGETLB, "private, 2 MiB", SYS_2M "free_hugepages");
	test_plugged();
	test_kind(VMM_RAM_HUGEFD, "shared, 2 MiB", SYS_2M "free_hugepages");
	set_aside(SYS_2M "nr_hugepages", 0);

	if (set_aside(SYS_1G "nr_hugepages", 1) < 1) {
		tap_skip("shared, 1 GiB: the host has no huge page of 1 GiB");
	} else {
		/* It stays: once given back it could hardly be had again. */
		test_kind(VMM_RAM_GIANT, "shared, 1 GiB", SYS_1G "free_hugepages");
	}
	return tap_done();
}
