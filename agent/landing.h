/* SPDX-License-Identifier: GPL-2.0 */
/*
 * landing: memory that frames are received into. It stays as long as somebody has one of
 * them, so that a page goes from the socket to where it waits for its epoch without being
 * copied in between.
 *
 * One pool for the whole process, and one thread.
 */
#ifndef VMREPL_LANDING_H
#define VMREPL_LANDING_H

#include <stddef.h>
#include <stdint.h>

/**
 * struct landing - a piece of memory
 * @refs: who has it
 * @mark: of who has counted it, see epoch.c
 * @next: of the pool
 * @data: LANDING_BYTES of it
 */
struct landing {
	unsigned int refs;
	uint64_t mark;
	struct landing *next;
	uint8_t data[];
};

#define LANDING_MAP	(4u << 20)
#define LANDING_BYTES	(LANDING_MAP - sizeof(struct landing))

/*
 * So many bytes are to be there, and are kept; 0: none are. What is beyond them goes when
 * nobody has it any more. Returns 0 or -ENOMEM.
 */
int landing_reserve(size_t bytes);

/* An empty one, with one reference. NULL: no memory. */
struct landing *landing_get(void);

static inline struct landing *landing_hold(struct landing *landing)
{
	landing->refs++;
	return landing;
}

/* NULL is fine. */
void landing_put(struct landing *landing);

#endif /* VMREPL_LANDING_H */
