// SPDX-License-Identifier: GPL-2.0
/*
 * target: neighbouring pages become one remote piece, and all of a batch one
 * process_vm_writev().
 */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "target.h"

static const uint8_t target_zeros[RAMBLOCK_PAGE];

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

int target_apply(void *arg, const struct epoch_page *pages, unsigned int nr, struct why *why)
{
	const struct target *target = arg;
	struct target_batch batch;
	unsigned int i;
	ssize_t n;

	batch.nr_local = 0;
	batch.nr_remote = 0;
	batch.bytes = 0;
	for (i = 0; i < nr; i++) {
		const struct ramblock *block = &target->blocks->blocks[pages[i].block];
		const void *data = pages[i].data ? pages[i].data : target_zeros;
		uint64_t offset = pages[i].page * RAMBLOCK_PAGE;

		if (block->big)
			target_push(&batch, block->hva + offset, data);
		else
			memcpy(block->copy + offset, data, RAMBLOCK_PAGE);
	}
	if (!batch.bytes)
		return 0;
	n = process_vm_writev(target->vm, batch.local, batch.nr_local, batch.remote,
			      batch.nr_remote, 0);
	if (n == (ssize_t)batch.bytes)
		return 0;
	if (n >= 0)
		errno = EFAULT;
	return why_set(why, errno, "cannot write the memory of the standby's QEMU (process %d): %s",
		       target->vm, strerror(errno));
}
