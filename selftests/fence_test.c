// SPDX-License-Identifier: GPL-2.0
/*
 * fence_test: only exit code 0 of the fence command is success (I5).
 *
 *	fence_test
 *
 * Needs no privileges and no module. Takes some seconds: a failed command is run
 * again after two.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fence.h"
#include "tap.h"

static struct loop *loop;
static unsigned int successes;
static char dir[] = "/tmp/fence_test.XXXXXX";

static void on_success(void *arg)
{
	(void)arg;
	successes++;
}

static struct fence make(const char *command)
{
	struct fence fence = {
		.command = command,
		.role = "standby",
		.peer = "10.0.0.1:7788",
		.vm = 4711,
		.success = on_success,
	};

	successes = 0;
	return fence;
}

/* Runs the loop until @cond or @ns have passed. Value: whether it came true. */
#define UNTIL(cond, ns) ({						\
	uint64_t end_ns = loop_now() + (ns);				\
									\
	while (!(cond) && loop_now() < end_ns)				\
		loop_turn(loop, 10 * NSEC_PER_MSEC);			\
	(cond);								\
})

static bool exists(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return !access(path, F_OK);
}

int main(void)
{
	struct fence fence;
	uint64_t start;
	pid_t child;
	int status;

	loop = loop_new();
	if (!loop || !mkdtemp(dir) || chdir(dir))
		tap_die("cannot set up");

	fence = make("test \"$VMREPL_ROLE $VMREPL_PEER $VMREPL_VM\" = \"standby 10.0.0.1:7788 4711\"");
	fence_start(&fence, loop, 0);
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC) && fence_runs(&fence) == 1 &&
	       !fence_active(&fence), "a command that succeeds, told who and what");

	fence = make("touch delayed");
	start = loop_now();
	fence_start(&fence, loop, 300 * NSEC_PER_MSEC);
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC) &&
	       loop_now() - start >= 300 * NSEC_PER_MSEC, "not before its delay");

	fence = make("touch given-up");
	fence_start(&fence, loop, 200 * NSEC_PER_MSEC);
	tap_ok(fence_active(&fence) && fence_stop(&fence) && !fence_active(&fence),
	       "given up within its delay");
	UNTIL(false, 400 * NSEC_PER_MSEC);
	tap_ok(!successes && !exists("given-up"), "it was not run then");

	fence = make("test -e second || { touch second; exit 1; }");
	start = loop_now();
	fence_start(&fence, loop, 0);
	UNTIL(exists("second"), 5 * NSEC_PER_SEC);
	UNTIL(false, 500 * NSEC_PER_MSEC);
	tap_ok(!successes && fence_active(&fence), "a command that fails is no success");
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC) && fence_runs(&fence) == 2 &&
	       loop_now() - start >= FENCE_RETRY_NS, "it is run again");

	fence = make("kill -9 $$");
	fence_start(&fence, loop, 0);
	UNTIL(fence_runs(&fence) == 1 && !fence.child, 5 * NSEC_PER_SEC);
	tap_ok(!successes && fence_active(&fence), "one that is killed is no success");
	fence_stop(&fence);

	fence = make("no-such-command-anywhere 2>/dev/null");
	fence_start(&fence, loop, 0);
	UNTIL(fence_runs(&fence) == 1 && !fence.child, 5 * NSEC_PER_SEC);
	tap_ok(!successes && fence_active(&fence), "one that does not exist is no success");
	fence_stop(&fence);

	/* The kernel reaps for us then, and no exit code is left to be read. */
	signal(SIGCHLD, SIG_IGN);
	fence = make("until [ -e begun ]; do :; done; exit 1");
	fence_start(&fence, loop, 0);
	UNTIL(fence.child, 5 * NSEC_PER_SEC);
	if (system("touch begun") != -1)
		tap_die("a program's exit code is not lost");
	UNTIL(fence_runs(&fence) == 1 && !fence.child, 5 * NSEC_PER_SEC);
	tap_ok(!successes && fence_active(&fence), "one whose exit code is lost is no success");
	fence_stop(&fence);
	signal(SIGCHLD, SIG_DFL);

	fence = make("touch running; until [ -e closed ]; do :; done");
	fence_start(&fence, loop, 0);
	UNTIL(exists("running"), 5 * NSEC_PER_SEC);
	child = fence.child;
	fence_close(&fence);
	tap_ok(!fence_active(&fence) && child > 0 && waitpid(child, &status, 0) == child &&
	       WIFSIGNALED(status), "one that runs when all ends is killed");
	UNTIL(false, 200 * NSEC_PER_MSEC);
	tap_ok(!successes, "and nothing comes of it");

	fence = make("until [ -e go ]; do :; done");
	fence_start(&fence, loop, 0);
	UNTIL(fence.child, 5 * NSEC_PER_SEC);
	tap_ok(!fence_stop(&fence), "one that runs cannot be given up: it may succeed");
	if (system("touch go"))
		tap_die("cannot write");
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC), "and it does");

	loop_free(loop);
	if (unlink("delayed") || unlink("second") || unlink("begun") || unlink("running") || unlink("go") || chdir("/") || rmdir(dir))
		tap_note("something is left in %s", dir);
	return tap_done();
}
