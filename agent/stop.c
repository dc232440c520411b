// SPDX-License-Identifier: GPL-2.0
/*
 * stop: a signalfd.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "stop.h"

static void stop_readable(void *arg, int res)
{
	struct stop *stop = arg;
	struct signalfd_siginfo info;

	(void)res;
	stop->op = loop_poll(stop->loop, stop->fd, POLLIN, stop_readable, stop);
	while (read(stop->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		stop->asked(stop->arg, ++stop->count);
}

int stop_open(struct stop *stop, struct loop *loop)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	stop->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (stop->fd < 0)
		return -errno;
	stop->loop = loop;
	stop->count = 0;
	stop->op = loop_poll(loop, stop->fd, POLLIN, stop_readable, stop);
	return 0;
}

void stop_close(struct stop *stop)
{
	if (stop->fd < 0)
		return;
	loop_cancel(stop->loop, stop->op);
	close(stop->fd);
	stop->fd = -1;
}
