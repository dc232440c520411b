/* SPDX-License-Identifier: GPL-2.0 */
/* A process with the memory of a test, for what reads and writes a VM from outside. */
#ifndef _SELFTESTS_TWIN_H
#define _SELFTESTS_TWIN_H

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

/* A process that does nothing but have our mappings: our VM. */
static pid_t make_vm(void)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return pid;
}

#endif /* _SELFTESTS_TWIN_H */
