// SPDX-License-Identifier: GPL-2.0
/*
 * pagemap: an entry is 8 bytes for a page of 4096.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "pagemap.h"

/* Of an entry: in memory, or swapped out. */
#define PAGEMAP_THERE	(1ull << 63 | 1ull << 62)

int pagemap_open(pid_t pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

bool pagemap_look(int fd, uint64_t hva, unsigned int nr, bool *there)
{
	uint64_t entries[PAGEMAP_MAX];
	unsigned int i;
	ssize_t n;

	n = pread(fd, entries, nr * sizeof(*entries), (off_t)(hva / 4096 * sizeof(*entries)));
	if (n != (ssize_t)(nr * sizeof(*entries)))
		return false;
	for (i = 0; i < nr; i++)
		there[i] = entries[i] & PAGEMAP_THERE;
	return true;
}
