// SPDX-License-Identifier: GPL-2.0
/*
 * fuzz_test: an agent out of its mind. Several threads make any call of /dev/vmrepl
 * with anything, map rings anywhere, write anything into them and unmap them,
 * while a guest writes and its memory slots come and go. Afterwards the module
 * protects that guest as if nothing had been, and the kernel has not complained (the
 * runner looks at its log). TAP.
 *
 *	fuzz_test [SECONDS [SEED]]
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		1024UL
#define THREADS		3
#define FILES		3
/* Mappings that a thread has at a time. */
#define MAPPINGS	4
#define BUFFER		4096

struct fuzz {
	pthread_t thread;
	uint64_t random;
	struct { uint8_t *at; size_t len; } map[MAPPINGS];
	uint8_t buffer[BUFFER];
	uint64_t calls;
	uint64_t attached;
	uint64_t frozen;
	uint64_t mapped;
};

static struct vmm *vm;
static int files[FILES];
static volatile bool stop;

/* xorshift64: Marsaglia, Xorshift RNGs, 2003. */
static uint64_t any(struct fuzz *f)
{
	f->random ^= f->random << 13;
	f->random ^= f->random >> 7;
	f->random ^= f->random << 17;
	return f->random;
}

static uint64_t below(struct fuzz *f, uint64_t n)
{
	return any(f) % n;
}

/* Small, around a border, or anything. */
static uint64_t number(struct fuzz *f)
{
	static const uint64_t borders[] = {
		0, 1, 64, 4096, 65536, 1UL << 31, 1UL << 32, 1UL << 47, ~0UL,
	};

	switch (below(f, 3)) {
	case 0:
		return below(f, 8);
	case 1:
		return borders[below(f, sizeof(borders) / sizeof(*borders))] +
		       below(f, 3) - 1;
	default:
		return any(f);
	}
}

/* Where an argument is: mostly memory of ours, which may be another call's too. */
static void *place(struct fuzz *f)
{
	switch (below(f, 16)) {
	case 0:
		return (void *)number(f);
	case 1:
		return f->map[below(f, MAPPINGS)].at;
	default:
		return f->buffer;
	}
}

static void do_open(struct fuzz *f)
{
	int *file = &files[below(f, FILES)];
	int fd = open(VMREPL_DEVICE, O_RDWR | O_CLOEXEC);
	int old = __atomic_exchange_n(file, fd, __ATOMIC_SEQ_CST);

	if (old >= 0)
		close(old);
}

static void do_attach(struct fuzz *f, int fd)
{
	struct vmrepl_attach a = {
		.abi = VMREPL_ABI, .pid = getpid(),
		.ring_slots = VMREPL_RING_MIN << below(f, 4),
		.flags = below(f, 3),
	};

	switch (below(f, 8)) {
	case 0:
		a.pid = number(f);
		break;
	case 1:
		a.ring_slots = number(f);
		break;
	case 2:
		a.flags = number(f);
		break;
	case 3:
		ioctl(fd, VMREPL_ATTACH, place(f));
		return;
	}
	f->attached += !ioctl(fd, VMREPL_ATTACH, &a);
}

static void do_layout(struct fuzz *f, int fd)
{
	struct vmrepl_layout l = {
		.slots = (uintptr_t)place(f), .nr_slots = number(f),
	};

	/* What fits, lest it spoils our own memory. */
	if (l.slots == (uintptr_t)f->buffer || l.nr_slots > 4)
		l.nr_slots = below(f, BUFFER / sizeof(struct vmrepl_slot));
	ioctl(fd, VMREPL_LAYOUT, below(f, 8) ? (void *)&l : place(f));
}

static void do_freeze(struct fuzz *f, int fd)
{
	static uint64_t epoch;
	struct vmrepl_freeze z = {
		.epoch = __atomic_add_fetch(&epoch, 1, __ATOMIC_SEQ_CST),
		.flags = below(f, 3),
	};

	switch (below(f, 8)) {
	case 0:
		/* Nothing high: no other number could follow. */
		z.epoch = below(f, 64);
		break;
	case 1:
		z.flags = number(f);
		break;
	case 2:
		ioctl(fd, VMREPL_FREEZE, place(f));
		return;
	}
	f->frozen += !ioctl(fd, VMREPL_FREEZE, &z);
}

