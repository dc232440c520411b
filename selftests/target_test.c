// SPDX-License-Identifier: GPL-2.0
/*
 * target_test: what the standby puts into a process's memory arrives; zeros take no
 * memory that was not there, and give back what was where that can be had.
 *
 *	target_test
 *
 * Needs to be root for the memory that is given back (/proc/PID/map_files).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target.h"
#include "tap.h"
#include "twin.h"

#define PAGES	1024u
#define BYTES	((size_t)PAGES * RAMBLOCK_PAGE)

static struct ramblock_table blocks;
static struct target target = { .blocks = &blocks };
static uint8_t data[EPOCH_BATCH][RAMBLOCK_PAGE];

/* Pages of @block that the VM's own page tables, or its swap, have. */
static unsigned int there(unsigned int block)
{
	static uint64_t entries[PAGES];
	unsigned int n = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", target.vm);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (pread(fd, entries, sizeof(entries),
		  (off_t)(blocks.blocks[block].hva / RAMBLOCK_PAGE * 8)) != sizeof(entries))
		tap_die("%s: %s", path, strerror(errno));
	close(fd);
	for (unsigned int i = 0; i < PAGES; i++)
		n += entries[i] >> 62 != 0;
	return n;
}

static unsigned int file_pages(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		tap_die("fstat: %s", strerror(errno));
	return (unsigned int)(st.st_blocks / 8);
}

/* @nr pages from @page on: zeros, or each its own. */
static void apply(unsigned int block, uint64_t page, unsigned int nr, bool zeros)
{
	struct epoch_page pages[EPOCH_BATCH];
	struct why why;

	while (nr) {
		unsigned int n = nr < EPOCH_BATCH ? nr : EPOCH_BATCH;

		for (unsigned int i = 0; i < n; i++) {
			memset(data[i], (int)(page + i) | 1, RAMBLOCK_PAGE);
			pages[i] = (struct epoch_page){ block, page + i, zeros ? NULL : data[i] };
		}
		if (target_apply(&target, pages, n, &why))
			tap_die("%s", why.text);
		page += n;
		nr -= n;
	}
}

/* Is each page of the VM what was put there, zeros from @from on for @nr? */
static bool is(unsigned int block, uint64_t from, unsigned int nr)
{
	uint8_t page[RAMBLOCK_PAGE], want[RAMBLOCK_PAGE];
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", target.vm);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	for (uint64_t p = 0; p < PAGES; p++) {
		memset(want, p >= from && p < from + nr ? 0 : (int)p | 1, sizeof(want));
		if (pread(fd, page, sizeof(page),
			  (off_t)(blocks.blocks[block].hva + p * RAMBLOCK_PAGE)) != sizeof(page) ||
		    memcmp(page, want, sizeof(page))) {
			tap_note("page %lu is wrong", (unsigned long)p);
			close(fd);
			return false;
		}
	}
	close(fd);
	return true;
}

/* Which is right whatever the block is made of. */
static void test_content(unsigned int block, const char *name)
{
	struct epoch_page twice[4] = {
		{ block, 5, data[0] }, { block, 5, NULL }, { block, 6, NULL }, { block, 6, data[1] },
	};
	struct why why;

	apply(block, 0, PAGES, true);
	tap_ok(is(block, 0, PAGES), "%s: zeros", name);
	apply(block, 0, PAGES, false);
	tap_ok(is(block, 0, 0), "%s: pages", name);
	apply(block, 100, 700, true);
	tap_ok(is(block, 100, 700), "%s: zeros over pages", name);
	apply(block, 100, 700, false);
	memset(data[0], 9, RAMBLOCK_PAGE);
	memset(data[1], 6 | 1, RAMBLOCK_PAGE);
	if (target_apply(&target, twice, 4, &why))
		tap_die("%s", why.text);
	tap_ok(is(block, 5, 1), "%s: what comes twice is in the end what came last", name);
	apply(block, 5, 1, false);
}

int main(void)
{
	int shared = memfd_create("shared", MFD_CLOEXEC), kept = memfd_create("kept", MFD_CLOEXEC);
	int fds[] = { -1, shared, kept };
	unsigned int i, before;
	uint8_t *at;

	if (ftruncate(shared, BYTES + 3 * RAMBLOCK_PAGE) || ftruncate(kept, BYTES))
		tap_die("memfd: %s", strerror(errno));
	for (i = 0; i < 3; i++) {
		static const char *const names[] = { "anon", "shared", "kept" };

		/* Not from the file's beginning, so that an offset counts. */
		at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, i ? MAP_SHARED :
			  MAP_PRIVATE | MAP_ANONYMOUS, fds[i], i == 1 ? 3 * RAMBLOCK_PAGE : 0);
		if (at == MAP_FAILED || ramblock_add(&blocks, names[i], BYTES, true) != (int)i)
			tap_die("mmap: %s", strerror(errno));
		madvise(at, BYTES, MADV_NOHUGEPAGE);
		blocks.blocks[i].hva = (uintptr_t)at;
	}
	blocks.blocks[2].prealloc = true;
	/* As QEMU does with parts of its RAM: two mappings, one block. */
	madvise((void *)(uintptr_t)(blocks.blocks[0].hva + BYTES / 2), BYTES / 2, MADV_DONTDUMP);
	madvise((void *)(uintptr_t)(blocks.blocks[1].hva + BYTES / 2), BYTES / 2, MADV_DONTDUMP);
	target.vm = make_vm();
	if (target_look(&target))
		tap_die("no memory");

	apply(0, 0, PAGES, true);
	tap_ok(!there(0), "private memory: zeros where nothing was take nothing");
	apply(0, 10, 20, false);
	apply(0, 0, PAGES, true);
	tap_ok(there(0) == 20, "zeros where something was are written");
	apply(1, 0, PAGES, true);
	tap_ok(!file_pages(shared), "shared memory: zeros take nothing");
	apply(1, 0, PAGES, false);
	before = file_pages(shared);
	apply(1, 0, PAGES / 2, true);
	tap_ok(before == PAGES && file_pages(shared) == PAGES / 2,
	       "zeros give back what was there (%u pages, then %u)", before, file_pages(shared));
	apply(2, 0, PAGES, true);
	tap_ok(file_pages(kept) == PAGES, "preallocated memory is all there");
	test_content(0, "private");
	test_content(1, "shared");
	test_content(2, "preallocated");

	target_forget(&target);
	test_content(1, "never looked at");

	kill(target.vm, SIGKILL);
	waitpid(target.vm, NULL, 0);
	ramblock_free(&blocks);
	return tap_done();
}
