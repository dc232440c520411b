/* SPDX-License-Identifier: GPL-2.0 */
/*
 * procvm: what /proc tells about a VMM, without its help.
 *
 * Everything here reads /proc/<pid> and, for the QMP socket, connects once to
 * each listening unix socket of the process and closes it again.
 */
#ifndef AGENT_PROCVM_H
#define AGENT_PROCVM_H

#include <limits.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "why.h"

#define PROCVM_TAPS	16

/**
 * struct procvm_tap - a tap device that the process has open
 * @ifname:	interface
 * @ifindex:	in our network namespace; 0 if it is not there
 * @queues:	file descriptors on it
 */
struct procvm_tap {
	char ifname[IF_NAMESIZE];
	unsigned int ifindex;
	unsigned int queues;
};

/**
 * struct procvm - a VMM process as found by procvm_open()
 * @pid:	process
 * @pidfd:	becomes readable when it exits
 * @start:	start time in clock ticks since boot: with @pid it names the
 *		process for good
 * @uid:	effective user id
 * @comm:	name
 * @nr_vms:	kvm-vm files
 * @nr_vcpus:	kvm-vcpu files
 * @vfio:	VFIO files (group, container, device, iommufd)
 * @vhost_net:	/dev/vhost-net files
 * @vhost_other: vhost files that are not vhost-net (vsock, scsi, vdpa)
 * @vhost_other_name: one of them
 * @nr_taps:	entries in @taps
 * @taps:	taps, in the order of their first file descriptor
 */
struct procvm {
	pid_t pid;
	int pidfd;
	uint64_t start;
	uid_t uid;
	char comm[64];
	unsigned int nr_vms;
	unsigned int nr_vcpus;
	unsigned int vfio;
	unsigned int vhost_net;
	unsigned int vhost_other;
	char vhost_other_name[64];
	unsigned int nr_taps;
	struct procvm_tap taps[PROCVM_TAPS];
};

/**
 * procvm_open - look at a process
 *
 * Fills @vm. That the process has no VM is not an error here (@nr_vms is 0): a
 * standby under TCG has none. Errors: ESRCH no such process; EACCES its files
 * may not be read; ENOSPC more than PROCVM_TAPS taps.
 */
int procvm_open(struct procvm *vm, pid_t pid, struct why *why);

/*
 * Looks at the process's files again: they may have come or gone. Errors: as
 * procvm_open(), and @nr_vms to @taps are of no use then.
 */
int procvm_look(struct procvm *vm, struct why *why);

/* Closes @pidfd. */
void procvm_close(struct procvm *vm);

/* Is it still the same process (not exited, pid not reused)? */
bool procvm_alive(const struct procvm *vm);

/**
 * procvm_check_reach - may the process open /proc/<our pid>/fd/<N>?
 *
 * xen-save-devices-state writes to such a name. It may where it runs as root
 * (uid 0) in our user namespace, or with our uid, and sees us in its /proc.
 * Confinement by a security module cannot be seen from here: the first
 * checkpoint tells. Errors: EACCES.
 */
int procvm_check_reach(const struct procvm *vm, struct why *why);

/**
 * procvm_find_qmp - the QMP socket among those the process listens on
 * @path:	gets a path that can be given to qmp_open()
 * @size:	room in @path; PATH_MAX does
 *
 * Each is given 300 ms to greet. Errors: ENOENT the process listens on no unix
 * socket, or none is QMP; EBUSY none greets but one stays silent as a monitor
 * does that serves another client; @why says what to do.
 */
int procvm_find_qmp(const struct procvm *vm, char *path, size_t size, struct why *why);

#endif /* AGENT_PROCVM_H */
