/* SPDX-License-Identifier: GPL-2.0 */
/*
 * checkpoint: the moment at which an epoch is taken on the primary.
 *
 * QEMU's own xen-save-devices-state is told to write into a pipe that is too
 * small for it. The first byte in the pipe means that the guest stands and its
 * disks are drained; it stands until the pipe is emptied. All of it is driven by
 * the loop.
 *
 *	fire --> first byte: stopped() --> owner's work --> resume --> done()
 */
#ifndef VMREPL_CHECKPOINT_H
#define VMREPL_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"
#include "qmp.h"
#include "why.h"

/* QEMU has this long from the trigger to the first byte, and from the go-ahead to its answer. */
#define CHECKPOINT_NS	(30 * NSEC_PER_SEC)

enum checkpoint_phase {
	CHECKPOINT_IDLE,
	CHECKPOINT_ARMED,	/* QEMU has read all but the last brace */
	CHECKPOINT_FIRED,
	CHECKPOINT_STOPPED,	/* first byte seen; the guest stands */
	CHECKPOINT_RESUMING,	/* the pipe is being emptied */
};

/**
 * struct checkpoint - of one QEMU
 * @stopped: the guest stands; the owner calls checkpoint_resume() when it may go
 *           on, maybe from within
 * @done:    the guest runs again: 0, the state is whole; or -errno with a sentence.
 *           -ETIMEDOUT: QEMU has not answered and was hung up on, which makes it
 *           let the guest go; there is no other checkpoint after that
 * @arg:     given to both
 *
 * Set these before checkpoint_open(). @state and @len are the device state from
 * @done until the next checkpoint_fire(). @pause_ns: the pause as QEMU's STOP
 * and RESUME events tell it, and at most from the trigger to the answer. @stands:
 * somebody else had stopped the guest, so QEMU has not started it again either. The
 * rest is private.
 */
struct checkpoint {
	void (*stopped)(void *arg);
	void (*done)(void *arg, int err, const struct why *why);
	void *arg;

	uint8_t *state;
	size_t len;
	uint64_t pause_ns;
	bool stands;

	struct loop *loop;
	struct qmp *qmp;
	enum checkpoint_phase phase;
	int pipe[2];
	size_t room;
	struct loop_op *op;
	struct loop_timer timer;
	uint64_t fired_at;
	uint64_t stop_us;
	uint64_t resume_us;
	bool answered;
	bool failed;
	struct why why;
};

/* Makes the pipe and the memory. Errors: with a sentence. */
int checkpoint_open(struct checkpoint *cp, struct loop *loop, struct qmp *qmp, struct why *why);
/* Nothing may be under way, or @qmp is closed already. */
void checkpoint_close(struct checkpoint *cp);

/* Sends QEMU all but the last byte of the command. Errors: as qmp_arm(). */
int checkpoint_arm(struct checkpoint *cp, struct why *why);
/* Takes that back, where it was done. Errors: as qmp_disarm(). */
int checkpoint_disarm(struct checkpoint *cp, struct why *why);
/* Takes the checkpoint. Armed before. Errors: as qmp_fire(), with a sentence. */
int checkpoint_fire(struct checkpoint *cp, struct why *why);
/* Lets the guest go on, after @stopped. */
void checkpoint_resume(struct checkpoint *cp);
/* What qmp_pump() brought; the owner watches the socket. */
void checkpoint_message(struct checkpoint *cp, const struct qmp_msg *msg);
/*
 * Gives up what is under way, without @done: QEMU is gone, or is to be left. It is
 * hung up on, so that a guest that stands goes on; there is no other checkpoint.
 */
void checkpoint_forget(struct checkpoint *cp);
/* Whether a checkpoint is under way (fired and not done). */
bool checkpoint_busy(const struct checkpoint *cp);

#endif /* VMREPL_CHECKPOINT_H */
