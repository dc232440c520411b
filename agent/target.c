// SPDX-License-Identifier: GPL-2.0
/*
 * target: neighbouring pages become one remote piece, and all of a batch one
 * process_vm_writev(). Zeros take no memory where that can be had.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "target.h"

static const uint8_t target_zeros[RAMBLOCK_PAGE];

_Static_assert(EPOCH_BATCH <= BACKING_MAX, "one run of zeros");

struct target_batch {
	struct iovec local[EPOCH_BATCH];
	struct iovec remote[EPOCH_BATCH];
	unsigned int nr_local;
	unsigned int nr_remote;
	size_t bytes;
};

static void target_push(struct target_batch *batch, uint64_t hva, const void *data)
{
	struct iovec *last = batch->nr_local ? &batch->local[batch->nr_local - 1] : NULL;

	if (last && data != target_zeros && (uint8_t *)last->iov_base + last->iov_len == data) {
		last->iov_len += RAMBLOCK_PAGE;
	} else {
		batch->local[batch->nr_local].iov_base = (void *)(uintptr_t)data;
		batch->local[batch->nr_local++].iov_len = RAMBLOCK_PAGE;
	}
	last = batch->nr_remote ? &batch->remote[batch->nr_remote - 1] : NULL;
	if (last && (uintptr_t)last->iov_base + last->iov_len == hva) {
		last->iov_len += RAMBLOCK_PAGE;
	} else {
		batch->remote[batch->nr_remote].iov_base = (void *)(uintptr_t)hva;
		batch->remote[batch->nr_remote++].iov_len = RAMBLOCK_PAGE;
	}
	batch->bytes += RAMBLOCK_PAGE;
}

int target_look(struct target *target)
{
	unsigned int i;

	target_forget(target);
	target->backings = calloc(target->blocks->nr, sizeof(*target->backings));
	if (!target->backings)
		return -ENOMEM;
	target->nr_backings = target->blocks->nr;
	for (i = 0; i < target->nr_backings; i++) {
		const struct ramblock *block = &target->blocks->blocks[i];

		backing_open(&target->backings[i], target->vm, block->big ? block->hva : 0,
			     block->size, block->prealloc);
	}
	return 0;
}

void target_forget(struct target *target)
{
	unsigned int i;

	for (i = 0; i < target->nr_backings; i++)
		backing_close(&target->backings[i]);
	free(target->backings);
	target->backings = NULL;
	target->nr_backings = 0;
}

static int target_flush(const struct target *target, struct target_batch *batch,
			struct why *why)
{
	ssize_t n;

	if (!batch->bytes)
		return 0;
	n = process_vm_writev(target->vm, batch->local, batch->nr_local, batch->remote,
			      batch->nr_remote, 0);
	if (n == (ssize_t)batch->bytes) {
		batch->nr_local = 0;
		batch->nr_remote = 0;
		batch->bytes = 0;
		return 0;
	}
	if (n >= 0)
		errno = EFAULT;
	return why_set(why, errno, "cannot write the memory of the standby's QEMU (process %d): %s",
		       target->vm, strerror(errno));
}

/* How many pages from the first on are neighbours in guest RAM, and zeros. */
static unsigned int target_zeros_ahead(const struct epoch_page *pages, unsigned int nr)
{
	unsigned int n;

	for (n = 0; n < nr; n++)
		if (pages[n].data || pages[n].block != pages[0].block ||
		    pages[n].page != pages[0].page + n)
			break;
	return n;
}

/*
 * In their order, should a page come twice: what is to be written before is.
 */
static int target_clear(const struct target *target, struct target_batch *batch,
			const struct epoch_page *pages, unsigned int nr, struct why *why)
{
	const struct ramblock *block = &target->blocks->blocks[pages[0].block];
	bool left[EPOCH_BATCH];
	unsigned int i;
	int err;

	if (pages[0].block < target->nr_backings) {
		err = target_flush(target, batch, why);
		if (err)
			return err;
		backing_clear(&target->backings[pages[0].block], pages[0].page, nr, left);
	} else {
		memset(left, 1, sizeof(left));
	}
	for (i = 0; i < nr; i++)
		if (left[i])
			target_push(batch, block->hva + pages[i].page * RAMBLOCK_PAGE,
				    target_zeros);
	return 0;
}

int target_apply(void *arg, const struct epoch_page *pages, unsigned int nr, struct why *why)
{
	const struct target *target = arg;
	struct target_batch batch;
	unsigned int i, n;
	int err;

	batch.nr_local = 0;
	batch.nr_remote = 0;
	batch.bytes = 0;
	for (i = 0; i < nr; i += n) {
		const struct ramblock *block = &target->blocks->blocks[pages[i].block];
		uint64_t offset = pages[i].page * RAMBLOCK_PAGE;

		n = 1;
		if (!block->big) {
			memcpy(block->copy + offset,
			       pages[i].data ? pages[i].data : target_zeros, RAMBLOCK_PAGE);
		} else if (pages[i].data) {
			target_push(&batch, block->hva + offset, pages[i].data);
		} else {
			n = target_zeros_ahead(pages + i, nr - i);
			err = target_clear(target, &batch, pages + i, n, why);
			if (err)
				return err;
		}
	}
	return target_flush(target, &batch, why);
}

int target_read(void *arg, uint32_t block, uint64_t page, void *data, struct why *why)
{
	const struct target *target = arg;
	const struct ramblock *b = &target->blocks->blocks[block];
	struct iovec local = { .iov_base = data, .iov_len = RAMBLOCK_PAGE };
	struct iovec remote = {
		.iov_base = (void *)(uintptr_t)(b->hva + page * RAMBLOCK_PAGE),
		.iov_len = RAMBLOCK_PAGE,
	};
	ssize_t n;

	if (!b->big) {
		memcpy(data, b->copy + page * RAMBLOCK_PAGE, RAMBLOCK_PAGE);
		return 0;
	}
	n = process_vm_readv(target->vm, &local, 1, &remote, 1, 0);
	if (n == RAMBLOCK_PAGE)
		return 0;
	if (n >= 0)
		errno = EFAULT;
	return why_set(why, errno, "cannot read the memory of the standby's QEMU (process %d): %s",
		       target->vm, strerror(errno));
}
