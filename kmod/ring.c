// SPDX-License-Identifier: GPL-2.0
#include <linux/mm.h>
#include <linux/vmalloc.h>

#include "compat/compat.h"
#include "ring.h"

#define REC_OFFSET	PAGE_SIZE

static size_t data_offset(u32 nr_slots)
{
	return REC_OFFSET + PAGE_ALIGN(nr_slots * sizeof(struct vmrepl_rec));
}

size_t vmrepl_ring_bytes(u32 nr_slots)
{
	return data_offset(nr_slots) + (size_t)nr_slots * VMREPL_PAGE_SIZE;
}

int vmrepl_ring_alloc(struct vmrepl_ring_mem *r, u32 nr_slots)
{
	/* That there is none is said by an error, not by a stack in the log. */
	r->mem = __vmalloc(vmrepl_ring_bytes(nr_slots), GFP_KERNEL_ACCOUNT |
			   __GFP_ZERO | __GFP_NOWARN);
	if (!r->mem)
		return -ENOMEM;

	r->recs = (void *)r->mem + REC_OFFSET;
	r->data = (void *)r->mem + data_offset(nr_slots);
	r->nr_slots = nr_slots;
	r->mem->abi = VMREPL_ABI;
	r->mem->nr_slots = nr_slots;
	r->mem->rec_offset = REC_OFFSET;
	r->mem->data_offset = data_offset(nr_slots);
	return 0;
}

void vmrepl_ring_free(struct vmrepl_ring_mem *r)
{
	vfree(r->mem);
	r->mem = NULL;
}

long vmrepl_ring_room(struct vmrepl_ring_mem *r)
{
	/* (B) in uapi: the agent is done with what is behind the tail. */
	u64 tail = smp_load_acquire(&r->mem->tail);

	if (tail - r->tail > r->shown - r->tail)
		return -EPROTO;
	r->tail = tail;
	return r->nr_slots - (r->head - tail);
}

void *vmrepl_ring_page_at(struct vmrepl_ring_mem *r, u64 i)
{
	return r->data + (size_t)(i & (r->nr_slots - 1)) * VMREPL_PAGE_SIZE;
}

void *vmrepl_ring_page(struct vmrepl_ring_mem *r)
{
	return vmrepl_ring_page_at(r, r->head);
}

void vmrepl_ring_put(struct vmrepl_ring_mem *r, const struct vmrepl_rec *rec)
{
	r->recs[r->head & (r->nr_slots - 1)] = *rec;
	r->head++;
}

void vmrepl_ring_publish(struct vmrepl_ring_mem *r)
{
	/* poll() compares with this one; the agent must not be believed. */
	WRITE_ONCE(r->shown, r->head);
	/* (A) in uapi: records and pages before the head that shows them. */
	smp_store_release(&r->mem->head, r->head);
}

/* Atomic: the worker and whoever breaks the session write different bits. */
static atomic_t *ring_flags(struct vmrepl_ring_mem *r)
{
	return (atomic_t *)&r->mem->flags;
}

void vmrepl_ring_want_kick(struct vmrepl_ring_mem *r, bool want)
{
	if (want)
		atomic_or(VMREPL_RING_NEED_KICK, ring_flags(r));
	else
		atomic_andnot(VMREPL_RING_NEED_KICK, ring_flags(r));
	/* Pairs with the barrier between the agent's tail and its look here. */
	smp_mb__after_atomic();
}

void vmrepl_ring_set_broken(struct vmrepl_ring_mem *r)
{
	atomic_or(VMREPL_RING_BROKEN, ring_flags(r));
}

bool vmrepl_ring_readable(struct vmrepl_ring_mem *r)
{
	u64 shown = READ_ONCE(r->shown);

	return shown != READ_ONCE(r->mem->tail) && shown != READ_ONCE(r->mem->seen);
}

int vmrepl_ring_mmap(struct vmrepl_ring_mem *r, struct vm_area_struct *vma)
{
	unsigned long addr = vma->vm_start;
	void *page = r->mem;
	int err = 0;

	if (vma->vm_end - vma->vm_start != vmrepl_ring_bytes(r->nr_slots))
		return -EINVAL;
	/* Or a child's copy would keep the session after its agent. */
	compat_vma_set(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	for (; addr < vma->vm_end && !err; addr += PAGE_SIZE, page += PAGE_SIZE)
		err = vm_insert_page(vma, addr, vmalloc_to_page(page));
	return err;
}
