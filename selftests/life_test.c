// SPDX-License-Identifier: GPL-2.0
/*
 * Who may die or leave, and when: the VM, the agent, the module. Each VMM and
 * each agent here is a process of its own.
 *
 *	life_test [vmrepl.ko]		(or VMREPL_KO; default ./vmrepl.ko)
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define SMALL		1024UL		/* pages */
#define BIG		32768UL		/* 128 MiB: to be seen in /proc/meminfo */
#define RMMOD_ROUNDS	2

static const char *module_path = "vmrepl.ko";

/* What to do, and with which pages; the VMM answers each with one number. */
struct order {
	char what;		/* w write, h hammer, s stop, l logged?, q quit */
	uint64_t first;
	uint64_t count;
	uint64_t value;
};

struct vmm_process {
	pid_t pid;
	int to;
	int from;
	uint8_t *ram;		/* in that process */
	uint64_t pages;
};

static uint64_t obey(struct vmm *v, struct order *o)
{
	switch (o->what) {
	case 'w':
		vmm_write(v, 0, o->first, o->count, 1, o->value);
		return 0;
	case 'h':
		for (int i = 0; i < v->nr_vcpus; i++)
			vmm_hammer(v, i, o->first, o->count, 1);
		return 0;
	case 's':
		vmm_stop(v);
		return 0;
	case 'l':
		return vmm_slot_logged(v, 0, v->pages);
	default:
		vmm_destroy(v);
		_exit(0);
	}
}

static void vmm_main(int from, int to, uint64_t pages, uint64_t mark)
{
	struct vmm *v = vmm_create(VMM_RAM_ANON, pages, 2);
	struct order o;
	uint64_t answer;

	for (uint64_t p = VMM_FIRST_PAGE; p < pages; p++)
		*(uint64_t *)(v->ram + p * VMM_PAGE) = mark + p;
	if (write(to, &v->ram, sizeof(v->ram)) != sizeof(v->ram))
		_exit(1);
	/* An orderless VMM leaves: its test has ended. */
	while (read(from, &o, sizeof(o)) == sizeof(o)) {
		answer = obey(v, &o);
		if (write(to, &answer, sizeof(answer)) != sizeof(answer))
			break;
	}
	_exit(1);
}

static struct vmm_process vmm_start(uint64_t pages, uint64_t mark)
{
	struct vmm_process p = { .pages = pages };
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		tap_die("pipe: %s", strerror(errno));
	p.pid = fork();
	if (!p.pid) {
		close(to[1]);
		close(from[0]);
		vmm_main(to[0], from[1], pages, mark);
	}
	close(to[0]);
	close(from[1]);
	p.to = to[1];
	p.from = from[0];
	if (read(p.from, &p.ram, sizeof(p.ram)) != sizeof(p.ram))
		tap_die("the VMM does not come up");
	return p;
}

static uint64_t order(struct vmm_process *p, char what, uint64_t first,
		      uint64_t count, uint64_t value)
{
	struct order o = { what, first, count, value };
	uint64_t answer;

	if (write(p->to, &o, sizeof(o)) != sizeof(o) ||
	    read(p->from, &answer, sizeof(answer)) != sizeof(answer))
		tap_die("the VMM does not answer to %c", what);
	return answer;
}

static void hammer(struct vmm_process *p)
{
	order(p, 'h', 100, p->pages / 2, 0);
}

static uint64_t read_word(struct vmm_process *p, uint64_t page)
{
	uint64_t word = 0;
	struct iovec to = { &word, sizeof(word) };
	struct iovec at = { p->ram + page * VMM_PAGE, sizeof(word) };

	if (process_vm_readv(p->pid, &to, 1, &at, 1, 0) != sizeof(word))
		tap_die("process_vm_readv: %s", strerror(errno));
	return word;
}

/* Does the copy hold what the VMM's RAM holds? */
static bool same(struct vmm_process *p, struct consumer *c)
{
	uint8_t *ram = malloc(p->pages * VMM_PAGE);
	struct iovec to = { ram, p->pages * VMM_PAGE };
	struct iovec at = { p->ram, p->pages * VMM_PAGE };
	struct vmm v = { .ram = ram, .pages = p->pages };
	bool ok;

	if (!ram || process_vm_readv(p->pid, &to, 1, &at, 1, 0) !=
		    (ssize_t)to.iov_len)
		tap_die("process_vm_readv: %s", strerror(errno));
	ok = expect_same(&v, c, 0, p->pages);
	free(ram);
	return ok;
}

