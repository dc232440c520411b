/* SPDX-License-Identifier: GPL-2.0 */
/*
 * primary: protects a running VM.
 */
#ifndef VMREPL_PRIMARY_H
#define VMREPL_PRIMARY_H

#include "fencer.h"
#include "loop.h"
#include "options.h"

/*
 * Runs until it is stopped or the VM ends. @loop is freed, @fencer (NULL: there is no
 * fence command) is not. Returns the exit code.
 */
int primary_run(const struct options *options, struct loop *loop, struct fencer *fencer);

#endif /* VMREPL_PRIMARY_H */
