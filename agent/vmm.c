// SPDX-License-Identifier: GPL-2.0
/*
 * vmm: the order of the checks is the order in which their sentences help most.
 */
#include <errno.h>

#include "session.h"
#include "vmm.h"

static int vmm_hello(struct vmm *vmm, const struct options *options, struct why *why)
{
	int err;

	hello_free(&vmm->hello);
	err = hello_read(&vmm->hello, vmm->qmp, why);
	if (err)
		return err;
	vmm->hello.fence = options->fence_command != NULL;
	vmm->hello.timeout_ms = options->timeout_ns / NSEC_PER_MSEC;
	vmm->hello.rdma = options->ops->offer != NULL;
	vmm->hello.streams = vmm->hello.rdma ? 0 : options->streams;
	return 0;
}

int vmm_reconnect(struct vmm *vmm, struct why *why)
{
	if (vmm->qmp && !qmp_is_broken(vmm->qmp))
		return 0;
	qmp_close(vmm->qmp);
	vmm->qmp = qmp_open(vmm->qmp_path, QMP_TIMEOUT_MS, why);
	return vmm->qmp ? 0 : -EIO;
}

int vmm_look_again(struct vmm *vmm, const struct options *options, enum refuse_side side,
		   struct why *why)
{
	int err;

	err = side == REFUSE_STANDBY ? vmm_reconnect(vmm, why) : 0;
	if (!err)
		err = procvm_look(&vmm->proc, why);
	if (!err)
		err = refuse_check(vmm->qmp, &vmm->proc, side, why);
	return err ? err : vmm_hello(vmm, options, why);
}

/* What only a VM that is to be protected needs. */
static int vmm_check_primary(const struct vmm *vmm, struct why *why)
{
	if (!vmm->proc.nr_vms)
		return why_set(why, ENOENT,
			       "process %d (%s) has no KVM virtual machine; give the pid of a QEMU that runs with -accel kvm",
			       vmm->proc.pid, vmm->proc.comm);
	return session_probe(why);
}

int vmm_open(struct vmm *vmm, const struct options *options, struct loop *loop,
	     enum refuse_side side, control_fn fn, void *arg, struct why *why)
{
	int err;

	vmm->proc.pidfd = -1;
	vmm->qmp = NULL;
	vmm->control = NULL;
	ramblock_init(&vmm->hello.blocks);
	err = procvm_open(&vmm->proc, options->vm, why);
	if (err)
		return err;
	if (side == REFUSE_PRIMARY) {
		err = vmm_check_primary(vmm, why);
		if (err)
			return err;
	}
	/* Before QMP: another agent holds that, and this tells why. */
	vmm->control = control_open(loop, vmm->proc.pid, fn, arg, why);
	if (!vmm->control)
		return -EBUSY;
	if (options->qmp) {
		snprintf(vmm->qmp_path, sizeof(vmm->qmp_path), "%s", options->qmp);
	} else {
		err = procvm_find_qmp(&vmm->proc, vmm->qmp_path, sizeof(vmm->qmp_path), why);
		if (err)
			return err;
	}
	vmm->qmp = qmp_open(vmm->qmp_path, QMP_TIMEOUT_MS, why);
	if (!vmm->qmp)
		return -EIO;
	err = refuse_check(vmm->qmp, &vmm->proc, side, why);
	if (!err && side == REFUSE_PRIMARY)
		err = procvm_check_reach(&vmm->proc, why);
	return err ? err : vmm_hello(vmm, options, why);
}

void vmm_close(struct vmm *vmm)
{
	hello_free(&vmm->hello);
	qmp_close(vmm->qmp);
	control_close(vmm->control);
	procvm_close(&vmm->proc);
}
