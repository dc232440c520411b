// SPDX-License-Identifier: GPL-2.0
/*
 * Several VMs of several processes, each with a session of its own, at once: what one
 * writes is in its own sets and in no other's, and sessions come and go beside each
 * other.
 *
 * All of it is at the same addresses in each process, as it may be with QEMU.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES	2048UL
#define VMS	3
#define ROUNDS	8

/* What the processes tell each other. */
struct shared {
	volatile int ready;
	volatile int done;
	volatile uint64_t epochs[VMS];
};

static struct shared *shared;

static void fill(struct vmm *v, uint64_t value)
{
	for (uint64_t p = VMM_FIRST_PAGE; p < PAGES; p++)
		*(uint64_t *)(v->ram + p * VMM_PAGE) = value << 32 | p;
}

static bool fine(struct consumer *c, uint32_t flags)
{
	int err = consumer_epoch(c, flags);

	if (err)
		tap_note("epoch %lu: %s", c->epoch, strerror(err));
	return !err && !c->errors && !c->strange;
}

/* Live rounds while its vCPUs and a thread of its own write, then a quiet one. */
static bool busy_round(struct vmm *v, struct consumer *c, int round)
{
	bool ok = true;

	vmm_hammer(v, 0, VMM_FIRST_PAGE, 300, 3);
	vmm_hammer(v, 1, VMM_FIRST_PAGE + 1, 300, 3);
	for (int i = 0; i < 4; i++) {
		for (uint64_t p = 1000; p < 1100; p++)
			v->ram[p * VMM_PAGE + 100] = (uint8_t)(round + i);
		ok = fine(c, VMREPL_FREEZE_LIVE) && ok;
	}
	vmm_stop(v);
	return fine(c, 0) && expect_same(v, c, 0, PAGES) && ok;
}

/* Its own writes are in the set, and nothing else, whatever the others do. */
static bool exact_round(struct vmm *v, struct consumer *c, int round)
{
	uint64_t wrong = 0;

	vmm_write(v, round & 1, 200, 100, 2, (uint64_t)round << 8);
	if (!fine(c, 0))
		return false;
	for (uint64_t p = VMM_FIRST_PAGE; p < PAGES; p++)
		wrong += c->seen[p] != (p >= 200 && p < 400 && p % 2 == 0);
	if (wrong)
		tap_note("%lu pages wrong", wrong);
	return !wrong && expect_same(v, c, 0, PAGES);
}

/* @comes_and_goes: it is attached anew in each round. Return: the exit code. */
static int one(int which, bool comes_and_goes)
{
	struct vmm *v = vmm_create(which == 1 ? VMM_RAM_MEMFD : VMM_RAM_ANON, PAGES, 2);
	struct consumer c;
	bool ok = true;

	fill(v, which);
	__atomic_fetch_add(&shared->ready, 1, __ATOMIC_SEQ_CST);
	if (!expect_until(shared->ready == VMS))
		return 1;
	expect_attach(&c, getpid(), 256);
	consumer_watch(&c, v->ram, PAGES);
	ok = fine(&c, 0) && expect_same(v, &c, 0, PAGES);
	/* What the first sync itself maps. */
	for (int i = 0; i < 3; i++)
		ok = fine(&c, 0) && ok;
	/* Until every other one has done its part: then all were there at once. */
	for (int round = 0; ok && (round < ROUNDS || shared->done < VMS); round++) {
		if (comes_and_goes) {
			consumer_close(&c);
			fill(v, round);
			expect_attach(&c, getpid(), 256);
			consumer_watch(&c, v->ram, PAGES);
			ok = fine(&c, 0) && expect_same(v, &c, 0, PAGES);
			for (int i = 0; i < 3; i++)
				ok = fine(&c, 0) && ok;
		}
		ok = ok && busy_round(v, &c, round) && fine(&c, 0) && exact_round(v, &c, round);
		shared->epochs[which] = c.epoch;
		if (round + 1 == ROUNDS)
			__atomic_fetch_add(&shared->done, 1, __ATOMIC_SEQ_CST);
	}
	if (!ok) {
		tap_note("VM %d: not as it should be after epoch %lu", which, c.epoch);
		__atomic_fetch_add(&shared->done, VMS, __ATOMIC_SEQ_CST);
	}
	consumer_close(&c);
	ok = expect_untouched(v) && ok;
	vmm_destroy(v);
	return !ok;
}

static void all(bool comes_and_goes, const char *what)
{
	pid_t pid[VMS];
	int status, bad = 0;

	memset(shared, 0, sizeof(*shared));
	fflush(stdout);
	for (int i = 0; i < VMS; i++) {
		pid[i] = fork();
		if (pid[i])
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		status = one(i, comes_and_goes && i == VMS - 1);
		fflush(stdout);
		_exit(status);
	}
	for (int i = 0; i < VMS; i++)
		bad += waitpid(pid[i], &status, 0) != pid[i] || status;
	tap_ok(!bad, "%d VMs%s: %d of them whole and exact in each epoch (%lu, %lu, %lu at the end)",
	       VMS, what, VMS - bad, shared->epochs[0], shared->epochs[1], shared->epochs[2]);
}

int main(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		tap_die("mmap: %s", strerror(errno));
	all(false, " with sessions at once");
	all(true, ", one of which is attached anew again and again");
	tap_ok(!expect_hooks(), "no hook is left");
	return tap_done();
}
