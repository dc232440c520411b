// SPDX-License-Identifier: GPL-2.0
/*
 * memory_test: attaching and detaching, a hundred times, and the kernel's memory is
 * where it was. A session is left in every state that it can be in: never used, in
 * the middle of a copy, after whole epochs. TAP.
 *
 *	memory_test [CYCLES [SECONDS]]
 *
 * SECONDS: how long it may take until all is given back, at most 60.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

/*
 * 128 MiB of guest RAM: then each bitmap of the module is a page, the hashes are
 * 64 of them, and nothing that a session has is less than the tolerance below.
 */
#define PAGES		32768UL
/* Pages that the guest has ever touched; the others cost the copy little. */
#define USED		512UL
#define WARM_UP		20
/* Cycles in which the hooks come and go too: they take the longest. */
#define WITH_HOOKS	10

/*
 * What a cycle may leave of each kind: half of the smallest thing of a session, a bitmap of
 * 4 KiB. So one thing that is forgotten once in each cycle is found. What else goes
 * on in the host is far less than that in a hundred cycles (docs/testing.md).
 */
#define TOLERATED_KIB_A_CYCLE	2

/* In KiB, of /proc/meminfo. */
struct memory {
	long slab;		/* that cannot be reclaimed */
	long vmalloc;
	long percpu;
	long stacks;		/* of threads: the workers' among them */
	long page_tables;
};

static struct memory memory_now(void)
{
	struct memory m = {};
	const struct { const char *format; long *to; } lines[] = {
		{ "SUnreclaim: %ld", &m.slab },
		{ "VmallocUsed: %ld", &m.vmalloc },
		{ "Percpu: %ld", &m.percpu },
		{ "KernelStack: %ld", &m.stacks },
		{ "PageTables: %ld", &m.page_tables },
	};
	unsigned int found = 0;
	char line[128];
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	if (!f)
		tap_die("/proc/meminfo: %s", strerror(errno));
	while (fgets(line, sizeof(line), f))
		for (unsigned int i = 0; i < sizeof(lines) / sizeof(*lines); i++)
			found += sscanf(line, lines[i].format, lines[i].to) == 1;
	fclose(f);
	if (found != sizeof(lines) / sizeof(*lines))
		tap_die("/proc/meminfo has not what is looked for");
	return m;
}

/* How much more of the kind that has grown most. */
static long grown(const struct memory *from, const struct memory *to)
{
	const long by[] = {
		to->slab - from->slab, to->vmalloc - from->vmalloc,
		to->percpu - from->percpu, to->stacks - from->stacks,
		to->page_tables - from->page_tables,
	};
	long most = 0;

	for (unsigned int i = 0; i < sizeof(by) / sizeof(*by); i++)
		if (by[i] > most)
			most = by[i];
	return most;
}

/* What RCU and the slabs still hold is given back after a while. */
static bool memory_is_back(const struct memory *before, long tolerated, int ms)
{
	struct memory now;
	bool back;

	back = expect_within(ms, (now = memory_now(), grown(before, &now) <= tolerated));
	tap_note("KiB before and after: slab %ld %ld, vmalloc %ld %ld, percpu %ld %ld, stacks %ld %ld, page tables %ld %ld",
		 before->slab, now.slab, before->vmalloc, now.vmalloc,
		 before->percpu, now.percpu, before->stacks, now.stacks,
		 before->page_tables, now.page_tables);
	return back;
}

/* Memory of vmalloc() that the module asked for, and has not given back. */
static int vmalloc_areas(void)
{
	FILE *f = fopen("/proc/vmallocinfo", "r");
	char line[512];
	int areas = 0;

	if (!f)
		tap_die("/proc/vmallocinfo: %s", strerror(errno));
	/* Its own text and data have no such line: the loader asked for them. */
	while (fgets(line, sizeof(line), f))
		areas += strstr(line, "[vmrepl]") != NULL;
	fclose(f);
	return areas;
}

/* One session; what is done in it goes by its number. */
static void cycle(struct vmm *v, int number)
{
	static const uint32_t flags[] = {
		0, VMREPL_ATTACH_HASH, VMREPL_ATTACH_HASH,
	};
	struct consumer c;
	int err;

	err = consumer_attach_with(&c, getpid(), VMREPL_RING_MIN << number % 3,
				   flags[number % 3]);
	if (err)
		tap_die("cycle %d: attach: %s %s", number, strerror(err), c.attach.why);
	switch (number % 4) {
	case 0:		/* never used */
		break;
	case 1:		/* the copy stands: rings are full */
		err = consumer_freeze(&c, 0);
		if (err || !expect_until(consumer_stats(&c).ring_full))
			tap_die("cycle %d: the ring does not fill up", number);
		break;
	case 2:		/* the copy has just begun */
		vmm_hammer(v, 0, VMM_FIRST_PAGE, USED - VMM_FIRST_PAGE, 1);
		err = consumer_freeze(&c, VMREPL_FREEZE_LIVE);
		if (err)
			tap_die("cycle %d: freeze: %s", number, strerror(err));
		vmm_stop(v);
		break;
	case 3:		/* whole epochs, but only now and then: it is the long one */
		if (number % 20 != 3)
			break;
		consumer_watch(&c, v->ram, PAGES);
		expect_epoch(&c, 0);
		vmm_write(v, 1, VMM_FIRST_PAGE, 100, 1, number);
		expect_epoch(&c, 0);
		if (!expect_same(v, &c, 0, USED))
			tap_die("cycle %d: the copy is not whole", number);
	}
	consumer_close(&c);
}

/* The lab's debug kernel is told what to do about KASAN's findings. */
static bool kernel_keeps_freed(void)
{
	char line[4096] = "";
	FILE *f = fopen("/proc/cmdline", "re");

	if (!f || !fgets(line, sizeof(line), f))
		tap_die("/proc/cmdline: %s", strerror(errno));
	fclose(f);
	return strstr(line, "kasan_");
}

int main(int argc, char **argv)
{
	int cycles = argc > 1 ? atoi(argv[1]) : 100;
	int seconds = argc > 2 ? atoi(argv[2]) : EXPECT_MS / 1000;
	struct memory before;
	struct vmm *v;
	pid_t keeper;
	int areas;

	if (cycles < 1 || seconds < 1 || seconds > EXPECT_MS / 1000)
		tap_die("usage: memory_test [CYCLES [SECONDS]]");
	v = vmm_create(VMM_RAM_ANON, PAGES, 2);
	vmm_write(v, 0, VMM_FIRST_PAGE, USED - VMM_FIRST_PAGE, 1, 1);
	/* What is allocated once and kept: caches, page tables, ftrace's pages. */
	for (int i = 0; i < WARM_UP; i++)
		cycle(v, i);
	areas = vmalloc_areas();
	before = memory_now();
	for (int i = 0; i < WITH_HOOKS && i < cycles; i++)
		cycle(v, i);
	keeper = expect_keeper();
	for (int i = WITH_HOOKS; i < cycles; i++)
		cycle(v, i);
	expect_no_keeper(keeper);
	if (kernel_keeps_freed())
		tap_skip("KASAN keeps what was freed: what slab has grown by means nothing; kmemleak looks for what is lost");
	else
		tap_ok(memory_is_back(&before, TOLERATED_KIB_A_CYCLE * cycles, seconds * 1000),
		       "%d times attached and detached: the kernel's memory is where it was",
		       cycles);
	tap_ok(!areas && expect_within(seconds * 1000, !vmalloc_areas()),
	       "no mapping of the module's is left");
	tap_ok(expect_untouched(v), "the VM is untouched by it");
	vmm_destroy(v);
	return tap_done();
}
