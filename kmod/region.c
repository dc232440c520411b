// SPDX-License-Identifier: GPL-2.0
#include <linux/bitmap.h>
#include <linux/mm.h>

#include "hooks.h"
#include "log.h"
#include "region.h"
#include "session.h"

struct vmrepl_region *vmrepl_region_find(struct vmrepl_regions *rs,
					 unsigned long hva, unsigned int *index)
{
	/* Pairs with the release in region_add(). */
	unsigned int i, nr = smp_load_acquire(&rs->nr);

	for (i = 0; i < nr; i++) {
		struct vmrepl_region *r = &rs->tab[i];

		if (hva - r->start < r->nr_pages << PAGE_SHIFT) {
			*index = i;
			return r;
		}
	}
	return NULL;
}

static void region_free(struct vmrepl_region *r)
{
	vmrepl_same_free(&r->same);
	vmrepl_cow_free(&r->cow);
	if (likely(!(debug_break & VMREPL_BREAK_FREE)))
		kvfree(r->held);
	kvfree(r->dirty[1]);
	kvfree(r->dirty[0]);
	memset(r, 0, sizeof(*r));
}

static unsigned long *bitmap_of_pages(unsigned long nr_pages)
{
	return kvcalloc(BITS_TO_LONGS(nr_pages), sizeof(unsigned long),
			GFP_KERNEL_ACCOUNT);
}

static int region_add(struct vmrepl_session *s, unsigned long start,
		      unsigned long end)
{
	struct vmrepl_regions *rs = &s->regions;
	struct vmrepl_region *r = &rs->tab[rs->nr];

	if (rs->nr == VMREPL_MAX_REGIONS)
		return -EOVERFLOW;

	r->start = start;
	r->nr_pages = (end - start) >> PAGE_SHIFT;
	r->dirty[0] = bitmap_of_pages(r->nr_pages);
	r->dirty[1] = bitmap_of_pages(r->nr_pages);
	r->held = bitmap_of_pages(r->nr_pages);
	if (!r->dirty[0] || !r->dirty[1] || !r->held ||
	    vmrepl_cow_alloc(&r->cow, r->nr_pages) ||
	    vmrepl_same_alloc(&r->same, s->same_mode, s->same_seed, r->nr_pages)) {
		region_free(r);
		return -ENOMEM;
	}

	rs->nr_pages += r->nr_pages;
	/* Pairs with the acquire in vmrepl_region_find(). */
	smp_store_release(&rs->nr, rs->nr + 1);

	vmrepl_log_range(s, start, end, false);
	return 0;
}

int vmrepl_region_cover(struct vmrepl_session *s, unsigned long start,
			unsigned long end)
{
	while (start < end) {
		struct vmrepl_region *r;
		unsigned long stop = end;
		unsigned int i;
		int err;

		r = vmrepl_region_find(&s->regions, start, &i);
		if (r) {
			start = r->start + (r->nr_pages << PAGE_SHIFT);
			continue;
		}
		/* Up to where the next known region begins. */
		for (i = 0; i < s->regions.nr; i++) {
			r = &s->regions.tab[i];
			if (r->start > start && r->start < stop)
				stop = r->start;
		}
		err = region_add(s, start, stop);
		if (err)
			return err;
		start = stop;
	}
	return 0;
}

void vmrepl_regions_free(struct vmrepl_regions *rs)
{
	while (rs->nr)
		region_free(&rs->tab[--rs->nr]);
	rs->nr_pages = 0;
}
