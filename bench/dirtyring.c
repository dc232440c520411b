// SPDX-License-Identifier: GPL-2.0
/*
 * KVM's dirty ring, one for each vCPU. What KVM says in between, because a ring is
 * full, is kept in a bitmap, as QEMU does.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "method.h"
#include "sink.h"
#include "tap.h"

#define ENTRIES		(METHOD_RING_BYTES / sizeof(struct kvm_dirty_gfn))

struct dirtyring {
	struct vmm *vmm;
	struct kvm_dirty_gfn *ring[VMM_MAX_VCPUS];
	uint32_t next[VMM_MAX_VCPUS];
	pthread_mutex_t lock;
	uint64_t *bitmap;
	struct sink sink;
};

static void collect(struct dirtyring *d, int i)
{
	for (;; d->next[i]++) {
		struct kvm_dirty_gfn *e = &d->ring[i][d->next[i] % ENTRIES];

		if (__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) !=
		    KVM_DIRTY_GFN_F_DIRTY)
			return;
		d->bitmap[e->offset / 64] |= 1UL << e->offset % 64;
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET,
				 __ATOMIC_RELEASE);
	}
}

static void reap(struct dirtyring *d)
{
	for (int i = 0; i < d->vmm->nr_vcpus; i++)
		collect(d, i);
	if (ioctl(d->vmm->vm, KVM_RESET_DIRTY_RINGS, 0) < 0)
		tap_die("KVM_RESET_DIRTY_RINGS: %s", strerror(errno));
}

static void on_full(void *arg)
{
	struct dirtyring *d = arg;

	pthread_mutex_lock(&d->lock);
	reap(d);
	pthread_mutex_unlock(&d->lock);
}

static void copy(struct dirtyring *d)
{
	for (uint64_t word = 0; word < (d->vmm->pages + 63) / 64; word++) {
		for (uint64_t bits = d->bitmap[word]; bits; bits &= bits - 1) {
			uint64_t gfn = word * 64 + __builtin_ctzl(bits);

			sink_page(&d->sink, gfn, d->vmm->ram + gfn * VMM_PAGE);
		}
		d->bitmap[word] = 0;
	}
}

static void dirtyring_freeze(void *m, struct cost *cost)
{
	struct dirtyring *d = m;
	uint64_t start = now_ns();

	d->sink.pages = 0;
	reap(d);
	cost->found = now_ns() - start;
	copy(d);
	cost->pause = now_ns() - start;
	cost->total = cost->pause;
	cost->pages = d->sink.pages;
}

static void *dirtyring_open(struct load *l)
{
	struct dirtyring *d = calloc(1, sizeof(*d));

	d->vmm = l->vmm;
	d->bitmap = calloc(d->vmm->pages / 64 + 1, 8);
	memset(d->bitmap, 0, d->vmm->pages / 8 + 8);
	pthread_mutex_init(&d->lock, NULL);
	sink_open(&d->sink, 65536 + 1024);
	for (int i = 0; i < l->vcpus; i++) {
		d->ring[i] = mmap(NULL, METHOD_RING_BYTES, PROT_READ | PROT_WRITE,
				  MAP_SHARED, l->vmm->vcpu[i].fd,
				  KVM_DIRTY_LOG_PAGE_OFFSET * VMM_PAGE);
		if (d->ring[i] == MAP_FAILED)
			tap_die("mmap of a dirty ring: %s", strerror(errno));
	}
	l->full = on_full;
	l->full_arg = d;
	if (vmm_slot(d->vmm, 0, 0, d->vmm->pages, d->vmm->ram,
		     KVM_MEM_LOG_DIRTY_PAGES))
		tap_die("KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
	return d;
}

static void dirtyring_close(void *m)
{
	struct dirtyring *d = m;

	for (int i = 0; i < d->vmm->nr_vcpus; i++)
		munmap(d->ring[i], METHOD_RING_BYTES);
	vmm_slot(d->vmm, 0, 0, d->vmm->pages, d->vmm->ram, 0);
	sink_close(&d->sink);
	free(d->bitmap);
	free(d);
}

const struct method method_ring = {
	.name = "dirty-ring",
	.ring = true,
	.open = dirtyring_open,
	.freeze = dirtyring_freeze,
	.close = dirtyring_close,
};
