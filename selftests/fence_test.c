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
	static struct fencer *last;
	struct why why;
	struct fence fence = {
		.fencer = fencer_new(command, "standby", 4711, &why),
		.peer = "10.0.0.1:7788",
		.success = on_success,
		.loop = loop,
	};

	if (!fence.fencer)
		tap_die("%s", why.text);
	fencer_free(last);
	last = fence.fencer;
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

/* The pid in a file, once it is whole. 0: not yet. */
static pid_t pid_in(const char *name)
{
	char path[64], line[16] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (!f)
		return 0;
	if (!fgets(line, sizeof(line), f) || !strchr(line, '\n'))
		line[0] = '\0';
	fclose(f);
	return atoi(line);
}

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

	loop = loop_new();
	if (!loop || !mkdtemp(dir) || chdir(dir))
		tap_die("cannot set up");

	fence = make("test \"$VMREPL_ROLE $VMREPL_PEER $VMREPL_VM\" = \"standby 10.0.0.1:7788 4711\"");
	fence_start(&fence, 0);
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC) && fence_runs(&fence) == 1 &&
	       !fence_active(&fence), "a command that succeeds, told who and what");

	fence = make("test \"$VMREPL_PEER\" = '[fe80::1%eth0]:7788'");
	strcpy(fence.peer, "[fe80::1%eth0]:7788");
	fence_start(&fence, 0);
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC), "IPv6");

	fence = make("exit 0");
	strcpy(fence.peer, "10.0.0.1:7788; touch x");
	fence_start(&fence, 0);
	UNTIL(fence_runs(&fence) == 1 && !fence.op, 5 * NSEC_PER_SEC);
	tap_ok(!successes && fence_active(&fence), "what is no address is not fenced");
	fence_stop(&fence);

	fence = make("touch delayed");
	start = loop_now();
	fence_start(&fence, 300 * NSEC_PER_MSEC);
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC) &&
	       loop_now() - start >= 300 * NSEC_PER_MSEC, "not before its delay");

	fence = make("touch given-up");
	fence_start(&fence, 200 * NSEC_PER_MSEC);
	tap_ok(fence_active(&fence) && fence_stop(&fence) && !fence_active(&fence),
	       "given up within its delay");
	UNTIL(false, 400 * NSEC_PER_MSEC);
	tap_ok(!successes && !exists("given-up"), "it was not run then");

	fence = make("test -e second || { touch second; exit 1; }");
	start = loop_now();
	fence_start(&fence, 0);
	UNTIL(exists("second"), 5 * NSEC_PER_SEC);
	UNTIL(false, 500 * NSEC_PER_MSEC);
	tap_ok(!successes && fence_active(&fence), "a command that fails is no success");
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC) && fence_runs(&fence) == 2 &&
	       loop_now() - start >= FENCE_RETRY_NS, "it is run again");

	fence = make("kill -9 $$");
	fence_start(&fence, 0);
	UNTIL(fence_runs(&fence) == 1 && !fence.op, 5 * NSEC_PER_SEC);
	tap_ok(!successes && fence_active(&fence), "one that is killed is no success");
	fence_stop(&fence);

	fence = make("no-such-command-anywhere 2>/dev/null");
	fence_start(&fence, 0);
	UNTIL(fence_runs(&fence) == 1 && !fence.op, 5 * NSEC_PER_SEC);
	tap_ok(!successes && fence_active(&fence), "one that does not exist is no success");
	fence_stop(&fence);

	/* The kernel reaps for us then, and no exit code would be left to be read. */
	signal(SIGCHLD, SIG_IGN);
	fence = make("exit 0");
	fence_start(&fence, 0);
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC), "an exit code is not lost where children are ignored");
	signal(SIGCHLD, SIG_DFL);

	fence = make("kill -9 $PPID");
	fence_open(&fence, loop);
	fence_start(&fence, 0);
	UNTIL(fence.gone && !fence.op, 10 * NSEC_PER_SEC);
	tap_ok(!successes && fence_active(&fence) && fence.gone,
	       "without the process that runs it nothing succeeds");
	tap_ok(fence_stop(&fence), "and it can be given up");
	fence_close(&fence);

	fence = make("echo $$ > running; until [ -e closed ]; do :; done");
	fence_start(&fence, 0);
	UNTIL(pid_in("running"), 5 * NSEC_PER_SEC);
	child = pid_in("running");
	tap_ok(child && !kill(child, 0), "one that takes its time");
	fence_close(&fence);
	tap_ok(!fence_active(&fence) && UNTIL(kill(child, 0) && errno == ESRCH, 5 * NSEC_PER_SEC),
	       "one that runs when all ends is killed");
	UNTIL(false, 200 * NSEC_PER_MSEC);
	tap_ok(!successes, "and nothing comes of it");

	fence = make("until [ -e go ]; do :; done");
	fence_start(&fence, 0);
	UNTIL(fence.op, 5 * NSEC_PER_SEC);
	tap_ok(!fence_stop(&fence), "one that runs cannot be given up: it may succeed");
	if (system("touch go"))
		tap_die("cannot write");
	tap_ok(UNTIL(successes, 10 * NSEC_PER_SEC), "and it does");

	loop_free(loop);
	fencer_free(fence.fencer);
	if (unlink("delayed") || unlink("second") || unlink("running") || unlink("go") || chdir("/") || rmdir(dir))
		tap_note("something is left in %s", dir);
	return tap_done();
}