static void do_map(struct fuzz *f, int fd)
{
	unsigned int i = below(f, MAPPINGS);
	size_t page = VMREPL_PAGE_SIZE;
	uint64_t slots = VMREPL_RING_MIN << below(f, 4);
	/* As the module lays it out: header, records, pages; or anything else. */
	size_t len = page + (slots * sizeof(struct vmrepl_rec) + page - 1) / page *
		     page + slots * page;
	off_t offset = below(f, 4) * len;

	if (f->map[i].at) {
		munmap(f->map[i].at, f->map[i].len);
		f->map[i].at = NULL;
	}
	if (!below(f, 4))
		len = (below(f, 300) + 1) * page;
	if (!below(f, 4))
		offset = number(f) & ~(page - 1);
	f->map[i].at = mmap(NULL, len, below(f, 8) ? PROT_READ | PROT_WRITE : PROT_READ,
			    below(f, 8) ? MAP_SHARED : MAP_PRIVATE, fd, offset);
	f->map[i].len = len;
	if (f->map[i].at == MAP_FAILED || !below(f, 16)) {
		if (f->map[i].at != MAP_FAILED)
			munmap(f->map[i].at, len);
		f->map[i].at = NULL;
		return;
	}
	f->mapped++;
}

/* Writes through the kernel, which only says EFAULT where a mapping is not writable. */
static void put(void *to, const void *from, size_t len)
{
	static __thread int pipes[2] = { -1, -1 };

	if (pipes[0] < 0 && pipe2(pipes, O_CLOEXEC | O_NONBLOCK))
		return;
	if (write(pipes[1], from, len) == (ssize_t)len &&
	    read(pipes[0], to, len) != (ssize_t)len) {
		close(pipes[0]);
		close(pipes[1]);
		pipes[0] = -1;
	}
}

/* Mostly what lets an epoch go on: the tail follows the head. */
static void do_scribble(struct fuzz *f)
{
	unsigned int i = below(f, MAPPINGS);
	struct vmrepl_ring *r = (void *)f->map[i].at;
	uint64_t value = number(f);

	if (!r)
		return;
	switch (below(f, 2048)) {
	case 0:
		put(&r->tail, &value, sizeof(value));
		break;
	case 1:
		put(&r->head, &value, sizeof(value));
		break;
	case 2 ... 40:
		put((uint8_t *)r + below(f, f->map[i].len - 8), &value, 8);
		break;
	default:
		value = r->head;
		put(&r->tail, &value, sizeof(value));
	}
}

static void do_cpus(struct fuzz *f, int fd)
{
	struct vmrepl_cpus c = {
		.mask = (uintptr_t)place(f), .bytes = below(f, 64) * 8,
		.pad = below(f, 8) ? 0 : number(f),
	};

	if (below(f, 8) == 0)
		c.bytes = number(f);
	ioctl(fd, VMREPL_CPUS, below(f, 8) ? (void *)&c : place(f));
}

static void do_fork(int fd)
{
	pid_t child = fork();

	if (!child) {
		struct vmrepl_stats st;

		ioctl(fd, VMREPL_STATS, &st);
		_exit(0);
	}
	if (child > 0)
		waitpid(child, NULL, 0);
}

