// SPDX-License-Identifier: GPL-2.0
/*
 * ramhash: reads through process_vm_readv(), which is not how pages travel: an
 * error there is not repeated here.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <xxhash.h>

#include "ramhash.h"
#include "report.h"

#define RAMHASH_PIECE	(1u << 20)

static int ramhash_block(XXH64_state_t *state, pid_t vm, const struct ramblock *block)
{
	static uint8_t piece[RAMHASH_PIECE];
	uint64_t done;

	for (done = 0; done < block->size; ) {
		struct iovec local = { .iov_base = piece, .iov_len = RAMHASH_PIECE };
		struct iovec remote = { .iov_base = (void *)(uintptr_t)(block->hva + done) };
		ssize_t n;

		if (local.iov_len > block->size - done)
			local.iov_len = block->size - done;
		remote.iov_len = local.iov_len;
		n = process_vm_readv(vm, &local, 1, &remote, 1, 0);
		if (n <= 0)
			return n ? -errno : -EFAULT;
		XXH64_update(state, piece, (size_t)n);
		done += (uint64_t)n;
	}
	return 0;
}

void ramhash_report(pid_t vm, const struct ramblock_table *blocks, uint64_t epoch)
{
	const char *asked = getenv("VMREPL_DEBUG_HASH");
	XXH64_state_t *state;
	char hash[17];
	unsigned int i;
	int err = 0;

	if (!asked || strcmp(asked, "1"))
		return;
	state = XXH64_createState();
	if (!state)
		return;
	XXH64_reset(state, 0);
	for (i = 0; i < blocks->nr && !err; i++)
		if (blocks->blocks[i].big)
			err = ramhash_block(state, vm, &blocks->blocks[i]);
	snprintf(hash, sizeof(hash), "%016" PRIx64, (uint64_t)XXH64_digest(state));
	XXH64_freeState(state);
	if (err)
		report_warn("cannot read the memory of process %d: %s", vm, strerror(-err));
	else
		report_event("ram", "epoch:u hash:s", epoch, hash);
}
