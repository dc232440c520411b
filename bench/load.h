/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guest that is measured, the same for every method: some vCPUs, which write
 * to so many pages in each epoch, evenly spread over all of its RAM.
 */
#ifndef _BENCH_LOAD_H
#define _BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm.h"

struct load;

/* Called in a vCPU's thread when KVM has no room to log what it writes. */
typedef void (*load_full_fn)(void *arg);

/**
 * struct load - a guest and what it does
 * @vmm:	the VM
 * @vcpus:	how many
 * @dirty:	pages written in an epoch, by all vCPUs together
 * @stride:	from one of them to the next, pages
 * @cpu:	of the host: vCPU 0 runs there, the next ones on those behind it; -1: anywhere
 * @full, @full_arg: see load_full_fn
 */
struct load {
	struct vmm *vmm;
	int vcpus;
	uint64_t dirty;
	uint64_t stride;
	int cpu;
	load_full_fn full;
	void *full_arg;
	uint64_t value;
	struct load_vcpu *vcpu;
};

/**
 * load_create() - a guest
 * @l:		@vcpus and @cpu are set
 * @ram_mib:	its RAM, but for the few pages that hold its code
 * @ring_bytes:	of KVM's dirty ring, or 0
 *
 * All of its RAM is there, in pages of 4 KiB, no two alike. Exits on any error.
 */
void load_create(struct load *l, uint64_t ram_mib, uint32_t ring_bytes);
void load_destroy(struct load *l);

/* From now on @dirty pages in an epoch; a multiple of the vCPUs. */
void load_set(struct load *l, uint64_t dirty);

/* Let every vCPU write its share once, all at the same time; returns when all have. */
void load_epoch(struct load *l);

/* The same, but only with every @nth of the pages. */
void load_epoch_nth(struct load *l, uint64_t nth);

/*
 * The same without waiting: each vCPU writes its share @passes times, with @spin
 * turns of an empty loop after each. load_wait() returns when all have;
 * the time of the slowest vCPU's thread on its CPU in nanoseconds.
 */
void load_start(struct load *l, uint64_t passes, uint64_t spin);
uint64_t load_wait(struct load *l);
bool load_done(struct load *l);
/* When the last vCPU was done, CLOCK_MONOTONIC nanoseconds. */
uint64_t load_ended(struct load *l);

/* Where vCPUs are to stand still, and go on: by load_pause() they are out of the guest. */
void load_pause(struct load *l);
void load_resume(struct load *l);

#endif /* _BENCH_LOAD_H */
