// SPDX-License-Identifier: GPL-2.0
/*
 * Guest RAM on hugetlbfs: I4 holds there too. A vCPU's write is one page in the set,
 * one of the VMM's own makes a whole huge page writable and so is all of that.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "hostwrite.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		4096UL			/* 16 MiB */
#define HUGE		512UL			/* pages in a huge page of 2 MiB */
/* Beyond this nothing is ever touched but by whoever copies. */
#define USED		(3 * HUGE)
/* Of each host write: in the second huge page. */
#define AT		(HUGE + 200)

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
	struct vmm *v = expect_vmm(kind, PAGES, USED, vcpus);

	expect_session(v, c, 0);
	return v;
}

static void test_first_sync(enum vmm_ram kind, const char *free_pages)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 1);
	long before = number(free_pages);

	expect_epoch(&c, 0);
	tap_ok(c.records >= PAGES && same(v, &c), "%s: the first set is all of RAM", name);
	expect_settle(&c);
	tap_ok(c.records < VMM_FIRST_PAGE, "%s: then nothing is written, nothing in the set",
	       name);
	tap_ok(before >= 0 && number(free_pages) == before,
	       "%s: holes stay holes (%ld huge pages free)", name, before);
	expect_end(v, &c);
}

static void test_vcpu_writes(enum vmm_ram kind)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 2);
	uint64_t wrong;

	/* KVM's first look at a page takes it as its VMM would: all of the huge one. */
	vmm_write(v, 0, 100, 600, 1, 0x900);
	expect_settle(&c);
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
	expect_end(v, &c);
}

/* Where the guest touches it next there is another page. */
static bool by_discard(struct vmm *v, uint64_t first)
{
	size_t unit = v->mapped < 1UL << 30 ? HUGE * VMM_PAGE : 1UL << 30;
	size_t from = unit == 1UL << 30 ? 0 : HUGE * VMM_PAGE;

	if (v->memfd >= 0 && unit < 1UL << 30)
		return !fallocate(v->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, unit);
	/* All of the guest is in the one page: only a part, which zeroes it. */
	if (v->memfd >= 0)
		return !fallocate(v->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  first * VMM_PAGE, HOSTWRITE_PAGES * VMM_PAGE) &&
		       hostwrite_store(v, first);
	return !madvise(v->ram + from, unit, MADV_DONTNEED);
}

static bool by_store_after_mprotect(struct vmm *v, uint64_t first)
{
	return !mprotect(v->ram, v->mapped, PROT_READ) &&
	       !mprotect(v->ram, v->mapped, PROT_READ | PROT_WRITE) &&
	       hostwrite_store(v, first);
}

static const struct hostwrite host_writes[] = {
	HOSTWRITE_ALL,
	{ "a discard", by_discard },
	{ "a store after mprotect", by_store_after_mprotect },
};

static void test_host_writes(enum vmm_ram kind)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 1);

	expect_settle(&c);
	for (unsigned int i = 0; i < sizeof(host_writes) / sizeof(*host_writes); i++)
		tap_ok(hostwrite_is_seen(&host_writes[i], v, &c, AT, USED),
		       "%s: %s is in the set", name, host_writes[i].name);
	expect_end(v, &c);
}

/* Live rounds under writers of every kind; then all stand still. */
static void test_live(enum vmm_ram kind)
{
	struct hostwrite_hammer h = { .end = USED, .first = HUGE, .count = HUGE };
	int rounds = 4, whole = 0;
	struct consumer c;

	h.vmm = start(&c, kind, 2);
	for (int i = 0; i < rounds; i++) {
		vmm_hammer(h.vmm, 0, VMM_FIRST_PAGE, 150, 7);
		vmm_hammer(h.vmm, 1, VMM_FIRST_PAGE + 1, 150, 7);
		hostwrite_hammer_start(&h);
		for (int live = 0; live < 4; live++)
			expect_epoch(&c, VMREPL_FREEZE_LIVE);
		vmm_stop(h.vmm);
		hostwrite_hammer_stop(&h);
		expect_epoch(&c, 0);
		whole += same(h.vmm, &c);
	}
	tap_ok(whole == rounds, "%s: vCPUs, a host thread and a disk writing over live rounds: %d of %d times whole",
	       name, whole, rounds);
	expect_end(h.vmm, &c);
}

/* The kernel takes the page away from under everybody, and gives another one. */
static void test_migration(enum vmm_ram kind)
{
	struct consumer c;
	struct vmm *v = start(&c, kind, 1);
	bool moved = true, ok = true;

	expect_settle(&c);
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
	expect_end(v, &c);
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
	pid_t keeper = expect_keeper();

	hostwrite_prepare_disk();
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
	expect_no_keeper(keeper);
	return tap_done();
}
