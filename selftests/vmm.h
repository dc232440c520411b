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
	bool forever;
	struct vmm *vmm;
};

struct vmm {
	int kvm;
	int vm;
	int memfd;
	uint8_t *ram;
	uint64_t pages;
	int nr_vcpus;
	struct vmm_vcpu vcpu[VMM_MAX_VCPUS];
	volatile bool stop;
};

/* Create a VM with one memslot of @pages pages at 0. Exits on any error. */
struct vmm *vmm_create(enum vmm_ram kind, uint64_t pages, int nr_vcpus);
void vmm_destroy(struct vmm *v);

/* Set, change or (@pages == 0) delete a memslot. Return: as the ioctl. */
int vmm_slot(struct vmm *v, int id, uint64_t gpa, uint64_t pages, void *hva,
	     uint32_t flags);

/* Does KVM log this slot? */
bool vmm_slot_logged(struct vmm *v, int id, uint64_t pages);

/*
 * Let vCPU @i store @value into @count pages, from page @first on, every
 * @stride-th one; returns when it has. With @forever it repeats until
 * vmm_stop(), each time with a higher value, in a thread of its own.
 */
void vmm_write(struct vmm *v, int i, uint64_t first, uint64_t count,
	       uint64_t stride, uint64_t value);
void vmm_hammer(struct vmm *v, int i, uint64_t first, uint64_t count,
		uint64_t stride);
void vmm_stop(struct vmm *v);

#endif /* _SELFTESTS_VMM_H */