/* The hammering guest gets on. */
static bool gets_on(struct vmm_process *p)
{
	uint64_t before = read_word(p, 100);

	return expect_until(read_word(p, 100) != before);
}

/* No order more; it may be dead already. */
static void vmm_end(struct vmm_process *p)
{
	kill(p->pid, SIGKILL);
	waitpid(p->pid, NULL, 0);
	close(p->to);
	close(p->from);
}

static uint64_t anon_kib(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[128];
	uint64_t kib = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "AnonPages: %lu", &kib) == 1)
			break;
	fclose(f);
	return kib;
}

/* An epoch is begun, and the copy stands because the ring is full. */
static void begin_and_fill(struct consumer *c)
{
	int err = consumer_freeze(c, VMREPL_FREEZE_LIVE);

	if (err)
		tap_die("freeze: %s", strerror(err));
	if (!expect_until(consumer_stats(c).ring_full > 0))
		tap_die("the ring does not fill up");
}

static bool says_gone(struct consumer *c)
{
	struct pollfd pfd = { .fd = c->fd };
	struct vmrepl_freeze f = { .epoch = c->epoch + 1 };
	struct vmrepl_layout l = {};

	if (poll(&pfd, 1, EXPECT_MS) != 1 || !(pfd.revents & POLLHUP)) {
		tap_note("no POLLHUP");
		return false;
	}
	return expect_errno(expect_ioctl(c->fd, VMREPL_FREEZE, &f), ESRCH) &&
	       expect_errno(expect_ioctl(c->fd, VMREPL_LAYOUT, &l), ESRCH);
}

/* A whole session with a VM of its own. */
static bool module_works(void)
{
	struct vmm_process p = vmm_start(SMALL, 0x77);
	struct consumer c;
	bool ok;

	expect_attach(&c, p.pid, 0);
	consumer_watch(&c, p.ram, p.pages);
	expect_epoch(&c, 0);
	order(&p, 'w', 200, 50, 5);
	expect_epoch(&c, 0);
	ok = same(&p, &c) && expect_seen(&c, 200, 50);
	consumer_close(&c);
	ok = !order(&p, 'l', 0, 0, 0) && ok;
	vmm_end(&p);
	return ok;
}

static void test_vm_killed(void)
{
	uint64_t without = anon_kib(), with;
	struct vmm_process p = vmm_start(BIG, 1);
	struct consumer c;

	expect_attach(&c, p.pid, VMREPL_RING_MIN);
	hammer(&p);
	begin_and_fill(&c);
	with = anon_kib();
	vmm_end(&p);
	tap_ok(says_gone(&c), "VM killed while it is copied: POLLHUP, then ESRCH");
	tap_ok(with > without + BIG * 3 &&
	       expect_until(anon_kib() < with - BIG * 3),
	       "its memory is free while the agent still holds the session");
	ioctl(c.fd, VMREPL_KICK);
	consumer_close(&c);
	tap_ok(module_works(), "VM killed: the module works on");

	/* While the copy runs, not while it waits. */
	for (int i = 0; i < 3; i++) {
		p = vmm_start(SMALL * 4, 2);
		expect_attach(&c, p.pid, 4096);
		consumer_watch(&c, p.ram, p.pages);
		hammer(&p);
		expect_epoch(&c, VMREPL_FREEZE_LIVE);
		if (consumer_freeze(&c, VMREPL_FREEZE_LIVE))
			tap_die("freeze: %s", strerror(errno));
		vmm_end(&p);
		tap_ok(says_gone(&c), "VM killed while a copy runs (%d)", i);
		consumer_close(&c);
	}
	tap_ok(module_works(), "and the module works on");
}

static void test_vm_exits(void)
{
	struct vmm_process p = vmm_start(SMALL, 3);
	struct order quit = { .what = 'q' };
	struct consumer c;
	int status;

	expect_attach(&c, p.pid, 0);
	consumer_watch(&c, p.ram, p.pages);
	expect_epoch(&c, 0);
	if (write(p.to, &quit, sizeof(quit)) != sizeof(quit))
		tap_die("the VMM takes no order");
	tap_ok(waitpid(p.pid, &status, 0) == p.pid && !status,
	       "a VM that is protected can leave by itself");
	tap_ok(says_gone(&c), "the agent hears of it");
	consumer_close(&c);
	close(p.to);
	close(p.from);
	tap_ok(module_works(), "and the module works on");
}

