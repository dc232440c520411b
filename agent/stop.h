/* SPDX-License-Identifier: GPL-2.0 */
/*
 * stop: SIGTERM, SIGINT and SIGHUP as events of the loop.
 */
#ifndef VMREPL_STOP_H
#define VMREPL_STOP_H

#include "loop.h"

/**
 * struct stop - the signals that ask us to end
 * @asked: called for each signal; @count is 1 for the first
 * @arg:   given to it
 *
 * Set these; the rest is private.
 */
struct stop {
	void (*asked)(void *arg, unsigned int count);
	void *arg;
	struct loop *loop;
	struct loop_op *op;
	unsigned int count;
	int fd;
};

/* Blocks the signals and begins to watch for them. Returns 0 or -errno. */
int stop_open(struct stop *stop, struct loop *loop);
void stop_close(struct stop *stop);

#endif /* VMREPL_STOP_H */
