// SPDX-License-Identifier: GPL-2.0
/*
 * checkpoint_test: a guest stands as long as it shall and no longer, with a QEMU
 * of our own that does what it is told to.
 *
 *	checkpoint_test
 *
 * Needs no privileges and no module.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint.h"
#include "protect.h"
#include "tap.h"

/* Far more than the small pipe takes. */
#define STATE_BYTES	100000u
#define PATIENCE_NS	(10 * NSEC_PER_SEC)

/* What our QEMU does when it is told to save its state. */
enum act {
	ACT_SAVE,		/* writes all of it, then answers */
	ACT_ANSWER_EARLY,	/* answers with only a little written */
	ACT_REFUSE,		/* writes nothing */
	ACT_WAIT,		/* waits for @go, then does as ACT_SAVE */
};

static enum act act;
/* What it says of the guest before its answer; NULL: nothing, it stood already. */
static const char *events;
static int server = -1;
/* Whether it has written all; errno where it could not; -1: not yet. */
static atomic_int written;
static sem_t go;
/* Seconds that the agent's clock is ahead; the linker puts us in (--wrap, see the Makefile). */
static time_t ahead;

static struct loop *loop;
static struct qmp *qmp;
static struct loop_op *op;
static struct checkpoint cp;
static unsigned int stops, dones;
static int done_err;
static struct why done_why;

int __real_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts);

int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	int err = __real_clock_gettime(id, ts);

	ts->tv_sec += ahead;
	return err;
}

static void say(int fd, const char *text)
{
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		tap_die("cannot answer");
}

static void save(int fd, const char *line)
{
	static const char key[] = "\"filename\":\"", id_key[] = "\"id\":";
	static uint8_t state[STATE_BYTES];
	const char *from = strstr(line, key), *id = strstr(line, id_key);
	size_t len = act == ACT_ANSWER_EARLY ? 100 : sizeof(state), at;
	char path[64], answer[128];
	ssize_t n = 0;
	int out;

	if (!from || !id)
		tap_die("not the command that we know: %s", line);
	from += sizeof(key) - 1;
	snprintf(path, sizeof(path), "%.*s", (int)strcspn(from, "\""), from);
	memset(state, 7, sizeof(state));
	if (act != ACT_REFUSE) {
		out = open(path, O_WRONLY);
		if (out < 0)
			tap_die("cannot open %s", path);
		if (act == ACT_WAIT)
			sem_wait(&go);
		for (at = 0; at < len; at += (size_t)n) {
			n = write(out, state + at, len - at);
			if (n < 0)
				break;
		}
		atomic_store(&written, n < 0 ? errno : 0);
		close(out);
	}
	if (events)
		say(fd, events);
	snprintf(answer, sizeof(answer), "{\"%s\":%s,\"id\":%d}\r\n",
		 act == ACT_REFUSE || n < 0 ? "error" : "return",
		 act == ACT_REFUSE || n < 0 ? "{\"class\":\"GenericError\",\"desc\":\"no\"}" : "{}",
		 atoi(id + sizeof(id_key) - 1));
	say(fd, answer);
}

/* One client, a command a line; ends with it. */
static void *qemu(void *arg)
{
	int fd = accept(server, NULL, NULL);
	char line[1024], c, answer[64];
	size_t n = 0;
	int depth = 0;

	(void)arg;
	say(fd, "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7,\"minor\":2,\"micro\":0},\"package\":\"\"},\"capabilities\":[]}}\r\n");
	while (read(fd, &c, 1) == 1) {
		if (n == sizeof(line) - 1)
			tap_die("a command is too long");
		line[n++] = c;
		depth += (c == '{') - (c == '}');
		if (depth || c != '}')
			continue;
		line[n] = '\0';
		n = 0;
		if (strstr(line, "xen-save-devices-state")) {
			save(fd, line);
			continue;
		}
		snprintf(answer, sizeof(answer), "{\"return\":{},\"id\":%d}\r\n",
			 atoi(strstr(line, "\"id\":") + 5));
		say(fd, answer);
	}
	close(fd);
	return NULL;
}

