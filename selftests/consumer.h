/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The agent's side of uapi/vmrepl.h, as small as a test needs it: it keeps a
 * second copy of guest RAM up to date from the rings.
 */
#ifndef _SELFTESTS_CONSUMER_H
#define _SELFTESTS_CONSUMER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmrepl.h"

#define CONSUMER_MAX_RINGS	17

struct consumer {
	int fd;
	struct vmrepl_attach attach;
	struct vmrepl_ring *ring[CONSUMER_MAX_RINGS];
	uint64_t tail[CONSUMER_MAX_RINGS];
	uint64_t epoch;
	struct vmrepl_freeze freeze;	/* the last one */
	uintptr_t base;			/* hva of the copy's first page */
	uint64_t pages;
	uint8_t *copy;			/* RAM as the records of whole epochs say it is */
	uint8_t *stage;			/* the pages of this epoch */
	uint16_t *seen;			/* records of each page in this epoch */
	uint64_t records;		/* pages in this epoch */
	uint64_t strange;		/* of them outside the copy */
	uint64_t errors;		/* records that break the contract */
	uint64_t skipped;		/* places without a page in this epoch */
	bool torn;			/* this epoch: the copy stays as it was */
	bool no_kick;			/* the consumer never kicks */
};

/* Open and attach. Return: 0 or the errno; @c->attach.why may say more. */
int consumer_attach(struct consumer *c, pid_t pid, uint32_t ring_slots);
/* The same with VMREPL_ATTACH_* flags. */
int consumer_attach_with(struct consumer *c, pid_t pid, uint32_t ring_slots,
			 uint32_t flags);
/* Keep a copy of @pages pages at @base. */
void consumer_watch(struct consumer *c, const void *base, uint64_t pages);
void consumer_close(struct consumer *c);

/* What the next freeze need not do then; the guest runs. Return: 0 or the errno. */
int consumer_prepare(struct consumer *c);
/* Return: 0 or the errno. ESTALE is answered with VMREPL_LAYOUT and a retry. */
int consumer_freeze(struct consumer *c, uint32_t flags);
/*
 * Take records until every ring has shown END; the copy follows if the epoch is not
 * torn. Return: 0 or an errno.
 */
int consumer_drain(struct consumer *c);
/* Both. */
int consumer_epoch(struct consumer *c, uint32_t flags);

struct vmrepl_stats consumer_stats(struct consumer *c);
/* Of one log; the errno is 0 or why not. */
int consumer_log_stats(struct consumer *c, uint32_t ring, struct vmrepl_log_stats *st);

#endif /* _SELFTESTS_CONSUMER_H */
