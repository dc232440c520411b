/* SPDX-License-Identifier: GPL-2.0 */
/*
 * fencer: a process of its own that runs the operator's fence command when it is
 * told to, and says how it ended.
 *
 * The command may need what the agent has given up (confine.h), so this process is
 * forked before. It knows the command from then on: the agent can have it run or
 * killed, and name the peer, and nothing else. It ends when the agent does.
 */
#ifndef VMREPL_FENCER_H
#define VMREPL_FENCER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "why.h"

#define FENCER_PEER_LEN	80

struct fencer;

enum fencer_verdict {
	FENCER_EXITED,		/* @value: its exit code */
	FENCER_SIGNALLED,	/* @value: the signal */
	FENCER_FAILED,		/* it cannot be run or watched; @value: errno */
};

/**
 * struct fencer_answer - what came of a command that fencer_run() asked for
 * @verdict: one of enum fencer_verdict
 * @value:   see there
 */
struct fencer_answer {
	int32_t verdict;
	int32_t value;
};

/*
 * Forks it: before the agent has threads, keys in memory or rings. @command is run by
 * /bin/sh with VMREPL_ROLE=@role, VMREPL_VM=@vm and VMREPL_PEER in its environment,
 * in a process group of its own. NULL with @why where it cannot be made.
 */
struct fencer *fencer_new(const char *command, const char *role, pid_t vm, struct why *why);
/* Where a struct fencer_answer can be received for each fencer_run(). */
int fencer_fd(const struct fencer *fencer);
/*
 * Runs the command against @peer, an address as it is shown; what cannot be one is
 * answered with EINVAL. One at a time. Returns 0, or -errno: no answer will come.
 */
int fencer_run(struct fencer *fencer, const char *peer);
/* Kills what runs, with all that it has started. */
void fencer_kill(struct fencer *fencer);
/* What runs goes on, unless it was killed. */
void fencer_free(struct fencer *fencer);

#endif /* VMREPL_FENCER_H */
