// SPDX-License-Identifier: GPL-2.0
/*
 * confine: libcap-ng, then libseccomp. The filter comes last: capset() is not in it.
 */
#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <rdma/rdma_user_ioctl_cmds.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "confine.h"
#include "vmrepl.h"

#define CONFINE_SOCK_TYPE	0xfu
/* The kernel's own bit; glibc's O_TMPFILE has O_DIRECTORY in it. */
#define CONFINE_O_TMPFILE	020000000u

/* Each with all that it can be given. */
static const int confine_calls[] = {
	/* memory */
	SCMP_SYS(brk), SCMP_SYS(madvise), SCMP_SYS(mremap), SCMP_SYS(munmap),
	/* files that are open, or may be opened below */
	SCMP_SYS(access), SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(faccessat),
	SCMP_SYS(faccessat2), SCMP_SYS(fallocate), SCMP_SYS(fcntl), SCMP_SYS(fstat),
	SCMP_SYS(fstatfs), SCMP_SYS(getdents64), SCMP_SYS(lseek), SCMP_SYS(memfd_create),
	SCMP_SYS(newfstatat), SCMP_SYS(pipe2), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
	SCMP_SYS(read), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(readv),
	SCMP_SYS(stat), SCMP_SYS(statfs), SCMP_SYS(statx), SCMP_SYS(write), SCMP_SYS(writev),
	/* the control socket's place */
	SCMP_SYS(mkdir), SCMP_SYS(mkdirat), SCMP_SYS(unlink), SCMP_SYS(unlinkat),
	/* sockets */
	SCMP_SYS(accept4), SCMP_SYS(bind), SCMP_SYS(connect), SCMP_SYS(getpeername),
	SCMP_SYS(getsockname), SCMP_SYS(getsockopt), SCMP_SYS(listen), SCMP_SYS(recvfrom),
	SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(sendto), SCMP_SYS(setsockopt),
	SCMP_SYS(shutdown),
	/* the loop */
	SCMP_SYS(eventfd2), SCMP_SYS(io_uring_enter), SCMP_SYS(poll), SCMP_SYS(ppoll),
	SCMP_SYS(restart_syscall), SCMP_SYS(signalfd4),
	/* libibverbs waits for a device's file so */
	SCMP_SYS(inotify_add_watch), SCMP_SYS(inotify_init1), SCMP_SYS(timerfd_create),
	SCMP_SYS(timerfd_settime),
	/* the VM */
	SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_open), SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	/* time, chance, identity */
	SCMP_SYS(clock_getres), SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
	SCMP_SYS(getegid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getpid),
	SCMP_SYS(getrandom), SCMP_SYS(gettid), SCMP_SYS(gettimeofday), SCMP_SYS(getuid),
	SCMP_SYS(nanosleep), SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_yield),
	SCMP_SYS(sysinfo), SCMP_SYS(time), SCMP_SYS(uname),
	/* threads, signals, the end */
	SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(futex), SCMP_SYS(rseq),
	SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
	SCMP_SYS(set_robust_list), SCMP_SYS(sigaltstack),
};

static bool confine_done;

static const int confine_families[] = { AF_UNIX, AF_INET, AF_INET6 };
static const int confine_types[] = { SOCK_STREAM, SOCK_DGRAM };

