// SPDX-License-Identifier: GPL-2.0
/*
 * Memslots that come, go, move and change while a VM is protected: I4 holds for
 * whatever the guest, and the VMM, wrote through any of them.
 *
 * All memory lies in one mapping of RAM_PAGES pages at the VMM's side; slot 0
 * shows the guest the first MAIN_PAGES of it, the tests show it the rest.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define RAM_PAGES	4096UL
#define MAIN_PAGES	1024UL
#define PART		256UL		/* pages of another slot */
#define PART_AT		2048UL		/* its first, in the mapping */

/* Where in the guest, in pages. */
#define GUEST_A		0x4000UL
#define GUEST_B		0x8000UL
#define GUEST_C		0xc000UL

static const char *kind_name;

static void *at(struct vmm *v, uint64_t page)
{
	return v->ram + page * VMM_PAGE;
}

/* Set or delete a slot that must be accepted. */
static void slot(struct vmm *v, int id, uint64_t guest, uint64_t pages,
		 uint64_t from, uint32_t flags)
{
	if (vmm_slot(v, id, guest * VMM_PAGE, pages, at(v, from), flags))
		tap_die("slot %d: %s", id, strerror(errno));
}

static void fill(struct vmm *v, uint64_t first, uint64_t count, uint64_t value)
{
	for (uint64_t p = first; p < first + count; p++)
		*(uint64_t *)at(v, p) = value + p;
}

static struct vmm *start(struct consumer *c, enum vmm_ram kind)
{
	struct vmm *v = expect_vmm(kind, RAM_PAGES, RAM_PAGES, 2);

	kind_name = kind == VMM_RAM_ANON ? "anonymous RAM" :
		    kind == VMM_RAM_THP ? "huge pages" : "memfd";
	slot(v, 0, 0, 0, 0, 0);
	slot(v, 0, 0, MAIN_PAGES, 0, 0);
	expect_session(v, c, 0);
	expect_epoch(c, 0);
	expect_epoch(c, 0);
	return v;
}

/* A freeze of its own, which consumer_freeze() would repeat. */
static bool freeze_says_stale(struct consumer *c)
{
	struct vmrepl_freeze f = { .epoch = c->epoch + 1 };

	return expect_errno(expect_ioctl(c->fd, VMREPL_FREEZE, &f), ESTALE);
}

/* Take the layout over. Return: it has a slot like this. */
static bool layout_has(struct consumer *c, struct vmm *v, uint64_t guest,
		       uint64_t pages, uint64_t from, uint32_t flags)
{
	struct vmrepl_slot slots[8];
	struct vmrepl_layout l = { .slots = (uintptr_t)slots, .nr_slots = 8 };

	if (!expect_errno(expect_ioctl(c->fd, VMREPL_LAYOUT, &l), 0))
		return false;
	for (uint32_t i = 0; i < l.nr_slots; i++)
		if (slots[i].gpa == guest * VMM_PAGE &&
		    slots[i].hva == (uintptr_t)at(v, from) &&
		    slots[i].bytes == pages * VMM_PAGE && slots[i].flags == flags)
			return true;
	tap_note("the layout does not have the slot");
	return false;
}

static bool same(struct vmm *v, struct consumer *c)
{
	return expect_same(v, c, 0, MAIN_PAGES) &&
	       expect_same(v, c, PART_AT, PART);
}

static void test_new_slot(struct vmm *v, struct consumer *c)
{
	vmm_write(v, 0, 100, 10, 1, 0x21);
	slot(v, 1, GUEST_A, PART, PART_AT, 0);
	tap_ok(freeze_says_stale(c) && freeze_says_stale(c),
	       "%s: a new slot makes FREEZE say ESTALE", kind_name);
	tap_ok(layout_has(c, v, GUEST_A, PART, PART_AT, 0),
	       "%s: LAYOUT tells the new slot", kind_name);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, PART_AT, PART) && expect_seen(c, 100, 10) &&
	       same(v, c), "%s: all of it is in the next set", kind_name);
	expect_epoch(c, 0);
	vmm_write(v, 0, GUEST_A + 7, 20, 2, 0x22);
	fill(v, PART_AT + 100, 5, 0x220000);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, PART_AT + 100, 5) && c->seen[PART_AT + 7] &&
	       c->seen[PART_AT + 45] && same(v, c),
	       "%s: and then what is written to it", kind_name);
}

