// SPDX-License-Identifier: GPL-2.0
/*
 * VMs of every shape: 1 to 16 vCPUs, 64 MiB to as much as fits. Of each the first set is
 * all of RAM, the next ones are what its vCPUs wrote, and its memory is the copy's.
 *
 *	shape_test [LARGEST_MIB]
 *
 * Without an argument: a row of sizes with two vCPUs, and a row of vCPUs with 64 MiB;
 * with one, all vCPUs and all sizes up to it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define MIB_PAGES	(1UL << 20 >> 12)
/* Each vCPU writes so many pages, all over RAM. */
#define SHARE		64UL

static uint64_t page_of(struct vmm *v, int vcpu, uint64_t n)
{
	uint64_t stride = (v->pages - VMM_FIRST_PAGE) / (SHARE * v->nr_vcpus);

	return VMM_FIRST_PAGE + (n * v->nr_vcpus + vcpu) * stride;
}

/* All vCPUs at once. Return: the set is what they wrote, and the copy is their RAM. */
static bool round_of(struct vmm *v, struct consumer *c, int round)
{
	uint64_t stride = (v->pages - VMM_FIRST_PAGE) / (SHARE * v->nr_vcpus);
	uint64_t wrong = 0, seen = 0, p;

	for (int i = 0; i < v->nr_vcpus; i++)
		vmm_hammer(v, i, page_of(v, i, 0), SHARE, stride * v->nr_vcpus);
	/* Each has been through all of its pages at least once. */
	if (!expect_until(({
		bool all = true;

		for (int i = 0; i < v->nr_vcpus; i++)
			all &= v->vcpu[i].value - ((uint64_t)(i + 1) << 48) >= 1;
		all;
	})))
		return false;
	vmm_stop(v);
	expect_epoch(c, 0);
	for (p = VMM_FIRST_PAGE; p < v->pages; p++)
		seen += c->seen[p] != 0;
	for (int i = 0; i < v->nr_vcpus; i++) {
		for (uint64_t n = 0; n < SHARE; n++) {
			p = page_of(v, i, n);
			wrong += c->seen[p] != 1 ||
				 memcmp(c->copy + p * VMM_PAGE, v->ram + p * VMM_PAGE, VMM_PAGE);
		}
	}
	if (round && (wrong || seen != SHARE * v->nr_vcpus))
		tap_note("round %d: %lu pages wrong, %lu in the set instead of %lu", round, wrong,
			 seen, SHARE * v->nr_vcpus);
	return !wrong && seen == SHARE * v->nr_vcpus;
}

static void shape(int vcpus, uint64_t mib, enum vmm_ram kind)
{
	struct vmm *v = vmm_create(kind, mib * MIB_PAGES, vcpus);
	struct consumer c;
	bool ok;

	expect_attach(&c, getpid(), 0);
	consumer_watch(&c, v->ram, v->pages);
	expect_epoch(&c, 0);
	ok = c.records >= v->pages && c.attach.nr_vcpus == (uint32_t)vcpus &&
	     c.attach.nr_rings == (uint32_t)vcpus + 1 && c.attach.ram_bytes == mib << 20;
	/* What the first set itself maps; then what KVM takes as its VMM would. */
	expect_epoch(&c, 0);
	round_of(v, &c, 0);
	for (int round = 1; round < 4; round++)
		ok = round_of(v, &c, round) && ok;
	ok = expect_same(v, &c, 0, 16 * MIB_PAGES) &&
	     expect_same(v, &c, v->pages - 16 * MIB_PAGES, 16 * MIB_PAGES) && ok;
	tap_ok(ok, "%d vCPUs, %lu MiB%s", vcpus, mib,
	       kind == VMM_RAM_MEMFD ? ", shared" : "");
	consumer_close(&c);
	vmm_destroy(v);
}

int main(int argc, char **argv)
{
	uint64_t largest = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
	static const int some[] = { 1, 3, 8, 16 };

	for (unsigned int i = 0; !largest && i < sizeof(some) / sizeof(*some); i++)
		shape(some[i], 64, VMM_RAM_MEMFD);
	for (uint64_t mib = 64; !largest && mib <= 1024; mib *= 4)
		shape(2, mib, VMM_RAM_MEMFD);
	for (uint64_t mib = 64; mib <= largest; mib *= 2)
		for (int vcpus = 1; vcpus <= VMM_MAX_VCPUS; vcpus++)
			shape(vcpus, mib, vcpus & 1 ? VMM_RAM_ANON : VMM_RAM_MEMFD);
	return tap_done();
}
