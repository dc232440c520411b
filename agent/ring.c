// SPDX-License-Identifier: GPL-2.0
/*
 * ring: the memory ordering is the contract's, see uapi/vmrepl.h.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "ring.h"

int ring_map(struct ring *ring, int fd, unsigned int index, size_t bytes, struct why *why)
{
	struct vmrepl_ring *map;
	uint64_t recs, data;

	memset(ring, 0, sizeof(*ring));
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		   (off_t)((uint64_t)index * bytes));
	if (map == MAP_FAILED) {
		int err = errno;

		return why_set(why, err, "cannot map ring %u of the module: %s", index,
			       strerror(err));
	}
	recs = map->rec_offset + (uint64_t)map->nr_slots * sizeof(struct vmrepl_rec);
	data = map->data_offset + (uint64_t)map->nr_slots * VMREPL_PAGE_SIZE;
	if (map->abi != VMREPL_ABI || !map->nr_slots ||
	    (map->nr_slots & (map->nr_slots - 1)) || recs > bytes || data > bytes) {
		munmap(map, bytes);
		return why_set(why, EPROTO,
			       "the module's ring %u is not as expected; load the vmrepl.ko that belongs to this agent",
			       index);
	}
	ring->map = map;
	ring->bytes = bytes;
	ring->rec = (const struct vmrepl_rec *)((uint8_t *)map + map->rec_offset);
	ring->data = (uint8_t *)map + map->data_offset;
	ring->slots = map->nr_slots;
	ring->given = map->tail;
	ring->taken = map->tail;
	return 0;
}

void ring_unmap(struct ring *ring)
{
	if (ring->map)
		munmap(ring->map, ring->bytes);
	memset(ring, 0, sizeof(*ring));
}

uint64_t ring_ready(const struct ring *ring)
{
	return __atomic_load_n(&ring->map->head, __ATOMIC_ACQUIRE) - ring->taken;
}

const struct vmrepl_rec *ring_rec(const struct ring *ring, uint64_t i)
{
	return &ring->rec[(ring->taken + i) & (ring->slots - 1)];
}

uint8_t *ring_data(const struct ring *ring, uint64_t i)
{
	return ring->data + ((ring->taken + i) & (ring->slots - 1)) * VMREPL_PAGE_SIZE;
}

void ring_take(struct ring *ring, uint64_t n)
{
	ring->taken += n;
	/* Read again by poll(), a call of this thread's. */
	__atomic_store_n(&ring->map->seen, ring->taken, __ATOMIC_RELAXED);
}

bool ring_give(struct ring *ring, uint64_t upto)
{
	if (upto == ring->given)
		return false;
	ring->given = upto;
	__atomic_store_n(&ring->map->tail, upto, __ATOMIC_RELEASE);
	/* The worker sets the flag, then looks at the tail; we the other way. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(&ring->map->flags, __ATOMIC_RELAXED) & VMREPL_RING_NEED_KICK;
}

bool ring_broken(const struct ring *ring)
{
	return __atomic_load_n(&ring->map->flags, __ATOMIC_RELAXED) & VMREPL_RING_BROKEN;
}