static void test_slot_elsewhere(struct vmm *v, struct consumer *c)
{
	vmm_write(v, 0, GUEST_A + 30, 10, 1, 0x31);
	slot(v, 1, 0, 0, PART_AT, 0);
	slot(v, 1, GUEST_B, PART, PART_AT, 0);
	vmm_write(v, 0, GUEST_B + 60, 10, 1, 0x32);
	tap_ok(freeze_says_stale(c) &&
	       layout_has(c, v, GUEST_B, PART, PART_AT, 0),
	       "%s: a slot deleted and made anew elsewhere", kind_name);
	vmm_write(v, 1, GUEST_B + 90, 10, 1, 0x33);
	expect_epoch(c, 0);
	tap_ok(same(v, c), "%s: what was written before, between and after is there",
	       kind_name);
	vmm_write(v, 1, GUEST_B + 30, 70, 1, 0x34);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, PART_AT + 30, 70) && same(v, c),
	       "%s: and later writes too", kind_name);

	/* KVM can also move a slot in one step. */
	slot(v, 1, GUEST_A, PART, PART_AT, 0);
	vmm_write(v, 0, GUEST_A + 5, 10, 1, 0x35);
	tap_ok(freeze_says_stale(c), "%s: a moved slot makes FREEZE say ESTALE",
	       kind_name);
	expect_epoch(c, 0);
	vmm_write(v, 0, GUEST_A + 8, 10, 1, 0x36);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, PART_AT + 8, 10) && same(v, c),
	       "%s: and nothing is lost on the way", kind_name);
}

/* What one step of a toggling VMM does. */
static void toggle_step(struct vmm *v, char step)
{
	static uint64_t value = 0x400000;

	switch (step) {
	case '+':
		slot(v, 0, 0, MAIN_PAGES, 0, KVM_MEM_LOG_DIRTY_PAGES);
		break;
	case '-':
		slot(v, 0, 0, MAIN_PAGES, 0, 0);
		break;
	case 'g':
		vmm_write(v, value & 1, 100 + value % 700, 40, 3, value);
		break;
	case 'h':
		fill(v, 300 + value % 50, 30, value);
		break;
	}
	value += 17;
}

/* +: the VMM's log on, -: off, g: the guest writes, h: the VMM writes. */
static void test_toggle(struct vmm *v, struct consumer *c)
{
	static const char *const how[] = {
		"-g", "-gh-", "+g", "g+g-g", "-g+", "-g+g", "g-h+", "+g-g+g-g",
		"-g-g+g+g", "-+g", "g-+", "-g+-g",
	};
	uint64_t x = 88172645463325252ULL;
	int fine = 0, turns = 40;

	for (unsigned int i = 0; i < sizeof(how) / sizeof(*how); i++) {
		for (const char *step = how[i]; *step; step++)
			toggle_step(v, *step);
		expect_epoch(c, 0);
		if (!tap_ok(same(v, c), "%s: dirty log toggled: %s", kind_name,
			    how[i])) {
			/* The rest is not to suffer from it. */
			toggle_step(v, '-');
			expect_epoch(c, 0);
		}
		/* Writes afterwards are seen, whatever state this left. */
		vmm_write(v, 0, 100, 60, 2, 0x410000 + i);
		expect_epoch(c, 0);
		if (!same(v, c) || !c->seen[100] || !c->seen[218])
			tap_die("%s: blind after %s", kind_name, how[i]);
	}
	for (int i = 0; i < turns; i++) {
		for (int steps = 0; steps < 6; steps++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			toggle_step(v, "+-ggh"[x % 5]);
		}
		expect_epoch(c, 0);
		fine += same(v, c);
	}
	tap_ok(fine == turns, "%s: toggled at random, nothing lost: %d of %d",
	       kind_name, fine, turns);
	toggle_step(v, '-');
	expect_epoch(c, 0);
}