static void one(struct fuzz *f)
{
	int fd = __atomic_load_n(&files[below(f, FILES)], __ATOMIC_RELAXED);
	struct pollfd p = { .fd = fd, .events = any(f) };

	f->calls++;
	switch (below(f, 128)) {
	case 0:
		if (fd < 0 || !below(f, 4))
			do_open(f);
		break;
	case 1 ... 5:
		do_attach(f, fd);
		break;
	case 6 ... 12:
		do_layout(f, fd);
		break;
	case 13 ... 30:
		do_freeze(f, fd);
		break;
	case 31 ... 40:
		do_map(f, fd);
		break;
	case 41 ... 45:
		ioctl(fd, VMREPL_STATS, place(f));
		break;
	case 46 ... 47:
		ioctl(fd, _IOC(below(f, 4), VMREPL_IOC, below(f, 16), below(f, 512)),
		      place(f));
		break;
	case 48:
		if (!below(f, 8))
			do_fork(fd);
		break;
	case 49 ... 55:
		poll(&p, 1, 0);
		break;
	case 56:
		vmm_slot(vm, 1, PAGES * VMM_PAGE,
			 below(f, 2) ? PAGES / 2 : 0, vm->ram, below(f, 2));
		break;
	case 57 ... 75:
		ioctl(fd, VMREPL_KICK);
		break;
	case 76:
		do_cpus(f, fd);
		break;
	case 77 ... 80:
		ioctl(fd, VMREPL_PREPARE, place(f));
		break;
	default:
		do_scribble(f);
	}
}

static void *fuzz_main(void *data)
{
	struct fuzz *f = data;

	while (!stop)
		one(f);
	for (int i = 0; i < MAPPINGS; i++)
		if (f->map[i].at)
			munmap(f->map[i].at, f->map[i].len);
	return NULL;
}

/* The guest is whole, and the module as good as new. */
static bool sane(void)
{
	struct consumer c;
	bool whole;
	int err;

	err = consumer_attach_with(&c, getpid(), 0, VMREPL_ATTACH_HASH);
	if (err)
		tap_die("attach: %s %s", strerror(err), c.attach.why);
	consumer_watch(&c, vm->ram, PAGES);
	vmm_write(vm, 0, VMM_FIRST_PAGE, 100, 3, 0xabcdef);
	for (int i = 0; i < 2; i++) {
		err = consumer_epoch(&c, 0);
		if (err)
			tap_die("epoch: %s", strerror(err));
		vmm_write(vm, 1, VMM_FIRST_PAGE, 100, 3, 0x123456);
	}
	err = consumer_epoch(&c, 0);
	whole = !err && !memcmp(c.copy, vm->ram, PAGES * VMM_PAGE);
	consumer_close(&c);
	return whole;
}

int main(int argc, char **argv)
{
	int seconds = argc > 1 ? atoi(argv[1]) : 20;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);
	static struct fuzz f[THREADS];
	struct fuzz sum = {};
	pid_t other;

	if (seconds < 1)
		tap_die("usage: fuzz_test [SECONDS [SEED]]");
	tap_note("%d seconds, seed %lu", seconds, seed);
	other = expect_keeper();
	vm = vmm_create(VMM_RAM_ANON, PAGES, 2);
	for (int i = 0; i < FILES; i++)
		files[i] = -1;
	for (int i = 0; i < 2; i++)
		vmm_hammer(vm, i, VMM_FIRST_PAGE + i, 200, 2);
	for (int i = 0; i < THREADS; i++) {
		f[i].random = (seed + i) * 0x9e3779b97f4a7c15ULL | 1;
		pthread_create(&f[i].thread, NULL, fuzz_main, &f[i]);
	}
	for (time_t end = time(NULL) + seconds; time(NULL) < end;)
		poll(NULL, 0, 100);
	stop = true;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(f[i].thread, NULL);
		sum.calls += f[i].calls;
		sum.attached += f[i].attached;
		sum.frozen += f[i].frozen;
		sum.mapped += f[i].mapped;
	}
	vmm_stop(vm);
	for (int i = 0; i < FILES; i++)
		if (files[i] >= 0)
			close(files[i]);
	vmm_slot(vm, 1, PAGES * VMM_PAGE, 0, vm->ram, 0);
	/* Nothing is proven by calls that all failed. */
	tap_ok(sum.attached && sum.frozen && sum.mapped,
	       "%lu calls: %lu attached, %lu froze, %lu mapped a ring", sum.calls,
	       sum.attached, sum.frozen, sum.mapped);
	tap_ok(sane(), "the guest is protected afterwards, and whole");
	vmm_destroy(vm);
	expect_no_keeper(other);
	return tap_done();
}
