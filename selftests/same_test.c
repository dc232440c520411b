// SPDX-License-Identifier: GPL-2.0
/*
 * same_test: pages that were written with what they held are left out, and no others;
 * by hash and by comparing. What the agent has stays what the guest has. TAP.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		2048UL
/* What the tests write: of whole pages, so that all that is compared is theirs. */
#define FIRST		64UL
#define COUNT		256UL

static const char *mode;

static bool same(struct vmm *v, struct consumer *c)
{
	return expect_same(v, c, 0, PAGES);
}

/* Records for the pages that a test writes. */
static uint64_t sent(const struct consumer *c)
{
	uint64_t n = 0;

	for (uint64_t p = FIRST; p < FIRST + COUNT; p++)
		n += c->seen[p];
	return n;
}

static struct vmm *start(struct consumer *c, uint32_t flags, int vcpus)
{
	struct vmm *v = vmm_create(VMM_RAM_ANON, PAGES, vcpus);
	int err;

	for (uint64_t p = FIRST; p < FIRST + COUNT; p++)
		memset(v->ram + p * VMM_PAGE, (int)p | 1, VMM_PAGE);
	err = consumer_attach_with(c, getpid(), 0, flags);
	if (err)
		tap_die("attach: %s %s", strerror(err), c->attach.why);
	consumer_watch(c, v->ram, PAGES);
	expect_epoch(c, 0);
	return v;
}

/* One step: what was just written, how many of its pages have to come. */
static void step(struct vmm *v, struct consumer *c, const char *what, uint64_t want)
{
	uint64_t before = consumer_stats(c).same_pages, left_out;

	expect_epoch(c, 0);
	left_out = consumer_stats(c).same_pages - before;
	tap_ok(sent(c) == want && c->freeze.pages >= COUNT &&
	       left_out >= COUNT - want && same(v, c),
	       "%s: %s: %lu of %lu pages come (%lu), %lu are left out", mode, what,
	       want, COUNT, sent(c), left_out);
}

static void test_steps(uint32_t flags)
{
	struct consumer c;
	struct vmm *v = start(&c, flags, 1);
	uint8_t *ram = v->ram + FIRST * VMM_PAGE;

	tap_ok(sent(&c) == COUNT && same(v, &c),
	       "%s: all comes the first time", mode);
	vmm_write(v, 0, FIRST, COUNT, 1, 0x1111);
	step(v, &c, "new content from a vCPU", COUNT);
	vmm_write(v, 0, FIRST, COUNT, 1, 0x1111);
	step(v, &c, "the same again", 0);
	vmm_write(v, 0, FIRST, COUNT, 1, 0x2222);
	vmm_write(v, 0, FIRST, COUNT, 1, 0x1111);
	step(v, &c, "something else and back within an epoch", 0);
	vmm_write(v, 0, FIRST, COUNT, 1, 0x2222);
	step(v, &c, "something else", COUNT);
	vmm_write(v, 0, FIRST, COUNT, 1, 0x1111);
	step(v, &c, "back in the next epoch", COUNT);
	vmm_write(v, 0, FIRST, COUNT, 1, 0x1111);
	vmm_write(v, 0, FIRST, COUNT / 4, 4, 0x3333);
	step(v, &c, "every fourth page changed", COUNT / 4);

	memset(ram, 0, COUNT * VMM_PAGE);
	step(v, &c, "zeros from the host", COUNT);
	memset(ram, 0, COUNT * VMM_PAGE);
	step(v, &c, "zeros again", 0);
	for (uint64_t p = 0; p < COUNT; p++)
		ram[p * VMM_PAGE + VMM_PAGE - 1] = 1;
	step(v, &c, "one byte at the end of each", COUNT);
	for (uint64_t p = 0; p < COUNT; p++)
		ram[p * VMM_PAGE + VMM_PAGE - 1] = 1;
	step(v, &c, "the same byte", 0);
	memset(ram, 0, COUNT * VMM_PAGE);
	step(v, &c, "zeros once more", COUNT);
	expect_end(v, &c);
}