/* Two slots that show the guest the same memory. */
static void test_alias(struct vmm *v, struct consumer *c)
{
	slot(v, 2, GUEST_C, 128, 512, 0);
	expect_epoch(c, 0);
	expect_epoch(c, 0);
	for (int round = 0; round < 3; round++) {
		vmm_write(v, 0, 520, 20, 1, 0x51 + round);
		expect_epoch(c, 0);
		tap_ok(expect_seen(c, 520, 20) && same(v, c),
		       "%s: written at the first address of two (%d)",
		       kind_name, round);
		vmm_write(v, 1, GUEST_C + 10, 20, 1, 0x61 + round);
		expect_epoch(c, 0);
		tap_ok(expect_seen(c, 522, 20) && same(v, c),
		       "%s: written at the second (%d)", kind_name, round);
	}
	vmm_write(v, 0, 520, 20, 1, 0x71);
	vmm_write(v, 1, GUEST_C + 10, 20, 1, 0x72);
	expect_epoch(c, 0);
	tap_ok(c->seen[522] == 1 && same(v, c),
	       "%s: written at both, once in the set", kind_name);
	slot(v, 2, 0, 0, 512, 0);
	vmm_write(v, 0, 520, 20, 1, 0x73);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, 520, 20) && same(v, c),
	       "%s: the first goes on when the second is gone", kind_name);
}

static void test_read_only(struct vmm *v, struct consumer *c)
{
	uint64_t first = PART_AT + 512;

	slot(v, 3, GUEST_C, 64, first, KVM_MEM_READONLY);
	tap_ok(freeze_says_stale(c) &&
	       layout_has(c, v, GUEST_C, 64, first, VMREPL_SLOT_READONLY),
	       "%s: LAYOUT tells a read-only slot as such", kind_name);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, first, 64) && expect_same(v, c, first, 64),
	       "%s: its content is in the set", kind_name);
	expect_epoch(c, 0);
	fill(v, first + 3, 8, 0x7777);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, first + 3, 8) && expect_same(v, c, first, 64),
	       "%s: and what the VMM writes to it", kind_name);
	slot(v, 3, 0, 0, first, 0);
	expect_epoch(c, 0);
}

/* Memory that goes away with its slot, dirty pages and all. */
static void test_unplug(struct vmm *v, struct consumer *c)
{
	int shared = v->memfd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	vmm_write(v, 0, GUEST_A, PART, 1, 0x81);
	fill(v, PART_AT, PART, 0x82);
	vmm_write(v, 0, 200, 30, 1, 0x83);
	slot(v, 1, 0, 0, PART_AT, 0);
	munmap(at(v, PART_AT), PART * VMM_PAGE);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, 200, 30) && expect_same(v, c, 0, MAIN_PAGES),
	       "%s: a slot and its memory taken away", kind_name);
	vmm_write(v, 0, 210, 30, 1, 0x84);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, 210, 30) && expect_same(v, c, 0, MAIN_PAGES),
	       "%s: the rest goes on", kind_name);

	if (mmap(at(v, PART_AT), PART * VMM_PAGE, PROT_READ | PROT_WRITE,
		 MAP_FIXED | shared, v->memfd, PART_AT * VMM_PAGE) ==
	    MAP_FAILED)
		tap_die("mmap: %s", strerror(errno));
	fill(v, PART_AT, PART / 2, 0x85);
	slot(v, 1, GUEST_B, PART, PART_AT, 0);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, PART_AT, PART) && same(v, c),
	       "%s: new memory at the same place is wholly in the set",
	       kind_name);
	vmm_write(v, 0, GUEST_B + 100, 50, 1, 0x86);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, PART_AT + 100, 50) && same(v, c),
	       "%s: and protected", kind_name);
}

