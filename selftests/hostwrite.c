// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "expect.h"
#include "hostwrite.h"
#include "tap.h"

#define BYTES		(HOSTWRITE_PAGES * VMM_PAGE)
/* The disk is read in pieces of so many pages. */
#define PIECE		8UL
#define PIECES		64UL

void hostwrite_prepare_disk(void)
{
	static uint64_t block[PIECES * PIECE * VMM_PAGE / 8];
	int disk = open(HOSTWRITE_DISK, O_RDWR | O_CLOEXEC);

	for (size_t i = 0; i < sizeof(block) / 8; i++)
		block[i] = 0x1000000 + i;
	if (disk < 0 || write(disk, block, sizeof(block)) != sizeof(block) || fsync(disk))
		tap_die(HOSTWRITE_DISK ": %s (modprobe brd)", strerror(errno));
	close(disk);
}

bool hostwrite_store(struct vmm *v, uint64_t first)
{
	for (uint64_t p = first; p < first + HOSTWRITE_PAGES; p++)
		v->ram[p * VMM_PAGE + 5]++;
	return true;
}

bool hostwrite_read(struct vmm *v, uint64_t first)
{
	int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	bool ok = read(fd, v->ram + first * VMM_PAGE, BYTES) == BYTES;

	close(fd);
	return ok;
}

bool hostwrite_direct_io(struct vmm *v, uint64_t first)
{
	int fd = open(HOSTWRITE_DISK, O_RDONLY | O_CLOEXEC | O_DIRECT);
	static off_t at;
	bool ok = fd >= 0 && pread(fd, v->ram + first * VMM_PAGE, BYTES, at) == BYTES;

	at ^= BYTES;
	close(fd);
	return ok;
}

/* BYTES of one byte, another one each time. */
static char *next_data(void)
{
	static char data[BYTES], byte = 0x33;

	return memset(data, byte++, BYTES);
}

bool hostwrite_other_process(struct vmm *v, uint64_t first)
{
	struct iovec from = { next_data(), BYTES };
	struct iovec to = { v->ram + first * VMM_PAGE, BYTES };
	pid_t parent = getpid(), child;
	int status;

	child = fork();
	if (!child)
		_exit(process_vm_writev(parent, &from, 1, &to, 1, 0) != BYTES);
	return waitpid(child, &status, 0) == child && !status;
}

bool hostwrite_proc_mem(struct vmm *v, uint64_t first)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	bool ok = pwrite(fd, next_data(), BYTES, (uintptr_t)v->ram + first * VMM_PAGE) == BYTES;

	close(fd);
	return ok;
}

bool hostwrite_store_after_fork(struct vmm *v, uint64_t first)
{
	int pipefd[2], status;
	pid_t child;
	char c;

	if (pipe(pipefd))
		return false;
	child = fork();
	if (!child) {
		/* It lives until the store is made. */
		close(pipefd[1]);
		_exit(read(pipefd[0], &c, 1));
	}
	hostwrite_store(v, first);
	close(pipefd[0]);
	close(pipefd[1]);
	return waitpid(child, &status, 0) == child;
}

bool hostwrite_is_seen(const struct hostwrite *w, struct vmm *v, struct consumer *c,
		       uint64_t first, uint64_t pages)
{
	bool ok = true;

	for (int again = 0; again < 2; again++) {
		if (!w->write(v, first)) {
			tap_note("could not write: %s", strerror(errno));
			ok = false;
		}
		expect_epoch(c, 0);
		ok = expect_seen(c, first, HOSTWRITE_PAGES) &&
		     expect_same(v, c, 0, pages) && ok;
	}
	return ok;
}

static void *store_main(void *data)
{
	struct hostwrite_hammer *h = data;
	uint64_t x = 88172645463325252ULL;

	while (!h->stop) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		*(volatile uint64_t *)(h->vmm->ram + (VMM_FIRST_PAGE + x %
				       (h->end - VMM_FIRST_PAGE)) * VMM_PAGE + 64) = x;
		h->stores++;
	}
	return NULL;
}

/* No fault comes when the disk writes. */
static void *disk_main(void *data)
{
	struct hostwrite_hammer *h = data;
	int fd = open(HOSTWRITE_DISK, O_RDONLY | O_CLOEXEC | O_DIRECT);

	for (uint64_t n = 0; !h->stop; n++)
		h->reads += pread(fd, h->vmm->ram + (h->first + n * PIECE % h->count) * VMM_PAGE,
				  PIECE * VMM_PAGE, n % PIECES * PIECE * VMM_PAGE) > 0;
	close(fd);
	return NULL;
}

void hostwrite_hammer_start(struct hostwrite_hammer *h)
{
	uint64_t stores = h->stores, reads = h->reads;

	h->stop = false;
	if (pthread_create(&h->store_thread, NULL, store_main, h) ||
	    pthread_create(&h->disk_thread, NULL, disk_main, h))
		tap_die("no thread that writes");
	/* A thread that has not begun yet proves nothing. */
	if (!expect_until(h->stores != stores && h->reads != reads))
		tap_die("no store, or no read from " HOSTWRITE_DISK ", within a minute");
}

void hostwrite_hammer_stop(struct hostwrite_hammer *h)
{
	h->stop = true;
	pthread_join(h->store_thread, NULL);
	pthread_join(h->disk_thread, NULL);
}