/* An agent that comes anew has nothing. */
static void test_anew(uint32_t flags)
{
	struct consumer c;
	struct vmm *v = start(&c, flags, 1);
	int err;

	consumer_close(&c);
	err = consumer_attach_with(&c, getpid(), 0, flags);
	if (err)
		tap_die("attach again: %s %s", strerror(err), c.attach.why);
	consumer_watch(&c, v->ram, PAGES);
	expect_epoch(&c, 0);
	tap_ok(sent(&c) == COUNT && same(v, &c),
	       "%s: another agent is given all of it", mode);
	expect_end(v, &c);
}

/* Writers of few values, so that pages often come back to what they held. */
static void test_live(uint32_t flags, int turns)
{
	struct consumer c;
	struct vmm *v = start(&c, flags, 2);
	uint64_t left_out;
	int whole = 0;

	for (int turn = 0; turn < turns; turn++) {
		vmm_hammer(v, 0, FIRST, COUNT / 2, 1);
		vmm_hammer(v, 1, FIRST + COUNT / 2, COUNT / 2, 1);
		for (int i = 0; i < 4; i++) {
			for (uint64_t p = FIRST + COUNT; p < FIRST + 2 * COUNT; p++)
				v->ram[p * VMM_PAGE + 100] = (turn + i) / 2;
			expect_epoch(&c, VMREPL_FREEZE_LIVE);
		}
		vmm_stop(v);
		expect_epoch(&c, 0);
		whole += same(v, &c);
	}
	left_out = consumer_stats(&c).same_pages;
	tap_ok(whole == turns, "%s: two vCPUs and a host thread over live rounds: %d of %d times whole",
	       mode, whole, turns);
	tap_ok(left_out >= COUNT, "%s: %lu pages were left out meanwhile", mode, left_out);
	expect_end(v, &c);
}

/* Nobody is killed for a copy that does not fit; the guest stays as it was. */
static void test_too_large(void)
{
	uint64_t pages = 2 * (uint64_t)sysconf(_SC_PHYS_PAGES);
	struct vmm *v = vmm_create(VMM_RAM_ANON, PAGES, 1);
	struct consumer c;
	void *ram;
	int err;

	ram = mmap(NULL, pages * VMM_PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram == MAP_FAILED || vmm_slot(v, 1, 1UL << 32, pages, ram, 0))
		tap_die("no memslot larger than memory");
	err = consumer_attach_with(&c, getpid(), 0, VMREPL_ATTACH_EXACT);
	tap_ok(err == ENOMEM && !vmm_slot_logged(v, 0, PAGES),
	       "exactly: not with a guest that is larger than memory (%s)",
	       strerror(err));
	if (!err)
		consumer_close(&c);
	err = consumer_attach_with(&c, getpid(), 0, VMREPL_ATTACH_HASH);
	tap_ok(!err, "by hash: with the same guest (%s)", strerror(err));
	if (!err)
		consumer_close(&c);
	vmm_destroy(v);
	munmap(ram, pages * VMM_PAGE);
}

int main(void)
{
	static const struct {
		const char *name;
		uint32_t flags;
	} modes[] = {
		{ "by hash", VMREPL_ATTACH_HASH },
		{ "exactly", VMREPL_ATTACH_EXACT },
	};
	pid_t keeper = expect_keeper();
	struct vmrepl_stats st;
	struct consumer c;
	struct vmm *v;

	for (unsigned int i = 0; i < 2; i++) {
		mode = modes[i].name;
		test_steps(modes[i].flags);
		test_anew(modes[i].flags);
		test_live(modes[i].flags, 6);
	}

	test_too_large();

	v = start(&c, 0, 1);
	vmm_write(v, 0, FIRST, COUNT, 1, 0x1111);
	expect_epoch(&c, 0);
	vmm_write(v, 0, FIRST, COUNT, 1, 0x1111);
	expect_epoch(&c, 0);
	st = consumer_stats(&c);
	tap_ok(sent(&c) == COUNT && !st.same_pages,
	       "without a flag nothing is left out");
	expect_end(v, &c);
	expect_no_keeper(keeper);
	return tap_done();
}
