/* SPDX-License-Identifier: GPL-2.0 */
/*
 * confine: what is left to an agent that has begun, should its peer, its VM or a
 * library turn it against the host.
 *
 * It keeps the capabilities and the system calls of its work: the VM's memory, tc,
 * /dev/vmrepl, sockets that it had or may make anew. It runs no program, makes no
 * process and no file, and its io_uring (loop.h) has a list of its own, because
 * what a ring does passes no filter. What is refused fails with EPERM and is logged
 * by the kernel's audit: a filter that kills would end the protection, too.
 *
 * It is no jail: who may write any process's memory can become that process.
 */
#ifndef VMREPL_CONFINE_H
#define VMREPL_CONFINE_H

#include <stdbool.h>

#include "why.h"

/*
 * For this process, its threads to come and its children, for good. Call it when
 * fencer, ring and output file are there, and before there are threads. Returns 0, or
 * -errno with @why where this kernel or build cannot; then nothing or a part is done.
 */
int confine(struct why *why);
/* Whether that was done. */
bool confined(void);

#endif /* VMREPL_CONFINE_H */
