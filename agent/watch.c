// SPDX-License-Identifier: GPL-2.0
/*
 * watch: a pidfd, the QMP socket, and a timer for when they disagree.
 */
#include <poll.h>

#include "watch.h"

static void watch_process(void *arg, int res)
{
	struct watch *watch = arg;

	watch->process = NULL;
	if (res < 0) {
		watch->failed(watch->arg, "the VM's process cannot be watched");
		return;
	}
	loop_timer_cancel(watch->loop, &watch->gone);
	watch->ended(watch->arg);
}

static void watch_gone_late(void *arg)
{
	struct watch *watch = arg;

	if (loop_timer_overslept(watch->loop, &watch->gone, watch->patience_ns))
		return;
	watch->failed(watch->arg, watch->why);
}

void watch_gone(struct watch *watch, const char *why)
{
	if (!watch->process)
		return;
	watch->why = why;
	loop_timer_set(watch->loop, &watch->gone, watch->patience_ns);
}

bool watch_hung_up(const struct watch *watch)
{
	struct pollfd qmp = { .fd = qmp_fd(watch->vmm->qmp) };

	return poll(&qmp, 1, 0) > 0 && qmp.revents & POLLHUP;
}

static void watch_qmp(void *arg, int res)
{
	struct watch *watch = arg;
	struct qmp_msg msg;
	struct why why;
	int ret;

	(void)res;
	watch->qmp = NULL;
	while ((ret = qmp_pump(watch->vmm->qmp, &msg, &why)) > 0) {
		watch->said(watch->arg, &msg);
		qmp_msg_put(&msg);
	}
	if (!ret) {
		watch->qmp = loop_poll(watch->loop, qmp_fd(watch->vmm->qmp), POLLIN, watch_qmp,
				       watch);
		return;
	}
	watch->silent(watch->arg);
	watch_gone(watch, "QEMU has closed its QMP socket");
}

void watch_open(struct watch *watch, struct loop *loop, const struct vmm *vmm)
{
	watch->loop = loop;
	watch->vmm = vmm;
	watch->gone.fn = watch_gone_late;
	watch->gone.arg = watch;
	watch->process = loop_poll(loop, vmm->proc.pidfd, POLLIN, watch_process, watch);
	watch->qmp = loop_poll(loop, qmp_fd(vmm->qmp), POLLIN, watch_qmp, watch);
}

void watch_close(struct watch *watch)
{
	if (!watch->loop)
		return;
	loop_timer_cancel(watch->loop, &watch->gone);
	loop_cancel(watch->loop, watch->process);
	loop_cancel(watch->loop, watch->qmp);
	watch->process = NULL;
	watch->qmp = NULL;
}
