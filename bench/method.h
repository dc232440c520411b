/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A way to take a checkpoint of the guest's RAM: which pages were written, see
 * that the next write to them is noticed again, and have their content. What each
 * of them does, step by step: docs/benchmarks.md.
 */
#ifndef _BENCH_METHOD_H
#define _BENCH_METHOD_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "load.h"

/**
 * struct cost - of one checkpoint, nanoseconds
 * @prepare:	what is done in advance, while the guest runs
 * @found:	until it is known which pages were written, and they are protected again
 * @pause:	from where the guest stands until it can go on
 * @total:	until the content of all of them is there, what is done in advance included
 * @pages:	how many there were
 */
struct cost {
	uint64_t prepare;
	uint64_t found;
	uint64_t pause;
	uint64_t total;
	uint64_t pages;
};

/**
 * struct method - one way
 * @name:	as it stands in the table
 * @ring:	the guest is to have KVM's dirty ring
 * @open:	begin to track the guest; returns what the others are given, once
 *		everything that was written before is forgotten
 * @prepare:	what can be done before the guest stands; NULL where there is nothing
 * @nth:	of the pages, every @nth is written again after that; 0: none
 * @freeze:	the first part of a checkpoint, for which the guest stands; exits on any error
 * @drain:	the rest of it, while the guest may run; NULL where there is none
 * @close:	end
 */
struct method {
	const char *name;
	bool ring;
	void *(*open)(struct load *l);
	void (*prepare)(void *m, struct cost *cost);
	uint64_t nth;
	void (*freeze)(void *m, struct cost *cost);
	void (*drain)(void *m, struct cost *cost);
	void (*close)(void *m);
};

extern const struct method method_log;		/* dirtylog.c */
extern const struct method method_log_only;	/* the same without the copy */
extern const struct method method_ring;		/* dirtyring.c */
extern const struct method method_pause;	/* module.c */
extern const struct method method_pause_hash;
extern const struct method method_cow;
extern const struct method method_cow_busy;
extern const struct method method_cow_hash;

/* Bytes of the ring that dirtyring.c wants for each vCPU: as large as KVM allows. */
#define METHOD_RING_BYTES	(65536 * 16)

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

#endif /* _BENCH_METHOD_H */
