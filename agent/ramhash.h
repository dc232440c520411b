/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ramhash: what is in a VM's memory, as one number, for the tests.
 *
 * With VMREPL_DEBUG_HASH=1 in the environment each side writes an event "ram" for
 * each checkpoint: the primary while the guest stands, the standby when all of the
 * checkpoint is in its VM. Both must be the same. It reads all of the memory, so
 * pauses are long then.
 */
#ifndef VMREPL_RAMHASH_H
#define VMREPL_RAMHASH_H

#include <stdint.h>
#include <sys/types.h>

#include "ramblock.h"

/*
 * The event for checkpoint @epoch: "hash" is XXH64, in hex, over the big blocks
 * of process @vm in the table's order. Nothing where it is not asked for.
 */
void ramhash_report(pid_t vm, const struct ramblock_table *blocks, uint64_t epoch);

#endif /* VMREPL_RAMHASH_H */
