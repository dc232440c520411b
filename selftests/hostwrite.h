/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The ways in which a VMM, not its guest, writes to guest RAM. Each function that has
 * only a VM and a page writes HOSTWRITE_PAGES pages from page @first on, all of them,
 * and something else than the time before. Return: it did; false: errno may say why not.
 */
#ifndef _SELFTESTS_HOSTWRITE_H
#define _SELFTESTS_HOSTWRITE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "consumer.h"
#include "vmm.h"

#define HOSTWRITE_PAGES	16UL

/* A disk in memory that reads past the page cache; see selftests/run. */
#define HOSTWRITE_DISK	"/dev/ram0"

/* Fill the disk: every page differs from every other. Exits on any error. */
void hostwrite_prepare_disk(void);

/* A plain store into each page. */
bool hostwrite_store(struct vmm *v, uint64_t first);
/* read(2): the kernel copies, on behalf of the VMM. */
bool hostwrite_read(struct vmm *v, uint64_t first);
/* O_DIRECT from the disk: it writes pages that were taken hold of before. */
bool hostwrite_direct_io(struct vmm *v, uint64_t first);
/* process_vm_writev(2) in another process. */
bool hostwrite_other_process(struct vmm *v, uint64_t first);
/* pwrite(2) to /proc/PID/mem. */
bool hostwrite_proc_mem(struct vmm *v, uint64_t first);
/* A store while a child shares the pages: where they are private it moves them. */
bool hostwrite_store_after_fork(struct vmm *v, uint64_t first);

/* A way to write, in a test's table. */
struct hostwrite {
	const char *name;
	bool (*write)(struct vmm *v, uint64_t first);
};

/* Those above, to begin such a table with. */
#define HOSTWRITE_ALL							\
	{ "a plain store", hostwrite_store },				\
	{ "read(2)", hostwrite_read },					\
	{ "O_DIRECT", hostwrite_direct_io },				\
	{ "process_vm_writev", hostwrite_other_process },		\
	{ "/proc/PID/mem", hostwrite_proc_mem },			\
	{ "a store after fork", hostwrite_store_after_fork }

/*
 * Write in that way, twice, with an epoch after each: the second finds pages that an
 * epoch has protected. Return: all of it was in both sets, and after both the first
 * @pages pages of RAM were as their copy.
 */
bool hostwrite_is_seen(const struct hostwrite *w, struct vmm *v, struct consumer *c,
		       uint64_t first, uint64_t pages);

/* Two threads that write all the time. The test sets what stands above @stop. */
struct hostwrite_hammer {
	struct vmm *vmm;
	uint64_t end;			/* stores go to any page below this */
	uint64_t first;			/* the disk's pages */
	uint64_t count;
	volatile bool stop;
	volatile uint64_t stores;	/* since the first start */
	volatile uint64_t reads;	/* of the disk, since then */
	pthread_t store_thread;
	pthread_t disk_thread;
};

/* Start both; returns when each has written. Exits if one does not. */
void hostwrite_hammer_start(struct hostwrite_hammer *h);
/* Nothing is written any more when it returns. */
void hostwrite_hammer_stop(struct hostwrite_hammer *h);

#endif /* _SELFTESTS_HOSTWRITE_H */
