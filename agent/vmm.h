/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vmm: the QEMU of this side, its process and its monitor, found from a pid and
 * found fit.
 */
#ifndef VMREPL_VMM_H
#define VMREPL_VMM_H

#include <limits.h>

#include "control.h"
#include "hello.h"
#include "options.h"
#include "procvm.h"
#include "qmp.h"
#include "refuse.h"
#include "why.h"

/**
 * struct vmm - one QEMU
 * @proc:    what /proc says
 * @qmp:     its monitor; may be closed by the owner, who sets NULL then
 * @qmp_path: where that is
 * @control: our own socket for this VM
 * @hello:   what we tell the other side of it
 */
struct vmm {
	struct procvm proc;
	struct qmp *qmp;
	char qmp_path[PATH_MAX];
	struct control *control;
	struct hello hello;
};

/**
 * vmm_open() - find it, take it, check it
 * @side:     what it is to be
 * @fn, @arg: answer commands on the control socket
 *
 * Touches nothing in the VM. Errors: with a sentence; vmm_close() afterwards in
 * any case.
 */
int vmm_open(struct vmm *vmm, const struct options *options, struct loop *loop,
	     enum refuse_side side, control_fn fn, void *arg, struct why *why);

/*
 * A QEMU that was busy for longer than it is waited for has lost its connection: a
 * new one where that is so. Only where nobody else has a copy of @qmp (the standby).
 * Errors: EIO with a sentence, @qmp is NULL then, and the next call tries again.
 */
int vmm_reconnect(struct vmm *vmm, struct why *why);

/*
 * Before a new connection: its devices, taps and blocks may have come or gone. Checks
 * all of it again and reads @hello anew. Errors: as refuse_check(), with a sentence.
 */
int vmm_look_again(struct vmm *vmm, const struct options *options, enum refuse_side side,
		   struct why *why);

void vmm_close(struct vmm *vmm);

#endif /* VMREPL_VMM_H */
