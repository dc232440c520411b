/* SPDX-License-Identifier: GPL-2.0 */
/*
 * standby: receives checkpoints for a waiting QEMU and takes over with it.
 */
#ifndef VMREPL_STANDBY_H
#define VMREPL_STANDBY_H

#include "fencer.h"
#include "loop.h"
#include "options.h"

/*
 * Runs until it is stopped or its VM ends. @loop is freed, @fencer (NULL: there is no
 * fence command) is not. Returns the exit code.
 */
int standby_run(const struct options *options, struct loop *loop, struct fencer *fencer);

#endif /* VMREPL_STANDBY_H */