/* Calls whose arguments matter. */
static int confine_add_limited(scmp_filter_ctx f)
{
	const unsigned int wx = PROT_WRITE | PROT_EXEC;
	unsigned int i, j;
	int err = 0;

/* clang wants all fields. */
#define EQUAL(arg, value) SCMP_CMP(arg, SCMP_CMP_EQ, value, 0)
#define ALLOW(call, n, ...)							\
	do {									\
		if (!err)							\
			err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(call), n,	\
					       ##__VA_ARGS__);			\
	} while (0)
	/* No memory that can be written and run; libraries are loaded late (RDMA's). */
	for (i = 0; i < 3; i++) {
		const unsigned int prot[] = { 0, PROT_WRITE, PROT_EXEC };

		ALLOW(mmap, 1, SCMP_A2(SCMP_CMP_MASKED_EQ, wx, prot[i]));
		ALLOW(mprotect, 1, SCMP_A2(SCMP_CMP_MASKED_EQ, wx, prot[i]));
	}
	/* None that is not there yet, and none is emptied. */
	ALLOW(openat, 1, SCMP_A2(SCMP_CMP_MASKED_EQ, O_CREAT | O_TRUNC | CONFINE_O_TMPFILE, 0));
	ALLOW(open, 1, SCMP_A1(SCMP_CMP_MASKED_EQ, O_CREAT | O_TRUNC | CONFINE_O_TMPFILE, 0));
	for (i = 0; i < sizeof(confine_families) / sizeof(confine_families[0]); i++)
		for (j = 0; j < sizeof(confine_types) / sizeof(confine_types[0]); j++)
			ALLOW(socket, 2, EQUAL(0, (scmp_datum_t)confine_families[i]),
			      SCMP_A1(SCMP_CMP_MASKED_EQ, CONFINE_SOCK_TYPE,
				      (scmp_datum_t)confine_types[j]));
	ALLOW(socket, 2, EQUAL(0, AF_NETLINK), EQUAL(2, NETLINK_ROUTE));
	ALLOW(socket, 2, EQUAL(0, AF_NETLINK), EQUAL(2, NETLINK_RDMA));
	ALLOW(socketpair, 1, EQUAL(0, AF_UNIX));
	ALLOW(ioctl, 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, VMREPL_IOC << 8));
	ALLOW(ioctl, 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, RDMA_IOCTL_MAGIC << 8));
	ALLOW(ioctl, 1, EQUAL(1, TUNGETDEVNETNS));
	ALLOW(ioctl, 1, EQUAL(1, SIOCGIFINDEX));
	ALLOW(ioctl, 1, EQUAL(1, SIOCGIFNAME));
	ALLOW(ioctl, 1, EQUAL(1, TCGETS));
	/* Threads, not processes; abort() is for ourselves. */
	ALLOW(clone, 1, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
	ALLOW(tgkill, 1, EQUAL(0, (scmp_datum_t)getpid()));
	/* It is asked, never set. */
	ALLOW(prlimit64, 1, EQUAL(2, 0));
#undef ALLOW
#undef EQUAL
	/* glibc tries clone() then, whose flags can be seen. */
	if (!err)
		err = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	return err;
}

static int confine_filter(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	unsigned int i;
	int err = 0;

	if (!f)
		return -ENOMEM;
	for (i = 0; !err && i < sizeof(confine_calls) / sizeof(confine_calls[0]); i++)
		err = seccomp_rule_add(f, SCMP_ACT_ALLOW, confine_calls[i], 0);
	if (!err)
		err = confine_add_limited(f);
	/* Those of an epoch are a few steps away then, not a hundred. */
	if (!err)
		err = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (!err)
		err = seccomp_attr_set(f, SCMP_FLTATR_CTL_LOG, 1);
	if (!err)
		err = seccomp_load(f);
	seccomp_release(f);
	return err;
}

static int confine_capabilities(void)
{
	capng_clear(CAPNG_SELECT_BOTH);
	/*
	 * In this order: /dev/vmrepl and /proc/PID/map_files; the plug; the VM's memory,
	 * files and namespaces; sockets of QEMUs that are another user's; MCL_FUTURE and
	 * memory of rings; --listen on any port.
	 */
	if (capng_updatev(CAPNG_ADD, (capng_type_t)(CAPNG_EFFECTIVE | CAPNG_PERMITTED |
						    CAPNG_BOUNDING_SET),
			  CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_DAC_OVERRIDE,
			  CAP_IPC_LOCK, CAP_NET_BIND_SERVICE, -1))
		return -EINVAL;
	/* Of programs that are run, which none can be: no loss where it may not be narrowed. */
	if (capng_apply(CAPNG_SELECT_BOUNDS))
		errno = 0;
	return capng_apply(CAPNG_SELECT_CAPS) ? -EPERM : 0;
}

int confine(struct why *why)
{
	int kept, err;

#ifdef __SANITIZE_ADDRESS__
	return why_set(why, ENOTSUP, "a build with sanitizers makes calls of its own");
#endif
	/* Each without the other is better than none. */
	kept = confine_capabilities();
	err = confine_filter();
	if (err)
		return why_set(why, -err, "cannot load a seccomp filter: %s", strerror(-err));
	if (kept)
		return why_set(why, -kept, "cannot give up capabilities: %s", strerror(-kept));
	confine_done = true;
	return 0;
}

bool confined(void)
{
	return confine_done;
}
