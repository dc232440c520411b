// SPDX-License-Identifier: GPL-2.0
/*
 * confine_test: what an agent that has begun can do no more, and what it still can.
 *
 *	confine_test
 *
 * Needs root. Each try is made in a process of its own, with its rights and without.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine.h"
#include "loop.h"
#include "tap.h"

/* CAP_DAC_OVERRIDE, NET_BIND_SERVICE, NET_ADMIN, IPC_LOCK, SYS_PTRACE, SYS_ADMIN. */
#define KEPT	((1ull << 1) | (1ull << 10) | (1ull << 12) | (1ull << 14) | (1ull << 19) | (1ull << 21))

/* This program: another process to those that try. */
static pid_t other;

/* ---- tries: 0, or an errno ---- */

static int try_fork(void)
{
	pid_t pid = fork();

	if (pid < 0)
		return errno;
	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	return 0;
}

static int try_exec(void)
{
	char *argv[] = { "true", NULL };

	execv("/bin/true", argv);
	return errno;
}

static int try_make(void)
{
	char path[] = "/tmp/confine_test.made";
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	if (fd < 0)
		return errno;
	unlink(path);
	return 0;
}

static int try_temporary(void)
{
	return open("/tmp", O_WRONLY | O_TMPFILE, 0600) < 0 ? errno : 0;
}

static int try_packet(void)
{
	return socket(AF_PACKET, SOCK_RAW, 0) < 0 ? errno : 0;
}

static int try_raw(void)
{
	return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) < 0 ? errno : 0;
}

static int try_wx(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0) == MAP_FAILED ? errno : 0;
}

static int try_trace(void)
{
	return ptrace(PTRACE_TRACEME, 0, NULL, NULL) ? errno : 0;
}

static int try_low_port(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(700) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return bind(fd, (struct sockaddr *)&sa, sizeof(sa)) ? errno : 0;
}

static int try_kill(void)
{
	return kill(other, 0) ? errno : 0;
}

static int try_mount(void)
{
	return mount("none", "/nowhere/at/all", "tmpfs", 0, NULL) && errno != ENOENT ? errno : 0;
}

static int try_chown(void)
{
	return chown("/nowhere/at/all", 0, 0) && errno != ENOENT ? errno : 0;
}

static int try_steal(void)
{
	/* TIOCSTI on what is no terminal. */
	return ioctl(STDIN_FILENO, TIOCSTI, "x") && errno != ENOTTY && errno != EIO ? errno : 0;
}

static int try_ring(void)
{
	struct io_uring ring;

	return -io_uring_queue_init(4, &ring, 0);
}

/* The agent's own ring, as who runs code in the agent would find it. */
static int loop_fd(void)
{
	char path[32], name[64];
	int fd;

	for (fd = 3; fd < 64; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, name, sizeof(name) - 1);
		if (n < 0)
			continue;
		name[n] = '\0';
		if (!strcmp(name, "anon_inode:[io_uring]"))
			return fd;
	}
	return -1;
}

static struct loop *loop;
static struct io_uring_params params;

/* Opens a file through a ring. */
static int ring_open(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int err;

	if (!sqe)
		return ENOSPC;
	io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
	err = io_uring_submit(ring);
	if (err < 0)
		return -err;
	err = io_uring_wait_cqe(ring, &cqe);
	if (err < 0)
		return -err;
	return cqe->res < 0 ? -cqe->res : 0;
}

static int try_ring_open(void)
{
	struct io_uring ring;
	int err;

	if (confined()) {
		memset(&ring, 0, sizeof(ring));
		err = io_uring_queue_mmap(loop_fd(), &params, &ring);
	} else {
		err = io_uring_queue_init(4, &ring, 0);
	}
	return err ? -err : ring_open(&ring);
}

static int try_ring_register(void)
{
	struct iovec iov = { .iov_base = &params, .iov_len = sizeof(params) };

	struct io_uring ring;
	int fd = loop_fd();

	if (!confined()) {
		if (io_uring_queue_init(4, &ring, 0))
			return errno;
		fd = ring.ring_fd;
	}
	return syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, &iov, 1) < 0 ? errno : 0;
}

/* What an agent does. */

