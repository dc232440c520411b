/* SPDX-License-Identifier: GPL-2.0 */
/*
 * primary: protects a running VM.
 */
#ifndef VMREPL_PRIMARY_H
#define VMREPL_PRIMARY_H

#include "options.h"

/* Runs until it is stopped or the VM ends. Returns the exit code. */
int primary_run(const struct options *options);

#endif /* VMREPL_PRIMARY_H */
