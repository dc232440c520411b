// SPDX-License-Identifier: GPL-2.0
/*
 * How KVM sees the guest's stores: by write protection, or from the processor's own
 * log (PML). The module says which, the set is exact either way, and what it costs
 * in exits shows that it is what was said.
 *
 *	tracking_test [EPOCHS]
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		4096UL
/* More than the log of a vCPU holds, which is 512 on all processors that have one. */
#define WRITTEN		1500UL
#define PML		"/sys/module/kvm_intel/parameters/pml"
#define DEBUGFS		"/sys/kernel/debug"

/* Is the processor's log used, by what KVM itself says? */
static bool kvm_uses_log(void)
{
	int fd = open(PML, O_RDONLY | O_CLOEXEC);
	char c = 'N';

	if (fd < 0)
		return false;
	if (read(fd, &c, 1) != 1)
		tap_die(PML ": %s", strerror(errno));
	close(fd);
	return c == 'Y';
}

static uint64_t exits(void)
{
	FILE *f = fopen(DEBUGFS "/kvm/exits", "re");
	uint64_t n;

	if (!f || fscanf(f, "%lu", &n) != 1)
		tap_die(DEBUGFS "/kvm/exits: %s", strerror(errno));
	fclose(f);
	return n;
}

/* Pages that are not in the set exactly as often as they should be: once or never. */
static uint64_t wrong(struct consumer *c, uint64_t first, uint64_t count,
		      uint64_t stride)
{
	uint64_t n = 0;

	for (uint64_t p = VMM_FIRST_PAGE; p < c->pages; p++)
		n += c->seen[p] != (p >= first && (p - first) % stride == 0 &&
				    (p - first) / stride < count);
	return n;
}

/* Epochs until what the first sync itself mapped has settled. */
static void settle(struct consumer *c)
{
	for (int i = 0; i < 4; i++)
		expect_epoch(c, 0);
}

static void test_exits(struct vmm *v, struct consumer *c, bool log)
{
	const char *how = log ? "the processor's log" : "write protection";
	uint64_t before, events, n = 0, marked;
	bool ok = true;

	/* Every page mapped for writing once, so that only tracking costs anything. */
	vmm_write(v, 0, VMM_FIRST_PAGE, WRITTEN, 2, 1);
	expect_epoch(c, 0);
	for (int again = 0; again < 3; again++) {
		before = exits();
		events = consumer_stats(c).vcpu_events;
		vmm_write(v, 0, VMM_FIRST_PAGE, WRITTEN, 2, 2 + again);
		n = exits() - before;
		marked = consumer_stats(c).vcpu_events - events;
		expect_epoch(c, 0);
		tap_note("%s: %lu pages written, %lu exits, %lu events, %lu pages wrong",
			 how, WRITTEN, n, marked,
			 wrong(c, VMM_FIRST_PAGE, WRITTEN, 2));
		/* A page of the guest's tables is written by the processor's walk. */
		ok = ok && !wrong(c, VMM_FIRST_PAGE, WRITTEN, 2) &&
		     marked >= WRITTEN && marked < WRITTEN + VMM_FIRST_PAGE;
	}
	tap_ok(ok, "%s: each page is logged once, in each epoch", how);
	if (log)
		tap_ok(n < WRITTEN / 10, "%s: %lu exits for %lu pages", how, n,
		       WRITTEN);
	else
		tap_ok(n >= WRITTEN, "%s: %lu exits for %lu pages", how, n, WRITTEN);
}

/* Wait until each vCPU has been through its pages again. */
static void wait_for_passes(struct vmm *v)
{
	for (int i = 0; i < v->nr_vcpus; i++) {
		volatile uint64_t *value = &v->vcpu[i].value;
		uint64_t before = *value;

		for (int ms = 0; *value < before + 2; ms++) {
			if (ms == 60000)
				tap_die("vCPU %d does not run", i);
			usleep(1000);
		}
	}
}

/* What a vCPU has in its log when it is stopped belongs to that epoch. */
static void test_stopped_anywhere(struct vmm *v, struct consumer *c, int epochs)
{
	int whole = 0;

	for (int n = 0; n < epochs; n++) {
		for (int i = 0; i < v->nr_vcpus; i++)
			vmm_hammer(v, i, VMM_FIRST_PAGE + i + n, PAGES / 8, 3);
		wait_for_passes(v);
		if (n % 2)
			expect_epoch(c, VMREPL_FREEZE_LIVE);
		vmm_stop(v);
		expect_epoch(c, 0);
		whole += expect_same(v, c, 0, PAGES);
	}
	tap_ok(whole == epochs, "%d vCPUs stopped anywhere: %d of %d epochs whole",
	       v->nr_vcpus, whole, epochs);
}

int main(int argc, char **argv)
{
	int epochs = argc > 1 ? atoi(argv[1]) : 20;
	bool log = kvm_uses_log();
	struct consumer c;
	struct vmm *v;

	if (epochs < 1)
		tap_die("usage: tracking_test [EPOCHS]");
	if (mount("debugfs", DEBUGFS, "debugfs", 0, NULL) && errno != EBUSY)
		tap_die(DEBUGFS ": %s", strerror(errno));
	v = vmm_create(VMM_RAM_ANON, PAGES, 2);
	expect_session(v, &c, 0);
	tap_note("%s", c.attach.why);
	tap_ok(!!strstr(c.attach.why, "the processor logs") == log &&
	       !!strstr(c.attach.why, "write protection shows") == !log,
	       "what attach says is what KVM does: %s",
	       log ? "PML" : "write protection");
	settle(&c);
	test_exits(v, &c, log);
	test_stopped_anywhere(v, &c, epochs);
	expect_end(v, &c);
	return tap_done();
}
