/* SPDX-License-Identifier: GPL-2.0 */
/*
 * devstate: QEMU's device state as a stream that a stock QEMU loads.
 *
 * What xen-save-devices-state writes is a migration stream without the machine's
 * name in front, without RAM and without an end. A complete one is
 *
 *	"QEVM", be32 3
 *	configuration: 07, be32 length, machine name
 *	"ram" section with the small blocks (ramblock.h)
 *	the saved state from its byte 8 on
 *	06, be32 0			(no description)
 *
 * The small blocks are captured once, at attach.
 */
#ifndef AGENT_DEVSTATE_H
#define AGENT_DEVSTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qmp.h"
#include "ramblock.h"
#include "why.h"

/**
 * devstate_machine - the machine type's name for the stream, e.g. "pc-q35-7.2"
 * @name:	gets it
 * @size:	room
 */
int devstate_machine(struct qmp *q, char *name, size_t size, struct why *why);

/**
 * devstate_capture - the content of the primary's small blocks
 * @t:		of ramblock_read(); gets the copies (@copy) of all small blocks
 * @pid:	QEMU's process
 * @timeout_ms:	bound for all of it
 *
 * Where QEMU tells the blocks' addresses (10.0) they are read from its memory
 * and the guest does not notice. Else a migration into a pipe is started and
 * given up as soon as the small blocks have been seen; big blocks are skipped
 * as they come, memory use is bounded by the small blocks. The guest keeps
 * running but for the few milliseconds in which a very small migration
 * completes before it can be given up.
 *
 * Must be called before the module attaches (a migration toggles KVM's dirty
 * log) and while nothing is armed on @q. Migration capabilities and parameters
 * are put back, and the guest runs again, also when it fails.
 *
 * Errors: as qmp_command(); EPROTO the stream is not understood; EBUSY a
 * migration is running; ETIMEDOUT.
 */
int devstate_capture(struct qmp *q, struct ramblock_table *t, int pid, unsigned int timeout_ms,
		     struct why *why);

/**
 * devstate_check - does this look like a whole state of xen-save-devices-state?
 *
 * Head, first section and end mark. Returns 0 or -EPROTO.
 */
int devstate_check(const void *state, size_t len, struct why *why);

/**
 * devstate_sections - a digest of which sections a state has
 *
 * Each device has its own, with a number that is never given again, so another
 * digest means that one has come or gone; or that one has nothing, or again
 * something, to save. Returns 0 where the state is not understood.
 */
uint64_t devstate_sections(const uint8_t *state, size_t len);

/**
 * devstate_build - a complete incoming stream in a memfd
 * @machine:	of the primary (devstate_machine())
 * @t:		small blocks with their copies make the "ram" section; without
 *		any there is none
 * @state:	what xen-save-devices-state wrote
 *
 * Returns the memfd, its offset at 0, or a negative errno.
 */
int devstate_build(const char *machine, const struct ramblock_table *t, const void *state,
		   size_t len, struct why *why);

/**
 * devstate_load - let the standby's QEMU load a stream
 * @fd:		of devstate_build(); stays the caller's
 *
 * QEMU has to wait with -incoming defer and nothing may be armed on @q. Returns
 * when it has loaded everything; the guest may run already (without -S it
 * starts by itself) and does after qmp_command(q, "cont", ...).
 *
 * Errors: EREMOTEIO QEMU refused it, its words in @why; EPIPE QEMU exited (7.2
 * does when a stream does not fit; its log says why); ETIMEDOUT.
 */
int devstate_load(struct qmp *q, int fd, unsigned int timeout_ms, struct why *why);

#endif /* AGENT_DEVSTATE_H */
