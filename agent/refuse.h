/* SPDX-License-Identifier: GPL-2.0 */
/*
 * refuse: what cannot be protected is refused at attach, with a sentence.
 */
#ifndef AGENT_REFUSE_H
#define AGENT_REFUSE_H

#include "procvm.h"
#include "qmp.h"
#include "why.h"

enum refuse_side {
	REFUSE_PRIMARY,		/* about to be protected: running, with taps */
	REFUSE_PROTECTED,	/* protected, and its devices have changed: may stand */
	REFUSE_STANDBY,		/* waits with -incoming defer */
};

/**
 * refuse_check - may this VM be protected, or take over?
 *
 * Goes through a table of checks and stops at the first that fails. Changes
 * nothing in the VM. On the primary: run state, running migration, KVM, VFIO,
 * encryption, writable disks, network back ends (only taps, each of them ours
 * to plug; a guest without a network is fine), vhost-user and vDPA, the save
 * command; of one that is protected the same but for run state and command. On the standby: that it waits for an incoming migration, VFIO,
 * writable disks, encryption.
 *
 * Returns 0; -EOPNOTSUPP with the sentence in @why; another negative errno
 * where QEMU did not answer.
 */
int refuse_check(struct qmp *q, const struct procvm *vm, enum refuse_side side,
		 struct why *why);

#endif /* AGENT_REFUSE_H */
