// SPDX-License-Identifier: GPL-2.0
/*
 * The calls of uapi/vmrepl.h: what is refused, with which error, and that a
 * refusal changes nothing. What a detach leaves is in detach_test.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		1024UL
#define NO_MEMORY	((void *)8)

static int device(void)
{
	int fd = open(VMREPL_DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		tap_die(VMREPL_DEVICE ": %s", strerror(errno));
	return fd;
}

/* Attach as the caller says, on a file of its own. Return: the errno. */
static int attach(struct vmrepl_attach *a)
{
	int fd = device(), err = expect_ioctl(fd, VMREPL_ATTACH, a);

	close(fd);
	return err;
}

/* One refusal, and that it changed nothing. */
static void refused(struct vmm *v, int want, bool says_why,
		    struct vmrepl_attach a, const char *name)
{
	int err;

	memset(a.why, 'x', sizeof(a.why));
	err = attach(&a);
	a.why[sizeof(a.why) - 1] = '\0';
	if (says_why)
		tap_note("why: %s", a.why);
	tap_ok(expect_errno(err, want) && !a.why[0] == !says_why &&
	       (!v || expect_untouched(v)), "attach is refused: %s", name);
}

static void *wait_main(void *data)
{
	int *pipefd = data;
	pid_t tid = gettid();
	char c;

	if (write(pipefd[1], &tid, sizeof(tid)) != sizeof(tid) ||
	    read(pipefd[2], &c, 1) < 0)
		tap_die("pipe: %s", strerror(errno));
	return NULL;
}

static void test_thread_id(struct vmm *v)
{
	int out[2], back[2], ends[3];
	pthread_t thread;
	pid_t tid;

	if (pipe(out) || pipe(back))
		tap_die("pipe: %s", strerror(errno));
	ends[0] = out[0];
	ends[1] = out[1];
	ends[2] = back[0];
	pthread_create(&thread, NULL, wait_main, ends);
	if (read(out[0], &tid, sizeof(tid)) != sizeof(tid))
		tap_die("pipe: %s", strerror(errno));
	refused(v, ESRCH, false, (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = tid }, "a thread's id");
	close(back[1]);
	pthread_join(thread, NULL);
	close(out[0]);
	close(out[1]);
	close(back[0]);
}

static void test_wrong_processes(struct vmm *v)
{
	siginfo_t info;
	pid_t pid;
	int vm;

	refused(v, ENOENT, false, (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = 1 }, "a process without a VM");
	refused(v, ENOENT, false, (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = 2 }, "a kernel thread");

	pid = fork();
	if (!pid)
		_exit(0);
	waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
	refused(v, ESRCH, false, (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = pid }, "a process that is a zombie");
	waitpid(pid, NULL, 0);
	refused(v, ESRCH, false, (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = pid }, "a process that has ended");
	test_thread_id(v);

	vm = ioctl(v->kvm, KVM_CREATE_VM, 0);
	refused(v, ENOTUNIQ, true, (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = getpid() }, "a process with two VMs");
	close(vm);
	vm = fcntl(v->vm, F_DUPFD_CLOEXEC, 0);
	tap_ok(expect_errno(attach(&(struct vmrepl_attach){
	       .abi = VMREPL_ABI, .pid = getpid() }), 0) && expect_untouched(v),
	       "a second descriptor of one VM is not a second VM");
	close(vm);
}

static void test_bad_requests(struct vmm *v)
{
	static const struct {
		const char *name;
		struct vmrepl_attach a;
		int err;
	} bad[] = {
		{ "ABI 0", { .abi = 0 }, EPROTO },
		{ "a newer ABI", { .abi = VMREPL_ABI + 1 }, EPROTO },
		{ "a flag that is none", { .abi = VMREPL_ABI, .flags = 4 }, EINVAL },
		{ "two flags", { .abi = VMREPL_ABI, .flags = VMREPL_ATTACH_HASH |
		  VMREPL_ATTACH_EXACT }, EINVAL },
		{ "a ring below the smallest",
		  { .abi = VMREPL_ABI, .ring_slots = VMREPL_RING_MIN / 2 }, EINVAL },
		{ "a ring above the largest",
		  { .abi = VMREPL_ABI, .ring_slots = VMREPL_RING_MAX * 2 }, EINVAL },
		{ "a ring that is no power of two",
		  { .abi = VMREPL_ABI, .ring_slots = 100 }, EINVAL },
		{ "the largest number as a ring",
		  { .abi = VMREPL_ABI, .ring_slots = ~0u }, EINVAL },
		{ "a negative pid", { .abi = VMREPL_ABI, .pid = -1 }, EINVAL },
		{ "no such pid", { .abi = VMREPL_ABI, .pid = 0x7ffffffe }, ESRCH },
	};

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct vmrepl_attach a = bad[i].a;

		if (!a.pid)
			a.pid = getpid();
		refused(v, bad[i].err, bad[i].err == EPROTO, a, bad[i].name);
	}
	refused(v, EINVAL, false, (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = 0 }, "pid 0");
}

