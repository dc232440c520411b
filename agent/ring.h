/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ring: the agent's end of one of the module's rings.
 *
 * Records are taken in order, and given back in order once what they hold has
 * been sent: ring_take() moves a cursor of ours, ring_give() moves the tail.
 */
#ifndef VMREPL_RING_H
#define VMREPL_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmrepl.h"
#include "why.h"

/**
 * struct ring - one ring, mapped
 * @map:   the module's struct vmrepl_ring
 * @bytes: length of the mapping
 * @rec:   the records
 * @data:  the data slots
 * @slots: their number, a power of two
 * @taken: records looked at so far
 * @given: records given back so far, our copy of the tail
 */
struct ring {
	struct vmrepl_ring *map;
	size_t bytes;
	const struct vmrepl_rec *rec;
	uint8_t *data;
	uint32_t slots;
	uint64_t taken;
	uint64_t given;
};

/*
 * Maps ring @index of session file @fd. Errors: EPROTO it is not what the
 * contract says; mmap's.
 */
int ring_map(struct ring *ring, int fd, unsigned int index, size_t bytes, struct why *why);
/* Undoes it; nothing happens where it is not mapped. */
void ring_unmap(struct ring *ring);

/* Records that can be taken now. */
uint64_t ring_ready(const struct ring *ring);
/* Record number @ring->taken + @i; @i below ring_ready(). */
const struct vmrepl_rec *ring_rec(const struct ring *ring, uint64_t i);
/* Its page. */
uint8_t *ring_data(const struct ring *ring, uint64_t i);
/*
 * Takes @n records; what they hold stays valid until given back. poll() waits for others
 * from here on.
 */
void ring_take(struct ring *ring, uint64_t n);
/*
 * Gives back all records before number @upto (a value @taken had). Returns true
 * where the module waits for that: VMREPL_KICK.
 */
bool ring_give(struct ring *ring, uint64_t upto);
/* Whether the module calls the session broken. */
bool ring_broken(const struct ring *ring);

#endif /* VMREPL_RING_H */
