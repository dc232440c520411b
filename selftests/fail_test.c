// SPDX-License-Identifier: GPL-2.0
/*
 * fail_test: memory runs out at every place where the module asks for some, one
 * after the other, and so does every copy to or from the agent. Each call then says a
 * plain error, the guest runs on, and the same call works afterwards. That nothing
 * leaks, and that the kernel has nothing to complain about, is the runner's to see. TAP.
 *
 * Needs a kernel with fault injection: make check-debug. How it counts is in the
 * kernel's Documentation/fault-injection/fault-injection.rst (fail-nth).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		512UL
#define DEBUGFS		"/sys/kernel/debug"
/*
 * Registering the hooks takes seconds on a debug kernel, for each of some 200 requests: every
 * so many is enough unless VMREPL_LONG is set.
 */
#define HOOKS_STEP	10
#define WORKER_STEP	40
/* No call asks so often; should one never get by, this ends it. */
#define MOST		5000

static struct vmm *vm;

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Allocations that may sleep, and single pages, are what we are after. */
static void injection_on(void)
{
	static const struct { const char *path, *value; } settings[] = {
		{ DEBUGFS "/failslab/ignore-gfp-wait", "N" },
		{ DEBUGFS "/failslab/verbose", "0" },
		{ DEBUGFS "/fail_page_alloc/ignore-gfp-wait", "N" },
		{ DEBUGFS "/fail_page_alloc/ignore-gfp-highmem", "N" },
		{ DEBUGFS "/fail_page_alloc/min-order", "0" },
		{ DEBUGFS "/fail_page_alloc/verbose", "0" },
		{ DEBUGFS "/fail_usercopy/verbose", "0" },
	};

	if (access(DEBUGFS "/failslab", F_OK) &&
	    mount("debugfs", DEBUGFS, "debugfs", 0, NULL))
		tap_die("debugfs cannot be mounted: %s", strerror(errno));
	for (unsigned int i = 0; i < sizeof(settings) / sizeof(*settings); i++)
		if (!write_file(settings[i].path, settings[i].value))
			tap_die("%s: %s; this needs the debug kernel (make check-debug)",
				settings[i].path, strerror(errno));
}

/* Opening it asks for memory too: so before anything is to fail. */
static int fail_open(pid_t thread)
{
	char path[64];
	int file;

	snprintf(path, sizeof(path), "/proc/%d/fail-nth", thread);
	file = open(path, O_RDWR | O_CLOEXEC);
	if (file < 0)
		tap_die("%s: %s", path, strerror(errno));
	return file;
}

/* The @nth of what that thread asks the kernel for fails; 0: nothing does. */
static void fail_nth(int file, unsigned int nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", nth);

	/* The kernel's copy of this number may be what fails. */
	while (pwrite(file, text, len, 0) != len)
		if (errno != EFAULT)
			tap_die("fail-nth: %s", strerror(errno));
}

/* Has it failed? If not, none will any more. */
static bool failed_nth(int file)
{
	char text[16] = "";
	/* Should this be what fails, nothing has before. */
	bool failed = pread(file, text, sizeof(text) - 1, 0) > 0 && !atoi(text);

	fail_nth(file, 0);
	return failed;
}

static bool plain_error(int err)
{
	return err == ENOMEM || err == EFAULT;
}

/*
 * Does @call with its first request failing, then with the one @step later, until none
 * is left. @call says its errno or 0; @after looks at what it has left behind, and
 * repeats it where it failed; it is told the errno.
 */
static void every_request(const char *what, unsigned int step, void (*before)(void),
			  int (*call)(void), bool (*after)(int err))
{
	unsigned int nth, times = 0, errors = 0, bad = 0;
	int self = fail_open(getpid());
	bool failed = true;

	for (nth = 1; failed && nth < MOST; nth += step) {
		int err;

		before();
		fail_nth(self, nth);
		err = call();
		failed = failed_nth(self);
		errors += err != 0;
		times += failed;
		if ((err && !(failed && plain_error(err))) || !after(err)) {
			tap_note("%s, request %u: %s", what, nth,
				 err ? strerrorname_np(err) : "success");
			bad++;
		}
	}
	close(self);
	tap_ok(!failed && errors && !bad,
	       "%s: %u requests failed, it said so %u times, and was wrong %u times",
	       what, times, errors, bad);
}

static int fd = -1;
static struct vmrepl_attach attach;
static uint32_t attach_flags;

static void nothing(void)
{
}

static int call_open(void)
{
	fd = open(VMREPL_DEVICE, O_RDWR | O_CLOEXEC);
	return fd < 0 ? errno : 0;
}

static bool after_open(int err)
{
	if (!err)
		close(fd);
	return expect_untouched(vm);
}

static void before_attach(void)
{
	if (call_open())
		tap_die(VMREPL_DEVICE ": %s", strerror(errno));
	attach = (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = getpid(),
		.ring_slots = VMREPL_RING_MIN, .flags = attach_flags,
	};
}