static void on_stopped(void *arg)
{
	(void)arg;
	stops++;
}

static void on_done(void *arg, int err, const struct why *why)
{
	(void)arg;
	dones++;
	done_err = err;
	done_why = *why;
}

static void on_qmp(void *arg, int res)
{
	struct qmp_msg msg;

	(void)arg;
	(void)res;
	while (qmp_pump(qmp, &msg, NULL) > 0) {
		checkpoint_message(&cp, &msg);
		qmp_msg_put(&msg);
	}
	op = loop_poll(loop, qmp_fd(qmp), POLLIN, on_qmp, NULL);
}

/* Runs the loop until @cond or @ns have passed. Value: whether it came true. */
#define UNTIL(cond, ns) ({						\
	uint64_t end_ns = loop_now() + (ns);				\
									\
	while (!(cond) && loop_now() < end_ns)				\
		loop_turn(loop, 10 * NSEC_PER_MSEC);			\
	(cond);								\
})

static void fire(enum act what)
{
	struct why why;

	act = what;
	stops = 0;
	dones = 0;
	atomic_store(&written, -1);
	if (checkpoint_arm(&cp, &why) || checkpoint_fire(&cp, &why))
		tap_die("%s", why.text);
}

static bool whole(void)
{
	size_t i;

	for (i = 0; i < cp.len; i++)
		if (cp.state[i] != 7)
			return false;
	return cp.len == STATE_BYTES;
}

#define EVENT(name, s, us)							\
	"{\"timestamp\":{\"seconds\":" #s ",\"microseconds\":" #us "},\"event\":\"" name "\"}\r\n"

/* One checkpoint with what QEMU says of the guest; returns nanoseconds it took. */
static uint64_t told(const char *what)
{
	uint64_t before = loop_now();

	events = what;
	fire(ACT_SAVE);
	UNTIL(stops, PATIENCE_NS);
	checkpoint_resume(&cp);
	if (!UNTIL(dones, PATIENCE_NS) || done_err)
		tap_die("no checkpoint: %s", done_why.text);
	events = NULL;
	return loop_now() - before;
}

static void test_pause(void)
{
	uint64_t took;

	told(EVENT("STOP", 1000, 999990) EVENT("RESUME", 1001, 7));
	tap_ok(cp.pause_ns == 17 * NSEC_PER_USEC && !cp.stands, "the pause is from STOP to RESUME");
	took = told(EVENT("STOP", 1000, 0) EVENT("RESUME", 90000, 0));
	tap_ok(cp.pause_ns && cp.pause_ns <= took,
	       "and at most from the trigger to the answer, whoever sets the clock");
	took = told(EVENT("STOP", 90000, 0) EVENT("RESUME", 1000, 0));
	tap_ok(cp.pause_ns && cp.pause_ns <= took, "also where it is set back");
	told(NULL);
	tap_ok(cp.stands && !cp.pause_ns, "nothing said: it stood already, and did not wait for us");
	told(EVENT("RESUME", 1000, 0) EVENT("STOP", 1000, 1));
	tap_ok(cp.stands, "stopped by somebody after the trigger: it stands");
	told(EVENT("RESUME", 1000, 0) EVENT("STOP", 1000, 1) EVENT("RESUME", 1000, 5));
	tap_ok(!cp.stands && cp.pause_ns == 4 * NSEC_PER_USEC, "let run by somebody before: it runs");

	tap_ok(protect_due(1000, 1030, 100, 30) == 1100, "short pauses: one checkpoint each interval");
	tap_ok(protect_due(1000, 1080, 100, 80) == 1160, "long ones: it runs as long as it stood");
	tap_ok(protect_due(1000, 1300, 100, 0) == 1300, "one that took longer than the interval: at once");
}

