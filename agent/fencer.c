// SPDX-License-Identifier: GPL-2.0
/*
 * fencer: one child at a time, watched through its pidfd, so that an order to kill
 * it is heard while it runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fencer.h"

extern char **environ;

enum fencer_order_kind {
	FENCER_RUN,
	FENCER_KILL,
};

struct fencer_order {
	uint32_t kind;
	char peer[FENCER_PEER_LEN];
};

struct fencer {
	int fd;
	pid_t pid;
};

/* ---- in the process ---- */

struct fencer_child {
	pid_t pid;
	int pidfd;
};

/* It goes to a shell: nothing but what addresses are made of, and it is no option. */
static bool fencer_is_peer(const char *peer)
{
	static const char allowed[] =
		"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:-_[]%*";

	return *peer && *peer != '-' && !peer[strspn(peer, allowed)];
}

/* Returns 0 or an errno. */
static int fencer_spawn(struct fencer_child *child, const char *command)
{
	char *argv[] = { "sh", "-c", (char *)(uintptr_t)command, NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, ours;
	int err;

	/* What we do with signals and the terminal is nothing to it. */
	sigemptyset(&none);
	sigemptyset(&ours);
	sigaddset(&ours, SIGINT);
	sigaddset(&ours, SIGTERM);
	sigaddset(&ours, SIGHUP);
	sigaddset(&ours, SIGPIPE);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
				 POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &ours);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	err = posix_spawn(&child->pid, "/bin/sh", &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	if (err)
		return err;
	child->pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
	if (child->pidfd >= 0)
		return 0;
	err = errno;
	/* It could not be watched: killed, it is no success. */
	kill(-child->pid, SIGKILL);
	waitpid(child->pid, NULL, 0);
	return err;
}

static void fencer_answer(int fd, enum fencer_verdict verdict, int value)
{
	struct fencer_answer answer = { .verdict = (int32_t)verdict, .value = value };

	/* Nobody there: the end of this process is next. */
	if (send(fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
		return;
}

static void fencer_reap(int fd, struct fencer_child *child)
{
	int status;

	close(child->pidfd);
	child->pidfd = -1;
	if (waitpid(child->pid, &status, 0) != child->pid)
		fencer_answer(fd, FENCER_FAILED, errno);
	else if (WIFEXITED(status))
		fencer_answer(fd, FENCER_EXITED, WEXITSTATUS(status));
	else
		fencer_answer(fd, FENCER_SIGNALLED, WTERMSIG(status));
}

static void __attribute__((noreturn)) fencer_serve(int fd, const char *command)
{
	struct fencer_child child = { .pidfd = -1 };
	struct fencer_order order;
	ssize_t n;
	int err;

	for (;;) {
		struct pollfd fds[2] = {
			{ .fd = fd, .events = POLLIN },
			{ .fd = child.pidfd, .events = POLLIN },
		};

		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			fencer_reap(fd, &child);
		if (!fds[0].revents)
			continue;
		n = recv(fd, &order, sizeof(order), MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n != sizeof(order))
			_exit(0);
		if (order.kind == FENCER_KILL && child.pidfd >= 0) {
			kill(-child.pid, SIGKILL);
		} else if (order.kind == FENCER_RUN && child.pidfd < 0) {
			order.peer[sizeof(order.peer) - 1] = '\0';
			setenv("VMREPL_PEER", order.peer, 1);
			err = fencer_is_peer(order.peer) ? fencer_spawn(&child, command) : EINVAL;
			if (err)
				fencer_answer(fd, FENCER_FAILED, err);
		}
	}
}

/*
 * What ends the agent must not end this one first: the agent, told to end while the
 * standby is not fenced, goes on until it is.
 */
static void __attribute__((noreturn)) fencer_begin(int fd, const char *command, const char *role,
						   pid_t vm)
{
	char number[16];

	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	/* Inherited as ignored it would take the command's exit code away. */
	signal(SIGCHLD, SIG_DFL);
	/* As the agent: it is needed when a host is short of memory or time. */
	mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
	setpriority(PRIO_PROCESS, 0, -20);
	prctl(PR_SET_NAME, "vmrepl-fencer");
	snprintf(number, sizeof(number), "%d", vm);
	setenv("VMREPL_ROLE", role, 1);
	setenv("VMREPL_VM", number, 1);
	fencer_serve(fd, command);
}

/* ---- in the agent ---- */

struct fencer *fencer_new(const char *command, const char *role, pid_t vm, struct why *why)
{
	struct fencer *fencer = calloc(1, sizeof(*fencer));
	int fds[2];

	if (!fencer) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		goto fail;
	fencer->pid = fork();
	if (fencer->pid == 0) {
		close(fds[0]);
		fencer_begin(fds[1], command, role, vm);
	}
	close(fds[1]);
	fencer->fd = fds[0];
	if (fencer->pid > 0)
		return fencer;
	close(fds[0]);
fail:
	why_set(why, errno, "cannot make the process that runs the fence command: %s",
		strerror(errno));
	free(fencer);
	return NULL;
}

int fencer_fd(const struct fencer *fencer)
{
	return fencer->fd;
}

static int fencer_order(struct fencer *fencer, enum fencer_order_kind kind, const char *peer)
{
	struct fencer_order order = { .kind = kind };

	snprintf(order.peer, sizeof(order.peer), "%s", peer);
	if (send(fencer->fd, &order, sizeof(order), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return -errno;
	return 0;
}

int fencer_run(struct fencer *fencer, const char *peer)
{
	return fencer_order(fencer, FENCER_RUN, peer);
}

void fencer_kill(struct fencer *fencer)
{
	fencer_order(fencer, FENCER_KILL, "");
}

void fencer_free(struct fencer *fencer)
{
	if (!fencer)
		return;
	close(fencer->fd);
	free(fencer);
}