static void *nothing(void *arg)
{
	return arg;
}

static int try_thread(void)
{
	pthread_t thread;
	int err = pthread_create(&thread, NULL, nothing, NULL);

	return err ? err : pthread_join(thread, NULL);
}

static int try_memory(void)
{
	char from[8] = "memory", to[8] = "";
	struct iovec local = { to, sizeof(to) }, remote = { from, sizeof(from) };

	if (process_vm_readv(other, &local, 1, &remote, 1, 0) != sizeof(to))
		return errno;
	return 0;
}

static int try_netlink(void)
{
	return socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) < 0 ? errno : 0;
}

static int try_tcp(void)
{
	return socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0 ? errno : 0;
}

static int try_read(void)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/maps", other);
	return open(path, O_RDONLY) < 0 ? errno : 0;
}

static void polled(void *arg, int res)
{
	*(int *)arg = res;
}

static int try_loop(void)
{
	int fds[2], res = -1;

	if (pipe(fds) && pipe2(fds, 0))
		return errno;
	if (write(fds[1], "x", 1) != 1)
		return errno;
	loop_poll(loop, fds[0], 1, polled, &res);
	loop_turn(loop, NSEC_PER_SEC);
	return res > 0 ? 0 : EIO;
}

static int try_capabilities(void)
{
	unsigned long long eff = 0, bnd = 0;
	char line[128];
	FILE *f = fopen("/proc/self/status", "r");

	if (!f)
		return errno;
	while (fgets(line, sizeof(line), f)) {
		sscanf(line, "CapEff: %llx", &eff);
		sscanf(line, "CapBnd: %llx", &bnd);
	}
	fclose(f);
	if (!confined())
		return 0;
	return eff == KEPT && !(bnd & ~KEPT) ? 0 : EBADE;
}

/* What @fn says in a process that is, or is not, confined. */
static int in_process(int (*fn)(void), bool confine_it)
{
	struct why why;
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		struct io_uring probe;

		/* What the loop's ring is laid out like. */
		if (io_uring_queue_init_params(256, &probe, &params))
			_exit(200);
		io_uring_queue_exit(&probe);
		loop = loop_new();
		if (!loop)
			_exit(201);
		if (confine_it && confine(&why)) {
			tap_note("%s", why.text);
			_exit(202);
		}
		_exit(fn());
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		tap_die("no process");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static const struct {
	const char *what;
	int (*fn)(void);
	int err;	/* once it is confined */
} tries[] = {
	{ "a process", try_fork, EPERM },
	{ "a program", try_exec, EPERM },
	{ "a new file", try_make, EPERM },
	{ "a file without a name", try_temporary, EPERM },
	{ "a socket for packets", try_packet, EPERM },
	{ "a raw socket", try_raw, EPERM },
	{ "memory to write and run", try_wx, EPERM },
	{ "being traced", try_trace, EPERM },
	{ "a signal to another process", try_kill, EPERM },
	{ "a mount", try_mount, EPERM },
	{ "another owner of a file", try_chown, EPERM },
	{ "input to a terminal", try_steal, EPERM },
	{ "a ring", try_ring, EPERM },
	{ "a file opened by a ring", try_ring_open, EACCES },
	{ "memory for the agent's ring", try_ring_register, EPERM },
	{ "a thread", try_thread, 0 },
	{ "memory of another process", try_memory, 0 },
	{ "tc", try_netlink, 0 },
	{ "a TCP socket", try_tcp, 0 },
	{ "a port below 1024", try_low_port, 0 },
	{ "another process' maps", try_read, 0 },
	{ "the loop", try_loop, 0 },
	{ "capabilities as they should be", try_capabilities, 0 },
};

int main(void)
{
	unsigned int i;

	if (geteuid())
		tap_die("needs root");
	other = getpid();
	for (i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		int before = in_process(tries[i].fn, false);
		int after = in_process(tries[i].fn, true);

		tap_ok(!before, "%s: an agent that begins can have it (%d)", tries[i].what, before);
		tap_ok(after == tries[i].err, "%s: one that has begun %s (%d)", tries[i].what,
		       tries[i].err ? "cannot" : "still can", after);
	}
	return tap_done();
}