/* Machines stand still: one that is itself a VM, for as long as somebody likes. */
static void test_clock(void)
{
	fire(ACT_WAIT);
	ahead += 461100;
	UNTIL(dones, NSEC_PER_SEC / 2);
	tap_ok(!dones, "a clock that jumps meanwhile ends nothing");
	sem_post(&go);
	UNTIL(stops || dones, PATIENCE_NS);
	checkpoint_resume(&cp);
	ahead += 461100;
	tap_ok(UNTIL(dones, PATIENCE_NS) && !done_err && whole(), "the checkpoint comes to its end");
}

static void start(void)
{
	struct why why;

	cp.stopped = on_stopped;
	cp.done = on_done;
	if (checkpoint_open(&cp, loop, qmp, &why))
		tap_die("%s", why.text);
}

static void test_late(void)
{
	struct why why;

	/* The one before was given up; QEMU's answer to that is still to come. */
	checkpoint_close(&cp);
	start();
	UNTIL(!qmp_disarm(qmp, &why), PATIENCE_NS);
	fire(ACT_WAIT);
	ahead += 461100;
	UNTIL(dones, NSEC_PER_SEC / 10);
	ahead += CHECKPOINT_NS / NSEC_PER_SEC;
	tap_ok(UNTIL(dones, PATIENCE_NS) && done_err == -ETIMEDOUT && !stops,
	       "after that QEMU has its time once more, and not longer");
	sem_post(&go);
	tap_ok(UNTIL(atomic_load(&written) >= 0, PATIENCE_NS) && atomic_load(&written) == EPIPE,
	       "it cannot write what nobody waits for");
}

int main(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char dir[] = "/tmp/checkpoint_test.XXXXXX";
	pthread_t thread;
	struct why why;

	signal(SIGPIPE, SIG_IGN);
	loop = loop_new();
	server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (!loop || server < 0 || !mkdtemp(dir))
		tap_die("cannot set up");
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/qmp", dir);
	if (bind(server, (struct sockaddr *)&sa, sizeof(sa)) || listen(server, 1) ||
	    pthread_create(&thread, NULL, qemu, NULL))
		tap_die("cannot set up");
	qmp = qmp_open(sa.sun_path, 5000, &why);
	if (!qmp)
		tap_die("%s", why.text);
	start();
	op = loop_poll(loop, qmp_fd(qmp), POLLIN, on_qmp, NULL);

	fire(ACT_SAVE);
	tap_ok(UNTIL(stops, PATIENCE_NS), "the first byte tells that the guest stands");
	UNTIL(false, 300 * NSEC_PER_MSEC);
	tap_ok(!dones && atomic_load(&written) < 0, "it stands until it is let go");
	checkpoint_resume(&cp);
	tap_ok(UNTIL(dones, PATIENCE_NS) && !done_err && whole(), "then its state is whole");

	test_pause();
	test_clock();
	fire(ACT_REFUSE);
	tap_ok(UNTIL(dones, PATIENCE_NS) && done_err && !stops && strstr(done_why.text, "no"),
	       "a QEMU that refuses: an error, and its words");

	fire(ACT_ANSWER_EARLY);
	UNTIL(stops || dones, PATIENCE_NS);
	UNTIL(dones, 300 * NSEC_PER_MSEC);
	checkpoint_resume(&cp);
	tap_ok(UNTIL(dones, PATIENCE_NS) && done_err,
	       "a guest that ran while its memory was copied: an error");

	fire(ACT_SAVE);
	UNTIL(stops, PATIENCE_NS);
	checkpoint_forget(&cp);
	tap_ok(UNTIL(atomic_load(&written) >= 0, PATIENCE_NS) && atomic_load(&written) == EPIPE &&
	       !dones, "what is given up lets the guest go");
	tap_ok(checkpoint_arm(&cp, &why) == -EPIPE, "there is no other one after that");
	test_late();

	loop_cancel(loop, op);
	qmp_close(qmp);
	checkpoint_close(&cp);
	pthread_join(thread, NULL);
	close(server);
	unlink(sa.sun_path);
	rmdir(dir);
	loop_free(loop);
	return tap_done();
}