static int call_attach(void)
{
	return expect_ioctl(fd, VMREPL_ATTACH, &attach);
}

/* A session works that begins now. */
static bool session_works(void)
{
	struct consumer c;
	bool ok;

	expect_attach(&c, getpid(), VMREPL_RING_MIN);
	consumer_watch(&c, vm->ram, PAGES);
	vmm_write(vm, 0, 100, 20, 1, 7);
	expect_epoch(&c, 0);
	ok = expect_same(vm, &c, 0, PAGES) && expect_seen(&c, 100, 20);
	consumer_close(&c);
	return expect_untouched(vm) && ok;
}

/* EFAULT at the very end is told by a session that is there: the file is closed. */
static bool after_attach(int err)
{
	bool ok = true;

	if (err == ENOMEM)
		ok = expect_untouched(vm) && expect_errno(call_attach(), 0);
	close(fd);
	return expect_untouched(vm) && ok;
}

static void test_attach(const char *what, uint32_t flags, unsigned int step)
{
	attach_flags = flags;
	every_request(what, step, before_attach, call_attach, after_attach);
}

static struct consumer session;
static void *ring;

static void before_session(void)
{
	expect_attach(&session, getpid(), VMREPL_RING_MIN);
	consumer_watch(&session, vm->ram, PAGES);
	expect_epoch(&session, 0);
}

static int call_mmap(void)
{
	ring = mmap(NULL, session.attach.ring_bytes, PROT_READ | PROT_WRITE,
		    MAP_SHARED, session.fd, session.attach.ring_bytes);
	return ring == MAP_FAILED ? errno : 0;
}

/* The session that is open goes on, whatever it was that failed. */
static bool goes_on(void)
{
	static uint64_t value = 1000;
	bool ok;

	vmm_write(vm, 1, 200, 30, 1, ++value);
	expect_epoch(&session, 0);
	ok = expect_same(vm, &session, 0, PAGES) && expect_seen(&session, 200, 30);
	consumer_close(&session);
	return expect_untouched(vm) && ok;
}

static bool after_mmap(int err)
{
	bool ok = !err || expect_errno(call_mmap(), 0);

	if (ok)
		munmap(ring, session.attach.ring_bytes);
	return goes_on() && ok;
}

static void *extra;

/* A slot with memory that the session does not know yet. */
static void before_layout(void)
{
	before_session();
	extra = mmap(NULL, 64 * VMM_PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (extra == MAP_FAILED || vmm_slot(vm, 1, 1UL << 30, 64, extra, 0))
		tap_die("a second memory slot: %s", strerror(errno));
}

static int call_layout(void)
{
	struct vmrepl_slot slots[4];
	struct vmrepl_layout l = { .slots = (uintptr_t)slots, .nr_slots = 4 };

	return expect_ioctl(session.fd, VMREPL_LAYOUT, &l);
}

static bool after_layout(int err)
{
	bool ok = !err || expect_errno(call_layout(), 0);
	uint64_t strange;

	vmm_write(vm, 1, 200, 30, 1, 77);
	if (consumer_epoch(&session, 0))
		tap_die("epoch: %s", strerror(errno));
	/* What is not of the first slot is of the second, and wholly there. */
	strange = session.strange;
	session.strange = 0;
	if (strange != 64)
		tap_note("%lu pages of the new slot, not 64", strange);
	if (vmm_slot(vm, 1, 1UL << 30, 0, extra, 0))
		tap_die("the slot does not go: %s", strerror(errno));
	munmap(extra, 64 * VMM_PAGE);
	return goes_on() && ok && strange == 64;
}

static void before_freeze(void)
{
	before_session();
	vmm_write(vm, 0, 100, 200, 1, 5);
	for (uint64_t p = 350; p < 400; p++)
		vm->ram[p * VMM_PAGE + 9]++;
}

static uint32_t freeze_flags;

static int call_freeze(void)
{
	session.freeze = (struct vmrepl_freeze){ .epoch = session.epoch + 1,
		.flags = freeze_flags };
	return expect_ioctl(session.fd, VMREPL_FREEZE, &session.freeze);
}

/* EFAULT may come from the answer: then the set is fixed, and its pages come. */
static bool after_freeze(int err)
{
	if (err == EFAULT) {
		err = call_freeze();
		if (err == EINVAL || err == EBUSY)
			err = 0;
	} else if (err) {
		err = call_freeze();
	}
	session.epoch++;
	if (err || consumer_drain(&session) ||
	    !expect_same(vm, &session, 0, PAGES) ||
	    !expect_seen(&session, 350, 50)) {
		consumer_close(&session);
		return false;
	}
	return goes_on();
}

/* A ring that could not be unmapped for want of memory would keep the session open. */
static void before_close(void)
{
	before_session();
	for (uint32_t i = 0; i < session.attach.nr_rings; i++)
		if (munmap(session.ring[i], session.attach.ring_bytes))
			tap_die("munmap: %s", strerror(errno));
}

static int call_close(void)
{
	return close(session.fd) ? errno : 0;
}

/*
 * Nobody can be told that a close failed. Where KVM had no memory to turn its logging
 * off, that stays, and the kernel log says so; it costs the guest some speed.
 */
static bool after_close(int err)
{
	free(session.copy);
	free(session.seen);
	if (vmm_slot_logged(vm, 0, PAGES)) {
		tap_note("the slot stays logged");
		/* As the VMM would, so that what follows can see its own. */
		vmm_slot(vm, 0, 0, PAGES, vm->ram, 1);
		vmm_slot(vm, 0, 0, PAGES, vm->ram, 0);
	}
	return !err && session_works();
}

/* Closing never fails, so it has its own loop. */
static void test_close(void)
{
	int self = fail_open(getpid());
	unsigned int nth, bad = 0;
	bool failed = true;

	for (nth = 1; failed && nth < MOST; nth++) {
		int err;

		before_close();
		fail_nth(self, nth);
		err = call_close();
		failed = failed_nth(self);
		bad += !after_close(err);
	}
	close(self);
	tap_ok(!failed && !bad, "close: %u requests failed, and %u times all was not well",
	       nth - 2, bad);
}

/* Thread ids of this session's workers. Return: how many. */
static int workers(pid_t *tids, int room)
{
	char want[32], comm[32], path[300];
	struct dirent *d;
	DIR *proc = opendir("/proc");
	int n = 0;

	snprintf(want, sizeof(want), "vmrepl/%d-", getpid());
	while (proc && (d = readdir(proc)) && n < room) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%s/comm", d->d_name);
		f = fopen(path, "r");
		if (!f)
			continue;
		if (fgets(comm, sizeof(comm), f) && !strncmp(comm, want, strlen(want)))
			tids[n++] = atoi(d->d_name);
		fclose(f);
	}
	closedir(proc);
	return n;
}