/* An agent that says when it is in the middle of an epoch, and stays there. */
static pid_t agent_start(struct vmm_process *p, bool full)
{
	int pipefd[2];
	pid_t pid;
	char c;

	if (pipe2(pipefd, O_CLOEXEC))
		tap_die("pipe: %s", strerror(errno));
	pid = fork();
	if (!pid) {
		struct consumer consumer;

		close(pipefd[0]);
		expect_attach(&consumer, p->pid, full ? VMREPL_RING_MIN : 4096);
		consumer_watch(&consumer, p->ram, p->pages);
		expect_epoch(&consumer, VMREPL_FREEZE_LIVE);
		if (full)
			begin_and_fill(&consumer);
		for (bool told = false; ; told = true) {
			if (!told && write(pipefd[1], "x", 1) != 1)
				_exit(1);
			if (full)
				pause();
			else
				expect_epoch(&consumer, VMREPL_FREEZE_LIVE);
		}
	}
	close(pipefd[1]);
	if (read(pipefd[0], &c, 1) != 1)
		tap_die("the agent does not come up");
	close(pipefd[0]);
	return pid;
}

static void test_agent_killed(bool full)
{
	const char *when = full ? "in the middle of an epoch" : "at any moment";
	struct vmm_process p = vmm_start(SMALL * 4, 4);
	struct consumer c;
	int fine = 0, rounds = 4;

	hammer(&p);
	for (int i = 0; i < rounds; i++) {
		pid_t agent = agent_start(&p, full);
		bool armed = order(&p, 'l', 0, 0, 0);

		kill(agent, SIGKILL);
		waitpid(agent, NULL, 0);
		fine += armed && !order(&p, 'l', 0, 0, 0) && gets_on(&p);
	}
	tap_ok(fine == rounds,
	       "agent killed %s: the guest goes on, unlogged: %d of %d", when,
	       fine, rounds);
	expect_attach(&c, p.pid, 0);
	consumer_watch(&c, p.ram, p.pages);
	expect_epoch(&c, VMREPL_FREEZE_LIVE);
	order(&p, 's', 0, 0, 0);
	expect_epoch(&c, 0);
	tap_ok(same(&p, &c), "agent killed %s: a new agent can attach", when);
	consumer_close(&c);
	vmm_end(&p);
}