static void test_bad_pointers(struct vmm *v)
{
	static const struct {
		const char *name;
		unsigned long cmd;
	} call[] = {
		{ "ATTACH", VMREPL_ATTACH }, { "LAYOUT", VMREPL_LAYOUT },
		{ "FREEZE", VMREPL_FREEZE }, { "STATS", VMREPL_STATS },
		{ "CPUS", VMREPL_CPUS },
	};
	struct consumer c;

	for (int attached = 0; attached < 2; attached++) {
		int fd;

		if (attached)
			expect_attach(&c, getpid(), 0);
		fd = attached ? c.fd : device();
		for (unsigned int i = 0; i < sizeof(call) / sizeof(*call); i++)
			tap_ok(expect_errno(expect_ioctl(fd, call[i].cmd, NULL),
					    EFAULT) &&
			       expect_errno(expect_ioctl(fd, call[i].cmd, NO_MEMORY),
					    EFAULT) &&
			       expect_errno(expect_ioctl(fd, call[i].cmd, (void *)
					    -4096L), EFAULT),
			       "bad addresses in %s, %s", call[i].name,
			       attached ? "attached" : "not attached");
		tap_ok(expect_errno(expect_ioctl(fd, _IO(VMREPL_IOC, 99), NULL),
				    ENOTTY) &&
		       expect_errno(expect_ioctl(fd, 0, NULL), ENOTTY) &&
		       expect_errno(expect_ioctl(fd, VMREPL_FREEZE + (1 << 16),
						 NULL), ENOTTY),
		       "unknown calls, %s",
		       attached ? "attached" : "not attached");
		if (attached)
			consumer_close(&c);
		else
			close(fd);
	}
	tap_ok(expect_untouched(v), "bad addresses leave the VM untouched");
}

static void test_before_attach(struct vmm *v)
{
	struct vmrepl_freeze freeze = { .epoch = 1 };
	struct vmrepl_layout layout = {};
	struct vmrepl_stats stats;
	int fd = device();
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	tap_ok(expect_errno(expect_ioctl(fd, VMREPL_FREEZE, &freeze), ENOTCONN),
	       "FREEZE before attach");
	tap_ok(expect_errno(expect_ioctl(fd, VMREPL_LAYOUT, &layout), ENOTCONN),
	       "LAYOUT before attach");
	tap_ok(expect_errno(expect_ioctl(fd, VMREPL_KICK, NULL), ENOTCONN),
	       "KICK before attach");
	tap_ok(expect_errno(expect_ioctl(fd, VMREPL_STATS, &stats), 0) &&
	       !stats.freezes && !stats.pages, "STATS before attach are zero");
	tap_ok(mmap(NULL, VMM_PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED &&
	       expect_errno(errno, ENOTCONN), "mmap before attach");
	tap_ok(poll(&pfd, 1, 0) == 1 && pfd.revents & POLLERR,
	       "poll before attach says POLLERR");
	close(fd);
	tap_ok(expect_untouched(v), "the VM is untouched by it");
}

static bool freeze_is(int fd, uint64_t epoch, uint32_t flags, uint32_t pad,
		      int want)
{
	struct vmrepl_freeze f = { .epoch = epoch, .flags = flags, .pad = pad };

	return expect_errno(expect_ioctl(fd, VMREPL_FREEZE, &f), want);
}

static bool map_is(int fd, uint64_t offset, size_t bytes, int want)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		       offset);

	if (p != MAP_FAILED) {
		munmap(p, bytes);
		return expect_errno(0, want);
	}
	return expect_errno(errno, want);
}