/* A worker that cannot read a page breaks the session, and nothing else. */
static void test_worker(void)
{
	unsigned int nth, times = 0, broken = 0, bad = 0;
	bool failed = true;
	pid_t tids[8];
	int files[8];

	/* Each page that is copied is a request: soon they are all alike. */
	for (nth = 1; failed && nth < MOST; nth += nth < 16 ? 1 : WORKER_STEP) {
		int err, nr;

		expect_attach(&session, getpid(), VMREPL_RING_MIN);
		consumer_watch(&session, vm->ram, PAGES);
		nr = workers(tids, 8);
		if (nr != vm->nr_vcpus + 1)
			tap_die("%d workers", nr);
		/* Nothing is mapped there now: reading it takes page tables. */
		if (madvise(vm->ram + 300 * VMM_PAGE, 200 * VMM_PAGE, MADV_DONTNEED))
			tap_die("madvise: %s", strerror(errno));
		for (int i = 0; i < nr; i++)
			files[i] = fail_open(tids[i]);
		for (int i = 0; i < nr; i++)
			fail_nth(files[i], nth);
		err = consumer_epoch(&session, 0);
		failed = false;
		for (int i = 0; i < nr; i++) {
			failed |= failed_nth(files[i]);
			close(files[i]);
		}
		times += failed;
		broken += err == EIO;
		if ((err && !(err == EIO && failed)) ||
		    (!err && !expect_same(vm, &session, 0, PAGES))) {
			tap_note("workers, request %u: %s", nth, strerror(err));
			bad++;
		}
		consumer_close(&session);
		bad += !expect_untouched(vm);
	}
	tap_ok(!failed && !bad,
	       "workers: %u requests failed, the session was over %u times, and it was wrong %u times",
	       times, broken, bad);
}

int main(void)
{
	pid_t keeper;

	injection_on();
	vm = vmm_create(VMM_RAM_ANON, PAGES, 2);
	if (!session_works())
		tap_die("no session works, without any failure");

	keeper = expect_keeper();
	every_request("open", 1, nothing, call_open, after_open);
	every_request("mmap of a ring", 1, before_session, call_mmap, after_mmap);
	every_request("layout", 1, before_layout, call_layout, after_layout);
	every_request("freeze", 1, before_freeze, call_freeze, after_freeze);
	freeze_flags = VMREPL_FREEZE_COW;
	every_request("freeze with copy on write", 1, before_freeze, call_freeze,
		      after_freeze);
	test_worker();
	test_close();
	test_attach("attach with hashes", VMREPL_ATTACH_HASH, 1);
	test_attach("attach with copies", VMREPL_ATTACH_EXACT, 1);
	expect_no_keeper(keeper);
	test_attach("attach with its hooks", 0, getenv("VMREPL_LONG") ? 1 : HOOKS_STEP);
	tap_ok(session_works(), "and a session works");
	vmm_destroy(vm);
	return tap_done();
}
