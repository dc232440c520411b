// SPDX-License-Identifier: GPL-2.0
/*
 * backing: /proc/PID/maps tells what it is, map_files and pagemap give access to it.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "backing.h"
#include "pagemap.h"
#include "ramblock.h"

_Static_assert(BACKING_MAX <= PAGEMAP_MAX, "one look");

/* One line of /proc/PID/maps. */
struct backing_map {
	uint64_t start;
	uint64_t end;
	char perms[5];
	uint64_t offset;
	unsigned int major;
	unsigned int minor;
	uint64_t inode;
};

static bool backing_next_map(FILE *f, struct backing_map *map)
{
	char line[4096 + 128];

	return fgets(line, sizeof(line), f) &&
	       sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64,
		      &map->start, &map->end, map->perms, &map->offset, &map->major,
		      &map->minor, &map->inode) == 7;
}

/* The mapping at @hva, which may be in several pieces as long as they are of a kind. */
static bool backing_find(pid_t vm, uint64_t hva, uint64_t size, struct backing_map *first)
{
	struct backing_map map;
	uint64_t at = hva;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", vm);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (at < hva + size && backing_next_map(f, &map)) {
		if (map.end <= at)
			continue;
		if (map.start > at)
			break;
		if (at == hva)
			*first = map;
		else if (map.inode != first->inode || map.major != first->major ||
			 map.minor != first->minor || map.perms[3] != first->perms[3] ||
			 (map.inode && map.offset - map.start != first->offset - first->start))
			break;
		at = map.end;
	}
	fclose(f);
	return at >= hva + size;
}

static int backing_open_file(pid_t vm, const struct backing_map *map)
{
	struct statfs fs;
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, vm, map->start,
		 map->end);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	/* hugetlbfs gives whole huge pages back only, a disk's file is no memory. */
	if (!fstatfs(fd, &fs) && fs.f_type == TMPFS_MAGIC)
		return fd;
	close(fd);
	return -1;
}

void backing_open(struct backing *backing, pid_t vm, uint64_t hva, uint64_t size, bool keep)
{
	struct backing_map map = { 0 };

	backing->kind = BACKING_WRITE;
	backing->fd = -1;
	if (!hva || !backing_find(vm, hva, size, &map))
		return;
	if (map.perms[3] == 's' && !keep) {
		backing->fd = backing_open_file(vm, &map);
		backing->base = map.offset + (hva - map.start);
		if (backing->fd >= 0)
			backing->kind = BACKING_SHARED;
	} else if (map.perms[3] == 'p' && !map.inode) {
		backing->fd = pagemap_open(vm);
		backing->base = hva;
		if (backing->fd >= 0)
			backing->kind = BACKING_ANON;
	}
}

void backing_close(struct backing *backing)
{
	if (backing->fd >= 0)
		close(backing->fd);
	backing->fd = -1;
	backing->kind = BACKING_WRITE;
}

static void backing_look(struct backing *backing, uint64_t page, unsigned int nr, bool *left)
{
	if (!pagemap_look(backing->fd, backing->base + page * RAMBLOCK_PAGE, nr, left))
		memset(left, 1, nr * sizeof(*left));
}

void backing_clear(struct backing *backing, uint64_t page, unsigned int nr, bool *left)
{
	switch (backing->kind) {
	case BACKING_ANON:
		backing_look(backing, page, nr, left);
		return;
	case BACKING_SHARED:
		if (!fallocate(backing->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)(backing->base + page * RAMBLOCK_PAGE),
			       (off_t)nr * RAMBLOCK_PAGE)) {
			memset(left, 0, nr * sizeof(*left));
			return;
		}
		/* Sealed, say: it will not go the next time either. */
		backing_close(backing);
		break;
	case BACKING_WRITE:
		break;
	}
	memset(left, 1, nr * sizeof(*left));
}
