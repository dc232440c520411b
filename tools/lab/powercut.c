// SPDX-License-Identifier: GPL-2.0
/*
 * powercut PID MS: kills a process with SIGKILL and exits 0 only when it has seen
 * it dead, all its threads included, within MS milliseconds.  A process that is
 * gone already is dead, and so is one that nobody has reaped.
 * powercut -w PID MS: the same without killing it.
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct pollfd ended = { .events = POLLIN };
	int wait = argc > 1 && !strcmp(argv[1], "-w");

	argc -= wait;
	argv += wait;
	if (argc != 3) {
		fprintf(stderr, "usage: powercut [-w] PID MS\n");
		return 2;
	}
	ended.fd = syscall(SYS_pidfd_open, atoi(argv[1]), 0);
	if (ended.fd < 0 && errno == ESRCH)
		return 0;
	if (ended.fd < 0 ||
	    (!wait && syscall(SYS_pidfd_send_signal, ended.fd, SIGKILL, NULL, 0))) {
		if (errno == ESRCH)
			return 0;
		fprintf(stderr, "lab: process %s could not be killed: %s\n", argv[1],
			strerror(errno));
		return 1;
	}
	if (poll(&ended, 1, atoi(argv[2])) == 1)
		return 0;
	fprintf(stderr, "lab: process %s is still there after %s ms\n", argv[1], argv[2]);
	return 1;
}
