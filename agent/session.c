// SPDX-License-Identifier: GPL-2.0
/*
 * session: ioctls on the module's file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "session.h"

/* What a QEMU of today has at most, so that the first call nearly always fits. */
#define SESSION_SLOTS	512u

void session_init(struct session *session)
{
	memset(session, 0, sizeof(*session));
	session->fd = -1;
}

static int session_open_error(int err, struct why *why)
{
	switch (err) {
	case ENOENT:
	case ENXIO:
	case ENODEV:
		return why_set(why, err,
			       "the kernel module is not loaded (no " VMREPL_DEVICE "); load it with `insmod vmrepl.ko` or `modprobe vmrepl`, and look at dmesg if the kernel refuses it (Secure Boot wants it signed)");
	case EPERM:
	case EACCES:
		return why_set(why, err, "not allowed to open " VMREPL_DEVICE "; run the agent as root");
	default:
		return why_set(why, err, "cannot open " VMREPL_DEVICE ": %s", strerror(err));
	}
}

int session_probe(struct why *why)
{
	int fd = open(VMREPL_DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return session_open_error(errno, why);
	close(fd);
	return 0;
}

static int session_attach_error(int err, pid_t pid, const struct vmrepl_attach *attach,
				struct why *why)
{
	if (attach->why[0])
		return why_set(why, err, "cannot protect the VM of process %d: %.*s", pid,
			       VMREPL_WHY_LEN, attach->why);
	switch (err) {
	case EPROTO:
		return why_set(why, err,
			       "the loaded vmrepl module is of another version (this agent wants ABI %u); load the module that belongs to this agent",
			       VMREPL_ABI);
	case EINVAL:
		return why_set(why, err,
			       "the module refuses the settings; --ring-slots must be a power of two from %u to %u",
			       VMREPL_RING_MIN, VMREPL_RING_MAX);
	case ESRCH:
		return why_set(why, err, "there is no process %d; give the pid of a running QEMU", pid);
	case ENOENT:
		return why_set(why, err,
			       "process %d has no KVM virtual machine; give the pid of a QEMU that runs with -accel kvm",
			       pid);
	case ENOTUNIQ:
		return why_set(why, err,
			       "process %d has more than one virtual machine, which is not supported", pid);
	case EBUSY:
		return why_set(why, err,
			       "the VM of process %d is protected already; `vmrepl-agent status` shows by whom",
			       pid);
	default:
		return why_set(why, err, "cannot protect the VM of process %d: %s", pid, strerror(err));
	}
}

int session_attach(struct session *session, pid_t pid, uint32_t ring_slots, uint32_t flags,
		   struct why *why)
{
	struct vmrepl_attach attach = {
		.abi = VMREPL_ABI,
		.pid = pid,
		.ring_slots = ring_slots,
		.flags = flags,
	};
	unsigned int i;
	int err;

	session->fd = open(VMREPL_DEVICE, O_RDWR | O_CLOEXEC);
	if (session->fd < 0)
		return session_open_error(errno, why);
	/* What our io_uring has for us comes when the call is left. */
	do
		err = ioctl(session->fd, VMREPL_ATTACH, &attach) ? errno : 0;
	while (err == EINTR);
	if (err) {
		err = session_attach_error(err, pid, &attach, why);
		goto fail;
	}
	session->nr_vcpus = attach.nr_vcpus;
	session->ram_bytes = attach.ram_bytes;
	memcpy(session->tracking, attach.why, sizeof(session->tracking));
	session->rings = calloc(attach.nr_rings, sizeof(*session->rings));
	session->slots = calloc(SESSION_SLOTS, sizeof(*session->slots));
	session->slots_room = SESSION_SLOTS;
	if (!session->rings || !session->slots) {
		err = why_set(why, ENOMEM, "out of memory");
		goto fail;
	}
	for (i = 0; i < attach.nr_rings; i++) {
		err = ring_map(&session->rings[i], session->fd, i, attach.ring_bytes, why);
		if (err)
			goto fail;
		session->nr_rings++;
	}
	return 0;
fail:
	session_detach(session);
	return err;
}

int session_place(struct session *session, const struct cpulist *cpus, struct why *why)
{
	struct vmrepl_cpus arg = {
		.mask = (uintptr_t)cpus->mask,
		.bytes = sizeof(cpus->mask),
	};

	if (!ioctl(session->fd, VMREPL_CPUS, &arg))
		return 0;
	if (errno == EINVAL)
		return why_set(why, EINVAL,
			       "--worker-cpus %s names a CPU that is not online here; /sys/devices/system/cpu/online lists them",
			       cpus->text);
	return why_set(why, errno, "cannot place the module's workers on CPUs %s: %s", cpus->text,
		       strerror(errno));
}

int session_layout(struct session *session, struct why *why)
{
	for (;;) {
		struct vmrepl_layout layout = {
			.slots = (uintptr_t)session->slots,
			.nr_slots = session->slots_room,
		};
		struct vmrepl_slot *more;
		int err;

		if (!ioctl(session->fd, VMREPL_LAYOUT, &layout)) {
			session->nr_slots = layout.nr_slots;
			return 0;
		}
		err = errno;
		if (err != ENOSPC || layout.nr_slots <= session->slots_room)
			return why_set(why, err, "the module cannot take over the VM's memory layout: %s",
				       strerror(err));
		more = realloc(session->slots, layout.nr_slots * sizeof(*more));
		if (!more)
			return why_set(why, ENOMEM, "out of memory");
		session->slots = more;
		session->slots_room = layout.nr_slots;
	}
}

void session_prepare(struct session *session)
{
	struct vmrepl_prepare prepare;

	ioctl(session->fd, VMREPL_PREPARE, &prepare);
}

int session_freeze(struct session *session, uint64_t epoch, uint32_t *flags,
		   uint64_t *pages, uint64_t *ns)
{
	struct vmrepl_freeze freeze = {
		.epoch = epoch,
		.flags = *flags,
	};

	if (ioctl(session->fd, VMREPL_FREEZE, &freeze))
		return -errno;
	*flags = freeze.flags;
	*pages = freeze.pages;
	*ns = freeze.ns;
	return 0;
}

void session_kick(struct session *session)
{
	/* It can only fail where the VM is gone, which poll() tells as well. */
	ioctl(session->fd, VMREPL_KICK);
}

void session_detach(struct session *session)
{
	unsigned int i;

	for (i = 0; i < session->nr_rings; i++)
		ring_unmap(&session->rings[i]);
	free(session->rings);
	free(session->slots);
	if (session->fd >= 0)
		close(session->fd);
	session_init(session);
}
