/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VMM as small as can be: RAM, vCPUs, and a guest that writes the pages it is
 * told to. What the guest writes is known exactly, so what the module reports
 * can be compared with it.
 */
#ifndef _SELFTESTS_VMM_H
#define _SELFTESTS_VMM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VMM_MAX_VCPUS	16
#define VMM_PAGE	4096UL

/* Guest pages below this hold its code and page tables; tests leave them. */
#define VMM_FIRST_PAGE	16UL

enum vmm_ram {
	VMM_RAM_ANON,		/* private, 4 KiB pages */
	VMM_RAM_THP,		/* private, transparent huge pages */
	VMM_RAM_MEMFD,		/* shared */
	VMM_RAM_HUGETLB,	/* private, hugetlbfs pages of 2 MiB */
	VMM_RAM_HUGEFD,		/* the same, shared */
	VMM_RAM_GIANT,		/* shared, one hugetlbfs page of 1 GiB */
};

struct vmm_vcpu {
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool busy;
	uint64_t first;		/* page */
	uint64_t count;
	uint64_t stride;	/* pages */
	uint64_t value;
	struct vmm *vmm;
};

struct vmm {
	int kvm;
	int vm;
	int memfd;
	uint8_t *ram;
	enum vmm_ram kind;
	size_t mapped;			/* bytes at @ram */
	uint64_t pages;
	int nr_vcpus;
	struct vmm_vcpu vcpu[VMM_MAX_VCPUS];
	volatile bool stop;
	volatile bool hold;	/* vCPUs are to park, see vmm_pause() */
	int passes;		/* so many and a vCPU parks by itself; 0: never */
	pthread_mutex_t lock;	/* @hold, @turn and @parked */
	pthread_cond_t moved;
	int parked;
	uint64_t turn;		/* goes up when all may go on */
};

/* Bytes of a page of this kind that a write of the host's own makes writable. */
size_t vmm_ram_unit(enum vmm_ram kind);

/* Create a VM with one memslot of @pages pages at 0. Exits on any error. */
struct vmm *vmm_create(enum vmm_ram kind, uint64_t pages, int nr_vcpus);
/* The same, with KVM's dirty ring of @ring_bytes for each vCPU, unless 0. */
struct vmm *vmm_create_logging(enum vmm_ram kind, uint64_t pages, int nr_vcpus,
			       uint32_t ring_bytes);
void vmm_destroy(struct vmm *v);

/* Set, change or (@pages == 0) delete a memslot. Return: as the ioctl. */
int vmm_slot(struct vmm *v, int id, uint64_t gpa, uint64_t pages, void *hva,
	     uint32_t flags);

/* Does KVM log this slot? */
bool vmm_slot_logged(struct vmm *v, int id, uint64_t pages);

/*
 * Let vCPU @i store @value into @count pages, from page @first on, every
 * @stride-th one; returns when it has. vmm_hammer() repeats it until
 * vmm_stop(), each time with a higher value, in a thread of its own.
 */
void vmm_write(struct vmm *v, int i, uint64_t first, uint64_t count,
	       uint64_t stride, uint64_t value);
void vmm_hammer(struct vmm *v, int i, uint64_t first, uint64_t count,
		uint64_t stride);
void vmm_stop(struct vmm *v);

/*
 * All vCPUs that hammer leave the guest and wait; and go on. As QEMU does at a
 * checkpoint: between the two nothing in the guest runs.
 */
void vmm_pause(struct vmm *v);
void vmm_go(struct vmm *v);

#endif /* _SELFTESTS_VMM_H */