/* @kind of memory that no session can protect, at @mem: it comes, and goes. */
static void refused_slot(struct vmm *v, struct consumer *c, const char *kind,
			 void *mem, uint64_t pages)
{
	struct vmrepl_layout l = {};

	vmm_write(v, 0, 100, 20, 1, 0x91);
	if (vmm_slot(v, 5, GUEST_C * VMM_PAGE, pages, mem, 0))
		tap_die("a slot on %s: %s", kind, strerror(errno));
	tap_ok(freeze_says_stale(c) &&
	       expect_errno(expect_ioctl(c->fd, VMREPL_LAYOUT, &l), EOPNOTSUPP) &&
	       freeze_says_stale(c), "%s: LAYOUT refuses %s", kind_name, kind);
	vmm_write(v, 1, 110, 20, 1, 0x92);
	vmm_slot(v, 5, 0, 0, mem, 0);
	expect_epoch(c, 0);
	tap_ok(expect_seen(c, 100, 30) && same(v, c),
	       "%s: all goes on when it is gone, nothing lost", kind_name);
}

static void test_refused_slots(struct vmm *v, struct consumer *c)
{
	size_t bytes = 2 << 20;
	void *mem = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(mem, bytes);
	refused_slot(v, c, "memory that is not there", mem, 16);
}

struct churn {
	struct vmm *vmm;
	volatile bool stop;
	volatile uint64_t turns;
};

/* A thread that has not begun yet proves nothing. */
static void wait_for_turn(struct churn *churn, uint64_t before)
{
	for (int ms = 0; churn->turns == before; ms++) {
		if (ms == 60000)
			tap_die("no memslot has come and gone within a minute");
		usleep(1000);
	}
}

static void *churn_main(void *data)
{
	struct churn *churn = data;
	struct vmm *v = churn->vmm;

	while (!churn->stop) {
		slot(v, 4, GUEST_C, 64, 3072, 0);
		fill(v, 3072, 64, churn->turns);
		slot(v, 4, GUEST_C, 64, 3072, KVM_MEM_LOG_DIRTY_PAGES);
		slot(v, 4, 0, 0, 3072, 0);
		churn->turns++;
	}
	return NULL;
}

/* Everything at once; then it stands still. */
static void test_churn(struct vmm *v, struct consumer *c)
{
	struct churn churn = { .vmm = v };
	int rounds = 3, fine = 0, again = 0;
	pthread_t thread;

	for (int i = 0; i < rounds; i++) {
		uint64_t turns = churn.turns;

		churn.stop = false;
		vmm_hammer(v, 0, 100, 200, 3);
		vmm_hammer(v, 1, GUEST_B, PART, 1);
		pthread_create(&thread, NULL, churn_main, &churn);
		wait_for_turn(&churn, turns);
		for (int live = 0; live < 6; live++) {
			int err = consumer_epoch(c, VMREPL_FREEZE_LIVE);

			if (err)
				tap_die("a live round: %s", strerror(err));
		}
		churn.stop = true;
		pthread_join(thread, NULL);
		vmm_stop(v);
		slot(v, 4, GUEST_C, 64, 3072, 0);
		again += !consumer_epoch(c, 0);
		fine += same(v, c) && expect_same(v, c, 3072, 64);
		slot(v, 4, 0, 0, 3072, 0);
	}
	tap_ok(fine == rounds && again == rounds && churn.turns,
	       "%s: slots that come and go (%lu times) under live rounds: %d of %d whole",
	       kind_name, churn.turns, fine, rounds);
}

int main(void)
{
	static const enum vmm_ram kinds[] = {
		VMM_RAM_ANON, VMM_RAM_THP, VMM_RAM_MEMFD,
	};

	for (unsigned int i = 0; i < 3; i++) {
		struct consumer c;
		struct vmm *v = start(&c, kinds[i]);

		test_new_slot(v, &c);
		test_slot_elsewhere(v, &c);
		test_toggle(v, &c);
		test_alias(v, &c);
		test_read_only(v, &c);
		test_unplug(v, &c);
		test_refused_slots(v, &c);
		test_churn(v, &c);
		expect_end(v, &c);
	}
	return tap_done();
}
