// SPDX-License-Identifier: GPL-2.0
/*
 * hotplug_test: processors go and come while a guest is replicated. vCPUs and
 * workers are moved to others in the middle of what they do; nothing that was
 * written is lost. TAP.
 *
 *	hotplug_test [ROUNDS]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		4096UL
#define VCPUS		2
/* Epochs of each round while processors come and go. */
#define LIVE_EPOCHS	4

struct plugger {
	pthread_t thread;
	cpu_set_t cpus;			/* that may go */
	volatile bool stop;
	volatile uint64_t gone;		/* times that one went */
	volatile uint64_t refused;
};

static int cpu_online(int cpu, bool online)
{
	char path[64];
	int fd, err = 0;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	if (write(fd, online ? "1" : "0", 1) != 1)
		err = errno;
	close(fd);
	return err;
}

/* One after the other goes and comes back; at most one is away at a time. */
static void *plugger_main(void *data)
{
	struct plugger *p = data;

	while (!p->stop) {
		for (int cpu = 0; cpu < CPU_SETSIZE && !p->stop; cpu++) {
			if (!CPU_ISSET(cpu, &p->cpus))
				continue;
			if (cpu_online(cpu, false))
				p->refused++;
			else
				p->gone++;
			if (cpu_online(cpu, true))
				p->refused++;
		}
	}
	return NULL;
}

/* A write by the host side too; the copy knows its value from RAM. */
static void host_writes(struct vmm *v, uint64_t value)
{
	for (uint64_t p = 3000; p < 3200; p += 3)
		*(volatile uint64_t *)(v->ram + p * VMM_PAGE + 128) = value;
}

static bool one_round(struct vmm *v, struct consumer *c, struct plugger *p, int round)
{
	uint64_t gone = p->gone, away = p->gone;

	p->stop = false;
	if (pthread_create(&p->thread, NULL, plugger_main, p))
		tap_die("pthread_create: %s", strerror(errno));
	for (int i = 0; i < VCPUS; i++)
		vmm_hammer(v, i, VMM_FIRST_PAGE + i, 1000, 2);
	for (int i = 0; i < LIVE_EPOCHS; i++) {
		host_writes(v, round * 100 + i);
		expect_epoch(c, VMREPL_FREEZE_LIVE);
		/* One that has come and gone between any two epochs proves it. */
		if (!expect_until(p->gone > away || p->refused))
			tap_die("no processor goes");
		away = p->gone;
	}
	/* The guest stands, but processors still come and go in a checkpoint. */
	vmm_stop(v);
	host_writes(v, round * 100 + 99);
	expect_epoch(c, 0);
	if (!expect_same(v, c, 0, PAGES))
		return false;
	/* Every page, through logs that are looked through and rings that fill up. */
	for (int i = 0; i < VCPUS; i++)
		vmm_write(v, i, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE, 1, round + i);
	expect_epoch(c, 0);
	p->stop = true;
	pthread_join(p->thread, NULL);
	return p->gone > gone && expect_seen(c, VMM_FIRST_PAGE, PAGES - VMM_FIRST_PAGE) &&
	       expect_same(v, c, 0, PAGES);
}

/* Attach, one epoch and detach, each with processors on their way. */
static bool cycles(struct vmm *v, struct plugger *p, int count)
{
	bool ok = true;

	p->stop = false;
	if (pthread_create(&p->thread, NULL, plugger_main, p))
		tap_die("pthread_create: %s", strerror(errno));
	for (int i = 0; i < count; i++) {
		struct consumer c;

		expect_attach(&c, getpid(), VMREPL_RING_MIN);
		consumer_watch(&c, v->ram, v->pages);
		vmm_write(v, i % VCPUS, 100, 300, 2, i);
		expect_epoch(&c, 0);
		ok = expect_same(v, &c, 0, PAGES) && ok;
		if (i % 2)
			ok = !consumer_freeze(&c, 0) && ok;
		consumer_close(&c);
	}
	p->stop = true;
	pthread_join(p->thread, NULL);
	return ok;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 3, whole = 0;
	struct plugger p = {};
	struct consumer c;
	struct vmm *v;

	if (rounds < 1)
		tap_die("usage: hotplug_test [ROUNDS]");
	/* Those that programs run on, but not all of them at once. */
	if (sched_getaffinity(0, sizeof(p.cpus), &p.cpus) || CPU_COUNT(&p.cpus) < 2)
		tap_die("this needs two processors for programs");
	v = vmm_create(VMM_RAM_ANON, PAGES, VCPUS);
	expect_attach(&c, getpid(), 256);
	consumer_watch(&c, v->ram, v->pages);
	expect_epoch(&c, 0);
	for (int i = 0; i < rounds; i++)
		whole += one_round(v, &c, &p, i);
	tap_ok(whole == rounds, "whole in %d of %d rounds while processors went %lu times",
	       whole, rounds, p.gone);
	consumer_close(&c);
	tap_ok(expect_untouched(v), "the VM is untouched by it");
	tap_ok(cycles(v, &p, 2 * rounds), "attached and detached while processors come and go");
	tap_ok(expect_untouched(v), "the VM is untouched by that");
	tap_ok(p.gone && !p.refused, "processors went %lu times, and %lu times would not",
	       p.gone, p.refused);
	vmm_destroy(v);
	return tap_done();
}
