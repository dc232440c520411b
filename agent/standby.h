/* SPDX-License-Identifier: GPL-2.0 */
/*
 * standby: receives checkpoints for a waiting QEMU and takes over with it.
 */
#ifndef VMREPL_STANDBY_H
#define VMREPL_STANDBY_H

#include "options.h"

/* Runs until it is stopped or its VM ends. Returns the exit code. */
int standby_run(const struct options *options);

#endif /* VMREPL_STANDBY_H */
