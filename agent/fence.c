// SPDX-License-Identifier: GPL-2.0
/*
 * fence: one child at a time, watched through its pidfd.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fence.h"
#include "report.h"

extern char **environ;

static void fence_run(void *arg);

static void fence_retry(struct fence *fence)
{
	fence->timer.fn = fence_run;
	loop_timer_set(fence->loop, &fence->timer, FENCE_RETRY_NS);
}

static void fence_exited(void *arg, int res)
{
	struct fence *fence = arg;
	int status = 0;
	bool known;

	fence->op = NULL;
	loop_timer_cancel(fence->loop, &fence->timer);
	close(fence->pidfd);
	/* It could not be watched and may still run: killed, it is no success. */
	if (res < 0)
		kill(-fence->child, SIGKILL);
	/* Somebody else may have taken its exit code, as where SIGCHLD is ignored. */
	known = waitpid(fence->child, &status, 0) == fence->child;
	fence->child = 0;
	if (known && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		fence->active = false;
		report_event("fenced", "runs:u", (uint64_t)fence->runs);
		fence->success(fence->arg);
		return;
	}
	if (!known)
		report_warn("nobody knows how the fence command ended; trying again in %" PRIu64 " s",
			    FENCE_RETRY_NS / NSEC_PER_SEC);
	else if (WIFSIGNALED(status))
		report_warn("fence command was ended by signal %d; trying again in %" PRIu64 " s",
			    WTERMSIG(status), FENCE_RETRY_NS / NSEC_PER_SEC);
	else
		report_warn("fence command failed with exit code %d; trying again in %" PRIu64 " s",
			    WEXITSTATUS(status), FENCE_RETRY_NS / NSEC_PER_SEC);
	report_event("fence-failed", "known:b exit:u signal:u", known,
		     (uint64_t)(known && WIFEXITED(status) ? WEXITSTATUS(status) : 0),
		     (uint64_t)(known && WIFSIGNALED(status) ? WTERMSIG(status) : 0));
	fence_retry(fence);
}

static void fence_hangs(void *arg)
{
	struct fence *fence = arg;

	report_warn("fence command runs for %" PRIu64 " s, killing it", FENCE_RUN_NS / NSEC_PER_SEC);
	/* Its own process group: what it started goes with it. */
	kill(-fence->child, SIGKILL);
}

static void fence_run(void *arg)
{
	struct fence *fence = arg;
	char *argv[] = { "sh", "-c", (char *)(uintptr_t)fence->command, NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, pipe;
	char vm[16];
	int err;

	snprintf(vm, sizeof(vm), "%d", fence->vm);
	setenv("VMREPL_ROLE", fence->role, 1);
	setenv("VMREPL_PEER", fence->peer, 1);
	setenv("VMREPL_VM", vm, 1);
	/* What we do with signals and the terminal is nothing to it. */
	sigemptyset(&none);
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
				 POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &pipe);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	err = posix_spawn(&fence->child, "/bin/sh", &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	if (err) {
		fence->child = 0;
		report_warn("cannot run the fence command: %s; trying again in %" PRIu64 " s",
			    strerror(err), FENCE_RETRY_NS / NSEC_PER_SEC);
		fence_retry(fence);
		return;
	}
	fence->runs++;
	fence->pidfd = (int)syscall(SYS_pidfd_open, fence->child, 0);
	if (fence->pidfd < 0) {
		report_warn("cannot watch the fence command: %s; trying again in %" PRIu64 " s",
			    strerror(errno), FENCE_RETRY_NS / NSEC_PER_SEC);
		kill(-fence->child, SIGKILL);
		waitpid(fence->child, NULL, 0);
		fence->child = 0;
		fence_retry(fence);
		return;
	}
	fence->op = loop_poll(fence->loop, fence->pidfd, POLLIN, fence_exited, fence);
	fence->timer.fn = fence_hangs;
	loop_timer_set(fence->loop, &fence->timer, FENCE_RUN_NS);
}

void fence_start(struct fence *fence, struct loop *loop, uint64_t delay_ns)
{
	if (fence->active)
		return;
	fence->loop = loop;
	fence->active = true;
	fence->timer.fn = fence_run;
	fence->timer.arg = fence;
	loop_timer_set(loop, &fence->timer, delay_ns);
}

bool fence_stop(struct fence *fence)
{
	if (!fence->active)
		return true;
	if (fence->child)
		return false;
	loop_timer_cancel(fence->loop, &fence->timer);
	fence->active = false;
	return true;
}

void fence_close(struct fence *fence)
{
	if (!fence->active)
		return;
	loop_timer_cancel(fence->loop, &fence->timer);
	if (fence->child) {
		loop_cancel(fence->loop, fence->op);
		fence->op = NULL;
		kill(-fence->child, SIGKILL);
		close(fence->pidfd);
		/* Its exit code is nobody's any more: init has it when we end. */
		fence->child = 0;
	}
	fence->active = false;
}

void fence_status(const struct fence *fence, struct json_object *o)
{
	json_object_object_add(o, "fence", json_object_new_boolean(fence->command != NULL));
	json_object_object_add(o, "fence-runs", json_object_new_uint64(fence->runs));
}

bool fence_active(const struct fence *fence)
{
	return fence->active;
}

unsigned int fence_runs(const struct fence *fence)
{
	return fence->runs;
}
