// SPDX-License-Identifier: GPL-2.0
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <linux/xxhash.h>

#include "hooks.h"
#include "same.h"

/* Sums that no hash has: 0 is a page that was never given. */
#define SUM_ZEROS	1ULL
#define SUM_FIRST	2ULL

/*
 * Not kvcalloc(), which stops at 2 GiB. What is not there is not to be had by killing
 * somebody: it would be the VMM, the largest of all.
 */
static void *alloc_much(size_t bytes)
{
	if (bytes >> PAGE_SHIFT >= si_mem_available())
		return NULL;
	return __vmalloc(bytes, GFP_KERNEL_ACCOUNT | __GFP_ZERO |
			 __GFP_RETRY_MAYFAIL | __GFP_NOWARN);
}

int vmrepl_same_alloc(struct vmrepl_same *same, enum vmrepl_same_mode mode,
		      u64 seed, unsigned long nr_pages)
{
	same->seed = seed;
	switch (mode) {
	case VMREPL_SAME_OFF:
		return 0;
	case VMREPL_SAME_HASH:
		same->sums = alloc_much(array_size(nr_pages,
						   sizeof(*same->sums)));
		return same->sums ? 0 : -ENOMEM;
	case VMREPL_SAME_EXACT:
		same->given = alloc_much(BITS_TO_LONGS(nr_pages) * sizeof(long));
		same->copies = alloc_much(array_size(nr_pages, PAGE_SIZE));
		if (same->given && same->copies)
			return 0;
		vmrepl_same_free(same);
		return -ENOMEM;
	}
	return -EINVAL;
}

void vmrepl_same_free(struct vmrepl_same *same)
{
	vfree(same->copies);
	vfree(same->given);
	vfree(same->sums);
	*same = (struct vmrepl_same){};
}

static bool same_sum(struct vmrepl_same *same, unsigned long page,
		     const void *data)
{
	u64 sum = SUM_ZEROS;

	if (data)
		sum = max(xxh64(data, PAGE_SIZE, same->seed), SUM_FIRST);
	if (unlikely(debug_break & VMREPL_BREAK_SAME))
		sum = SUM_FIRST;
	if (same->sums[page] == sum)
		return true;
	same->sums[page] = sum;
	return false;
}

static bool same_copy(struct vmrepl_same *same, unsigned long page,
		      const void *data)
{
	u8 *copy = same->copies + (page << PAGE_SHIFT);

	/* Atomic: other workers set bits of the same word. */
	if (test_and_set_bit(page, same->given) &&
	    (data ? !memcmp(copy, data, PAGE_SIZE) :
	     !memchr_inv(copy, 0, PAGE_SIZE)))
		return true;
	if (data)
		memcpy(copy, data, PAGE_SIZE);
	else
		memset(copy, 0, PAGE_SIZE);
	return unlikely(debug_break & VMREPL_BREAK_SAME);
}

bool vmrepl_same_page(struct vmrepl_same *same, unsigned long page,
		      const void *data)
{
	if (same->sums)
		return same_sum(same, page, data);
	return same->copies && same_copy(same, page, data);
}

void vmrepl_same_forget(struct vmrepl_same *same, unsigned long page)
{
	if (same->sums)
		same->sums[page] = 0;
	if (same->given)
		clear_bit(page, same->given);
}
