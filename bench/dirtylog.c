// SPDX-License-Identifier: GPL-2.0
/*
 * KVM's dirty bitmap, as QEMU uses it: manual protection, so that getting the
 * bitmap is separate from clearing it, and clearing is what protects. QEMU clears
 * by pieces of 1 GiB where it begins to send one, and so does this.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "method.h"
#include "sink.h"
#include "tap.h"

#define PIECE_PAGES	(1UL << 18)

struct dirtylog {
	struct vmm *vmm;
	uint64_t *bitmap;
	struct sink sink;
};

static void get(struct dirtylog *d)
{
	struct kvm_dirty_log log = { .dirty_bitmap = d->bitmap };

	if (ioctl(d->vmm->vm, KVM_GET_DIRTY_LOG, &log))
		tap_die("KVM_GET_DIRTY_LOG: %s", strerror(errno));
}

static void clear(struct dirtylog *d)
{
	for (uint64_t at = 0; at < d->vmm->pages; at += PIECE_PAGES) {
		struct kvm_clear_dirty_log log = {
			.first_page = at,
			.num_pages = d->vmm->pages - at < PIECE_PAGES ?
				     d->vmm->pages - at : PIECE_PAGES,
			.dirty_bitmap = d->bitmap + at / 64,
		};

		if (ioctl(d->vmm->vm, KVM_CLEAR_DIRTY_LOG, &log))
			tap_die("KVM_CLEAR_DIRTY_LOG: %s", strerror(errno));
	}
}

static void copy(struct dirtylog *d)
{
	for (uint64_t word = 0; word < (d->vmm->pages + 63) / 64; word++) {
		for (uint64_t bits = d->bitmap[word]; bits; bits &= bits - 1) {
			uint64_t gfn = word * 64 + __builtin_ctzl(bits);

			sink_page(&d->sink, gfn, d->vmm->ram + gfn * VMM_PAGE);
		}
	}
}

static void dirtylog_find(void *m, struct cost *cost)
{
	struct dirtylog *d = m;
	uint64_t start = now_ns();

	get(d);
	clear(d);
	cost->found = now_ns() - start;
}

static void dirtylog_freeze(void *m, struct cost *cost)
{
	struct dirtylog *d = m;
	uint64_t start = now_ns();

	d->sink.pages = 0;
	dirtylog_find(m, cost);
	copy(d);
	cost->pause = now_ns() - start;
	cost->total = cost->pause;
	cost->pages = d->sink.pages;
}

static void *dirtylog_open(struct load *l)
{
	struct dirtylog *d = calloc(1, sizeof(*d));

	d->vmm = l->vmm;
	d->bitmap = calloc(d->vmm->pages / 64 + 1, 8);
	memset(d->bitmap, 0, d->vmm->pages / 8 + 8);
	sink_open(&d->sink, 65536 + 1024);
	if (vmm_slot(d->vmm, 0, 0, d->vmm->pages, d->vmm->ram,
		     KVM_MEM_LOG_DIRTY_PAGES))
		tap_die("KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
	/* Every page is in the first one. */
	get(d);
	clear(d);
	return d;
}

static void dirtylog_close(void *m)
{
	struct dirtylog *d = m;

	vmm_slot(d->vmm, 0, 0, d->vmm->pages, d->vmm->ram, 0);
	sink_close(&d->sink);
	free(d->bitmap);
	free(d);
}

const struct method method_log = {
	.name = "dirty-log",
	.open = dirtylog_open,
	.freeze = dirtylog_freeze,
	.close = dirtylog_close,
};

const struct method method_log_only = {
	.name = "dirty-log-only",
	.open = dirtylog_open,
	.freeze = dirtylog_find,
	.close = dirtylog_close,
};
