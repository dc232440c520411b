/* SPDX-License-Identifier: GPL-2.0 */
/*
 * watch: a primary's VM while it runs: what its QEMU says, and that it has ended.
 */
#ifndef VMREPL_WATCH_H
#define VMREPL_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"
#include "vmm.h"

/**
 * struct watch - of one VM
 * @said:   QEMU's message, which stays the watch's
 * @silent: QEMU has closed its QMP socket: nothing will be said any more
 * @ended:  the process has ended; nothing is called after that
 * @failed: the VM seems to be gone but its process has not ended: a sentence
 * @arg:    given to all
 * @patience_ns: from the first sign that the VM is gone to the end of its process, which
 *          has to give all of the guest's memory back
 *
 * Set these; the rest is private.
 */
struct watch {
	void (*said)(void *arg, const struct qmp_msg *msg);
	void (*silent)(void *arg);
	void (*ended)(void *arg);
	void (*failed)(void *arg, const char *why);
	void *arg;
	uint64_t patience_ns;

	struct loop *loop;
	const struct vmm *vmm;
	struct loop_op *process;
	struct loop_op *qmp;
	struct loop_timer gone;
	const char *why;
};

void watch_open(struct watch *watch, struct loop *loop, const struct vmm *vmm);
/* Nothing happens where it was not opened. */
void watch_close(struct watch *watch);

/*
 * Something says that the VM is gone, @why (a constant). Its process tells it
 * better in a moment; where it does not, this is what @failed gets.
 */
void watch_gone(struct watch *watch, const char *why);
/* Something has failed: QEMU has closed its QMP socket, what comes of it is told next. */
bool watch_hung_up(const struct watch *watch);

#endif /* VMREPL_WATCH_H */