/* VMM and agent in one process: all ends at once. */
static void test_both_killed(void)
{
	int pipefd[2];
	pid_t pid;
	char c;

	if (pipe2(pipefd, O_CLOEXEC))
		tap_die("pipe: %s", strerror(errno));
	pid = fork();
	if (!pid) {
		struct vmm *v = vmm_create(VMM_RAM_ANON, SMALL, 2);
		struct consumer consumer;

		memset(v->ram + VMM_FIRST_PAGE * VMM_PAGE, 3,
		       (SMALL - VMM_FIRST_PAGE) * VMM_PAGE);
		expect_attach(&consumer, getpid(), VMREPL_RING_MIN);
		vmm_hammer(v, 0, 100, 500, 1);
		begin_and_fill(&consumer);
		if (write(pipefd[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	close(pipefd[1]);
	if (read(pipefd[0], &c, 1) != 1)
		tap_die("VMM and agent do not come up");
	close(pipefd[0]);
	kill(pid, SIGKILL);
	tap_ok(waitpid(pid, NULL, 0) == pid, "VMM and agent killed as one process");
	tap_ok(module_works(), "and the module works on");
}

static int rmmod(void)
{
	return syscall(SYS_delete_module, "vmrepl", O_NONBLOCK) ? errno : 0;
}

static int insmod(void)
{
	int fd = open(module_path, O_RDONLY | O_CLOEXEC);
	int err;

	if (fd < 0)
		return errno;
	err = syscall(SYS_finit_module, fd, "", 0) ? errno : 0;
	close(fd);
	if (!err && !expect_until(!access(VMREPL_DEVICE, R_OK | W_OK)))
		err = ENODEV;
	return err;
}

static void test_rmmod(void)
{
	struct vmm_process p = vmm_start(SMALL * 4, 5);
	int refused = 0, gone = 0, again = 0;
	struct consumer c;

	hammer(&p);
	for (int i = 0; i < RMMOD_ROUNDS; i++) {
		expect_attach(&c, p.pid, VMREPL_RING_MIN);
		begin_and_fill(&c);
		refused += expect_errno(rmmod(), EWOULDBLOCK);
		consumer_close(&c);
		gone += expect_errno(rmmod(), 0) &&
			access(VMREPL_DEVICE, F_OK) && gets_on(&p) &&
			!order(&p, 'l', 0, 0, 0);
		again += expect_errno(insmod(), 0);
	}
	tap_ok(refused == RMMOD_ROUNDS, "rmmod is refused while a session is open: %d of %d",
	       refused, RMMOD_ROUNDS);
	tap_ok(gone == RMMOD_ROUNDS, "rmmod right after close, under load: %d of %d",
	       gone, RMMOD_ROUNDS);
	tap_ok(again == RMMOD_ROUNDS, "insmod again: %d of %d", again,
	       RMMOD_ROUNDS);

	/* A file without a VM holds the module too. */
	c.fd = open(VMREPL_DEVICE, O_RDWR | O_CLOEXEC);
	tap_ok(expect_errno(rmmod(), EWOULDBLOCK),
	       "rmmod is refused while the device is open");
	close(c.fd);
	order(&p, 's', 0, 0, 0);
	vmm_end(&p);
	tap_ok(module_works(), "and the module works");
}

static void test_two_vms(void)
{
	struct vmm_process p[2] = { vmm_start(SMALL, 0x1000000),
				    vmm_start(SMALL, 0x2000000) };
	struct consumer c[2];
	int fine = 0, rounds = 5;
	bool ok;

	for (int i = 0; i < 2; i++) {
		expect_attach(&c[i], p[i].pid, 256);
		consumer_watch(&c[i], p[i].ram, p[i].pages);
		expect_epoch(&c[i], 0);
		expect_epoch(&c[i], 0);
	}
	for (int round = 0; round < rounds; round++) {
		ok = true;
		order(&p[0], 'w', 100, 50, 0x100 + round);
		order(&p[1], 'w', 500, 70, 0x200 + round);
		for (int i = 0; i < 2; i++)
			expect_epoch(&c[i], 0);
		for (uint64_t page = VMM_FIRST_PAGE; page < SMALL; page++)
			ok = ok && c[0].seen[page] == (page - 100 < 50) &&
			     c[1].seen[page] == (page - 500 < 70);
		fine += ok && same(&p[0], &c[0]) && same(&p[1], &c[1]);
	}
	tap_ok(fine == rounds, "two VMs at once, each gets its own pages: %d of %d",
	       fine, rounds);

	hammer(&p[0]);
	hammer(&p[1]);
	for (int i = 0; i < 10; i++)
		expect_epoch(&c[i % 2], VMREPL_FREEZE_LIVE);
	vmm_end(&p[0]);
	expect_epoch(&c[1], VMREPL_FREEZE_LIVE);
	order(&p[1], 's', 0, 0, 0);
	expect_epoch(&c[1], 0);
	tap_ok(says_gone(&c[0]) && same(&p[1], &c[1]),
	       "one of them is killed: the other one goes on");
	consumer_close(&c[0]);
	order(&p[1], 'w', 300, 40, 0x300);
	expect_epoch(&c[1], 0);
	tap_ok(same(&p[1], &c[1]) && expect_seen(&c[1], 300, 40),
	       "the session of one is closed: the other one goes on");
	consumer_close(&c[1]);
	vmm_end(&p[1]);
}

int main(int argc, char **argv)
{
	pid_t keeper;

	if (argc > 1)
		module_path = argv[1];
	else if (getenv("VMREPL_KO"))
		module_path = getenv("VMREPL_KO");
	signal(SIGPIPE, SIG_IGN);

	test_vm_killed();
	keeper = expect_keeper();
	test_vm_exits();
	test_agent_killed(true);
	test_agent_killed(false);
	test_both_killed();
	test_two_vms();
	expect_no_keeper(keeper);
	test_rmmod();
	return tap_done();
}