static void test_bad_freeze_and_map(struct vmm *v)
{
	uint64_t bytes, rings;
	struct consumer c;

	expect_attach(&c, getpid(), VMREPL_RING_MIN);
	consumer_watch(&c, v->ram, v->pages);
	bytes = c.attach.ring_bytes;
	rings = c.attach.nr_rings;
	tap_ok(rings == c.attach.nr_vcpus + 1 && c.attach.nr_vcpus == 1 &&
	       c.attach.ring_slots == VMREPL_RING_MIN &&
	       c.attach.ram_bytes == PAGES * VMM_PAGE && strstr(c.attach.why, "stores"),
	       "attach tells vCPUs, rings, RAM and how stores are seen");
	tap_ok(c.ring[0]->abi == VMREPL_ABI &&
	       c.ring[0]->nr_slots == VMREPL_RING_MIN && !c.ring[0]->head &&
	       !c.ring[0]->flags &&
	       c.ring[0]->data_offset + VMREPL_RING_MIN * VMM_PAGE == bytes,
	       "the ring says how it is laid out");

	tap_ok(freeze_is(c.fd, 0, 0, 0, EINVAL), "FREEZE with epoch 0");
	tap_ok(freeze_is(c.fd, 1, 4, 0, EINVAL) &&
	       freeze_is(c.fd, 1, ~0u, 0, EINVAL), "FREEZE with unknown flags");
	tap_ok(freeze_is(c.fd, 1, VMREPL_FREEZE_LIVE | VMREPL_FREEZE_COW, 0, EINVAL),
	       "FREEZE with flags that exclude each other");
	tap_ok(freeze_is(c.fd, 1, 0, 1, EINVAL), "FREEZE with something in pad");
	c.epoch = 4;
	expect_epoch(&c, 0);
	tap_ok(expect_same(v, &c, 0, PAGES), "refusals before lost nothing");
	tap_ok(freeze_is(c.fd, 5, 0, 0, EINVAL) &&
	       freeze_is(c.fd, 4, 0, 0, EINVAL) &&
	       freeze_is(c.fd, 4, VMREPL_FREEZE_LIVE, 0, EINVAL),
	       "FREEZE with an epoch that is not higher");
	c.epoch = ~0ULL - 1;
	vmm_write(v, 0, 100, 10, 1, 3);
	expect_epoch(&c, 0);
	tap_ok(expect_same(v, &c, 0, PAGES) && freeze_is(c.fd, ~0ULL, 0, 0, EINVAL),
	       "the highest epoch is the last");

	tap_ok(map_is(c.fd, VMM_PAGE, bytes, EINVAL) &&
	       map_is(c.fd, bytes - VMM_PAGE, bytes, EINVAL),
	       "mmap between two rings");
	tap_ok(map_is(c.fd, rings * bytes, bytes, EINVAL) &&
	       map_is(c.fd, 1ULL << 50, bytes, EINVAL) &&
	       map_is(c.fd, (1ULL << 63) - 2 * bytes, bytes, EINVAL),
	       "mmap behind the last ring");
	tap_ok(map_is(c.fd, 0, VMM_PAGE, EINVAL) &&
	       map_is(c.fd, 0, bytes - VMM_PAGE, EINVAL) &&
	       map_is(c.fd, 0, bytes + VMM_PAGE, EINVAL) &&
	       map_is(c.fd, 0, bytes * rings, EINVAL),
	       "mmap of less or more than a ring");
	tap_ok(map_is(c.fd, 0, bytes, 0), "a ring can be mapped twice");
	tap_ok(mremap(c.ring[0], bytes, bytes + VMM_PAGE, MREMAP_MAYMOVE) ==
	       MAP_FAILED, "a mapped ring cannot grow");
	consumer_close(&c);
	tap_ok(expect_untouched(v), "the VM is untouched afterwards");
}

