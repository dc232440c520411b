/* SPDX-License-Identifier: GPL-2.0 */
/*
 * takeover: the moment at which a standby's guest begins to run.
 *
 * That it may is for the caller to know.
 */
#ifndef VMREPL_TAKEOVER_H
#define VMREPL_TAKEOVER_H

#include <stdint.h>

#include "store.h"
#include "vmm.h"
#include "why.h"

/**
 * struct takeover - what led to it, for the times that are told
 * @lost_at: when the loss of the primary was noticed, loop_now() time; 0: by hand
 * @silence: the primary's silence until then, nanoseconds
 */
struct takeover {
	uint64_t lost_at;
	uint64_t silence;
};

/**
 * takeover_run() - run @store's checkpoint in @vmm
 *
 * Applies what is left, loads the device state, starts the guest and reports the
 * times. @store holds a checkpoint. Blocks until the guest runs; then @vmm's QMP
 * connection is closed. Errors: with a sentence; the QEMU cannot be used again.
 */
int takeover_run(const struct takeover *takeover, struct vmm *vmm, struct store *store,
		 struct why *why);

#endif /* VMREPL_TAKEOVER_H */