static void test_layout(struct vmm *v)
{
	struct vmrepl_slot slots[3];
	struct vmrepl_layout l = { .slots = (uintptr_t)slots, .nr_slots = 3 };
	struct consumer c;
	uint32_t generation;

	memset(slots, 0xff, sizeof(slots));
	expect_attach(&c, getpid(), 0);
	tap_ok(expect_errno(expect_ioctl(c.fd, VMREPL_LAYOUT, &l), 0) &&
	       l.nr_slots == 1 && !slots[0].gpa &&
	       slots[0].hva == (uintptr_t)v->ram &&
	       slots[0].bytes == PAGES * VMM_PAGE && !slots[0].as_id &&
	       !slots[0].id && !slots[0].flags && slots[1].gpa == ~0ULL,
	       "LAYOUT tells the slots");
	generation = l.generation;
	l = (struct vmrepl_layout){};
	tap_ok(expect_errno(expect_ioctl(c.fd, VMREPL_LAYOUT, &l), ENOSPC) &&
	       l.nr_slots == 1 && l.generation > generation,
	       "LAYOUT without room says how much it needs");
	l = (struct vmrepl_layout){ .slots = 0, .nr_slots = 1 };
	tap_ok(expect_errno(expect_ioctl(c.fd, VMREPL_LAYOUT, &l), EFAULT),
	       "LAYOUT with room nowhere");
	l = (struct vmrepl_layout){ .slots = (uintptr_t)slots, .nr_slots = ~0u };
	tap_ok(expect_errno(expect_ioctl(c.fd, VMREPL_LAYOUT, &l), 0) &&
	       l.nr_slots == 1, "LAYOUT with the largest number as room");
	consumer_watch(&c, v->ram, v->pages);
	expect_epoch(&c, 0);
	tap_ok(expect_same(v, &c, 0, PAGES), "and nothing was lost by it");
	consumer_close(&c);
	tap_ok(expect_untouched(v), "the VM is untouched afterwards");
}

static void test_second_attach(struct vmm *v)
{
	struct vmrepl_attach a = { .abi = VMREPL_ABI, .pid = getpid() };
	struct consumer c;

	expect_attach(&c, getpid(), 0);
	consumer_watch(&c, v->ram, v->pages);
	tap_ok(expect_hooks(), "ftrace's list has the hooks while attached");
	tap_ok(expect_errno(expect_ioctl(c.fd, VMREPL_ATTACH, &a), EBUSY),
	       "a second attach on the same file");
	tap_ok(expect_errno(attach(&a), EBUSY), "a second attach on another file");
	tap_ok(vmm_slot_logged(v, 0, v->pages), "the slot is still logged");
	vmm_write(v, 0, 50, 100, 1, 5);
	expect_epoch(&c, 0);
	vmm_write(v, 0, 60, 100, 1, 6);
	expect_epoch(&c, 0);
	tap_ok(expect_same(v, &c, 0, PAGES) && expect_seen(&c, 60, 100),
	       "the session goes on after both");
	consumer_close(&c);
	tap_ok(expect_untouched(v) && !expect_hooks(),
	       "close leaves neither logging nor hooks");
}

/* Open the device without CAP_SYS_ADMIN. Return: the errno. */
static int open_as_nobody(void)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		if (setgid(65534) || setuid(65534))
			_exit(255);
		_exit(open(VMREPL_DEVICE, O_RDWR) < 0 ? errno : 0);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* A signal while it is under way: nothing has happened, and it can be done again. */
static void test_interrupted(struct vmm *v)
{
	const struct itimerval soon = { .it_value = { .tv_usec = 1000 } };
	struct sigaction action = { .sa_handler = on_alarm };
	int interrupted = 0, again = 0, turns = 10;

	sigaction(SIGALRM, &action, NULL);
	for (int i = 0; i < turns; i++) {
		struct vmrepl_attach a = { .abi = VMREPL_ABI, .pid = getpid() };
		int fd = device();

		setitimer(ITIMER_REAL, &soon, NULL);
		if (expect_ioctl(fd, VMREPL_ATTACH, &a) == EINTR) {
			interrupted++;
			again += expect_untouched(v) && !expect_ioctl(fd, VMREPL_ATTACH, &a);
		}
		close(fd);
	}
	tap_ok(interrupted && again == interrupted && expect_untouched(v),
	       "interrupted by a signal %d times: nothing has happened, and then it works",
	       interrupted);
}

static void test_permission(struct vmm *v)
{
	struct stat st;

	tap_ok(!stat(VMREPL_DEVICE, &st) && (st.st_mode & 0777) == 0600,
	       "the device is root's alone");
	tap_ok(expect_errno(open_as_nobody(), EACCES), "another user cannot open it");
	chmod(VMREPL_DEVICE, 0666);
	tap_ok(expect_errno(open_as_nobody(), EPERM),
	       "nor one who could, without CAP_SYS_ADMIN");
	chmod(VMREPL_DEVICE, 0600);
	tap_ok(expect_untouched(v), "the VM is untouched by it");
}

/* Return: 0 or the errno of switching all of ftrace on or off. */
static int set_ftrace(const char *value)
{
	int fd = open("/proc/sys/kernel/ftrace_enabled", O_WRONLY | O_CLOEXEC);
	int err = write(fd, value, 1) == 1 ? 0 : errno;

	close(fd);
	return err;
}

/* Hooks that somebody can switch off would lose writes. */
static void test_ftrace_off(struct vmm *v)
{
	struct vmrepl_attach a = { .abi = VMREPL_ABI, .pid = getpid() };
	int fd;

	if (set_ftrace("0"))
		tap_die("kernel.ftrace_enabled: %s", strerror(errno));
	refused(v, EOPNOTSUPP, true, a, "ftrace is off");
	set_ftrace("1");

	fd = device();
	tap_ok(!expect_ioctl(fd, VMREPL_ATTACH, &a), "with ftrace on it attaches");
	tap_ok(set_ftrace("0"), "and ftrace cannot be switched off then");
	close(fd);
	tap_ok(!set_ftrace("0") && !set_ftrace("1"), "but after the detach");
}

/* VMs of other kinds; each is alone in this process. */
static int bare_vm(int kvm, void *ram, size_t bytes)
{
	struct kvm_userspace_memory_region r = {
		.memory_size = bytes, .userspace_addr = (uintptr_t)ram,
	};
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0 || (bytes && ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r)))
		tap_die("a VM of another kind: %s", strerror(errno));
	return vm;
}

static void test_dirty_ring(int kvm)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_DIRTY_LOG_RING };
	int max = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING);
	int vm = bare_vm(kvm, NULL, 0);

	cap.args[0] = max > 65536 ? 65536 : max;
	if (max <= 0 || ioctl(vm, KVM_ENABLE_CAP, &cap))
		tap_skip("this KVM has no dirty ring: %s", strerror(errno));
	else
		refused(NULL, EOPNOTSUPP, true, (struct vmrepl_attach){
			.abi = VMREPL_ABI, .pid = getpid() },
			"a VM with KVM's dirty ring");
	close(vm);
}

static void test_device_memory(int kvm)
{
	void *ram = MAP_FAILED;
	size_t bytes = VMM_PAGE;
	glob_t found;
	int vm;

	if (!glob("/sys/bus/pci/devices/*/resource[0-5]", 0, NULL, &found)) {
		for (size_t i = 0; i < found.gl_pathc && ram == MAP_FAILED; i++) {
			int fd = open(found.gl_pathv[i], O_RDWR | O_CLOEXEC);

			ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				   MAP_SHARED, fd, 0);
			close(fd);
		}
		globfree(&found);
	}
	if (ram == MAP_FAILED) {
		tap_skip("no PCI device here whose memory can be mapped");
		return;
	}
	vm = bare_vm(kvm, ram, bytes);
	refused(NULL, EOPNOTSUPP, true, (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = getpid() }, "memory of a device");
	close(vm);
	munmap(ram, bytes);
}

static void test_not_mapped(int kvm)
{
	char *ram = mmap(NULL, 4 * VMM_PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int vm;

	munmap(ram + 2 * VMM_PAGE, VMM_PAGE);
	vm = bare_vm(kvm, ram, 4 * VMM_PAGE);
	refused(NULL, EOPNOTSUPP, true, (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = getpid() }, "RAM with a hole in it");
	close(vm);
	munmap(ram, 2 * VMM_PAGE);
	munmap(ram + 3 * VMM_PAGE, VMM_PAGE);
}

static void test_no_memory_yet(int kvm)
{
	struct vmrepl_attach a = { .abi = VMREPL_ABI, .pid = getpid() };
	int vm = bare_vm(kvm, NULL, 0);

	tap_ok(expect_errno(attach(&a), 0) && a.nr_rings == 1 && !a.ram_bytes &&
	       a.ring_slots == VMREPL_RING_DEFAULT,
	       "a VM without vCPU and memory can be attached to");
	close(vm);
}

int main(void)
{
	struct vmm *v;
	int kvm;

	v = vmm_create(VMM_RAM_ANON, PAGES, 1);
	test_bad_requests(v);
	test_wrong_processes(v);
	test_before_attach(v);
	test_bad_pointers(v);
	test_bad_freeze_and_map(v);
	test_layout(v);
	test_second_attach(v);
	test_interrupted(v);
	test_permission(v);
	test_ftrace_off(v);
	vmm_destroy(v);

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	test_dirty_ring(kvm);
	test_device_memory(kvm);
	test_not_mapped(kvm);
	test_no_memory_yet(kvm);
	close(kvm);
	tap_ok(!expect_hooks(), "at the end no hook is left");
	return tap_done();
}
