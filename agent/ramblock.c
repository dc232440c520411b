// SPDX-License-Identifier: GPL-2.0
/*
 * The RAM blocks of a QEMU, put together from what its monitor prints and from
 * the module's memslots. A block is one mapping in QEMU: its base address is
 * all that is needed to turn an address into (block, page).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "mtree.h"
#include "ramblock.h"
#include "vmrepl.h"

void ramblock_init(struct ramblock_table *t)
{
	memset(t, 0, sizeof(*t));
}

void ramblock_free(struct ramblock_table *t)
{
	ramblock_free_copies(t);
	free(t->blocks);
	free(t->placed);
	ramblock_init(t);
}

int ramblock_index(const struct ramblock_table *t, const char *name)
{
	for (unsigned int i = 0; i < t->nr; i++)
		if (!strcmp(t->blocks[i].name, name))
			return (int)i;
	return -1;
}

int ramblock_add(struct ramblock_table *t, const char *name, uint64_t size, bool big)
{
	size_t n = strlen(name);
	struct ramblock *b;
	unsigned int *placed;

	/* 255 bytes is what the stream's length byte can say. */
	if (!n || n >= RAMBLOCK_NAME_LEN || !size || size % RAMBLOCK_PAGE ||
	    size > INT64_MAX || ramblock_index(t, name) >= 0)
		return -EINVAL;
	if (t->nr == RAMBLOCK_MAX)
		return -ENOSPC;
	b = realloc(t->blocks, (t->nr + 1) * sizeof(*b));
	if (!b)
		return -ENOMEM;
	t->blocks = b;
	placed = realloc(t->placed, (t->nr + 1) * sizeof(*placed));
	if (!placed)
		return -ENOMEM;
	t->placed = placed;
	b += t->nr;
	memset(b, 0, sizeof(*b));
	memcpy(b->name, name, n);
	b->size = size;
	b->max = size;
	b->big = big;
	return (int)t->nr++;
}

static int by_hva(const void *a, const void *b, void *arg)
{
	const struct ramblock_table *t = arg;
	uint64_t x = t->blocks[*(const unsigned int *)a].hva;
	uint64_t y = t->blocks[*(const unsigned int *)b].hva;

	return x < y ? -1 : x > y;
}

static void sort_placed(struct ramblock_table *t)
{
	t->nr_placed = 0;
	t->last = 0;
	for (unsigned int i = 0; i < t->nr; i++)
		if (t->blocks[i].hva)
			t->placed[t->nr_placed++] = i;
	if (t->nr_placed)
		qsort_r(t->placed, t->nr_placed, sizeof(*t->placed), by_hva, t);
}

static inline bool holds(const struct ramblock *b, uint64_t hva)
{
	return hva >= b->hva && hva - b->hva < b->size;
}

bool ramblock_find(struct ramblock_table *t, uint64_t hva, unsigned int *block, uint64_t *page)
{
	unsigned int lo = 0, hi = t->nr_placed, mid;
	const struct ramblock *b;

	if (t->last >= t->nr_placed || !holds(&t->blocks[t->placed[t->last]], hva)) {
		while (lo < hi) {
			mid = lo + (hi - lo) / 2;
			if (t->blocks[t->placed[mid]].hva <= hva)
				lo = mid + 1;
			else
				hi = mid;
		}
		if (!lo || !holds(&t->blocks[t->placed[lo - 1]], hva))
			return false;
		t->last = lo - 1;
	}
	*block = t->placed[t->last];
	b = &t->blocks[*block];
	*page = (hva - b->hva) / RAMBLOCK_PAGE;
	return true;
}

int ramblock_alloc_copies(struct ramblock_table *t)
{
	struct ramblock *b;
	void *p;

	for (unsigned int i = 0; i < t->nr; i++) {
		b = &t->blocks[i];
		if (b->big || b->copy)
			continue;
		p = mmap(NULL, b->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED)
			return -ENOMEM;
		b->copy = p;
	}
	return 0;
}

void ramblock_free_copy(struct ramblock *b)
{
	if (b->copy)
		munmap(b->copy, b->size);
	b->copy = NULL;
}

void ramblock_free_copies(struct ramblock_table *t)
{
	for (unsigned int i = 0; i < t->nr; i++)
		ramblock_free_copy(&t->blocks[i]);
}

/*
 * One line of `info ramblock`:
 *	"  NAME   4 KiB  0xOFFSET 0xUSED 0xTOTAL [0xHVA rw|ro]"
 * The name may be empty: such a block is not part of a migration.
 */
static int parse_block_line(char *line, char *name, size_t size, uint64_t *used,
			    uint64_t *total, uint64_t *hva)
{
	uint64_t offset;
	char *p, *num;
	int got;

	num = strstr(line, " 0x");
	if (!num)
		return -EPROTO;
	*hva = 0;
	got = sscanf(num, " 0x%" SCNx64 " 0x%" SCNx64 " 0x%" SCNx64 " 0x%" SCNx64, &offset,
		     used, total, hva);
	if (got < 3)
		return -EPROTO;

	/* Cut "4 KiB" off the end of what stands before. */
	while (num > line && num[-1] == ' ')
		num--;
	for (int words = 0; words < 2; words++) {
		while (num > line && num[-1] != ' ')
			num--;
		while (num > line && num[-1] == ' ')
			num--;
	}
	*num = '\0';
	p = line + strspn(line, " ");
	if (strlen(p) >= size)
		return -EPROTO;
	strcpy(name, p);
	return 0;
}

int ramblock_parse_blocks(struct ramblock_table *t, const char *text, struct why *why)
{
	char line[1024], name[RAMBLOCK_NAME_LEN];
	uint64_t used, total, hva;
	int ret;

	if (!mtree_line(&text, line, sizeof(line)) || !strstr(line, "Block Name"))
		return why_set(why, EPROTO, "QEMU's list of RAM blocks is not understood");
	while (mtree_line(&text, line, sizeof(line))) {
		if (!line[strspn(line, " ")])
			continue;
		if (parse_block_line(line, name, sizeof(name), &used, &total, &hva))
			return why_set(why, EPROTO, "QEMU's list of RAM blocks is not understood: %.100s",
				       line);
		if (!name[0])
			continue;
		ret = ramblock_add(t, name, used, false);
		if (ret == -EINVAL)
			return why_set(why, EPROTO, "QEMU's list of RAM blocks is not understood: %s, %" PRIu64 " bytes",
				       name, used);
		if (ret == -ENOSPC)
			return why_set(why, ENOSPC, "QEMU has more than %d RAM blocks", RAMBLOCK_MAX);
		if (ret < 0)
			return why_set(why, ENOMEM, "out of memory");
		t->blocks[ret].max = total < used ? used : total;
		t->blocks[ret].hva = hva;
	}
	if (!t->nr)
		return why_set(why, EPROTO, "QEMU tells of no RAM blocks");
	sort_placed(t);
	return 0;
}

/* Is region the last part of the block's name? */
static bool named(const struct ramblock *b, const char *region)
{
	size_t n = strlen(b->name), m = strlen(region);

	if (m > n || strcmp(b->name + n - m, region))
		return false;
	return m == n || b->name[n - m - 1] == '/';
}

/* The one block that a region may be: index, -ENOENT, or -ENOTUNIQ. */
static int block_of(const struct ramblock_table *t, const char *region)
{
	int found = ramblock_index(t, region);

	if (found >= 0)
		return found;
	for (unsigned int i = 0; i < t->nr; i++) {
		if (!named(&t->blocks[i], region))
			continue;
		if (found >= 0)
			return -ENOTUNIQ;
		found = (int)i;
	}
	return found < 0 ? -ENOENT : found;
}

/* Which blocks does QEMU back guest RAM with? */
static int read_memdevs(struct ramblock_table *t, struct qmp *q, struct why *why)
{
	struct json_object *list, *dev, *o;
	char path[RAMBLOCK_NAME_LEN + 16];
	bool some = false;
	const char *id;
	int i, ret;

	ret = qmp_command(q, "query-memdev", NULL, &list, why);
	if (ret)
		return ret;
	for (size_t n = 0; n < json_object_array_length(list); n++) {
		dev = json_object_array_get_idx(list, n);
		if (!json_object_object_get_ex(dev, "id", &o))
			continue;
		id = json_object_get_string(o);
		i = ramblock_index(t, id);
		if (i < 0) {
			/* Machine types up to 4.0 name it by its path. */
			snprintf(path, sizeof(path), "/objects/%s", id);
			i = ramblock_index(t, path);
		}
		/* That of virtio-mem begins with the device's address. */
		if (i < 0)
			i = block_of(t, id);
		if (i < 0)
			continue;
		t->blocks[i].big = true;
		t->blocks[i].prealloc = json_object_object_get_ex(dev, "prealloc", &o) &&
					json_object_get_boolean(o);
		some = true;
	}
	json_object_put(list);
	if (!some)
		return why_set(why, ENOENT, "cannot tell which of QEMU's RAM blocks is guest RAM");
	return 0;
}

/* Asks QEMU where a guest physical address is in its memory. */
static int gpa_to_hva(struct qmp *q, uint64_t gpa, uint64_t *hva, struct why *why)
{
	char line[64], *text, *p;
	int ret;

	snprintf(line, sizeof(line), "gpa2hva 0x%" PRIx64, gpa);
	ret = qmp_hmp(q, line, &text, why);
	if (ret)
		return ret;
	p = strstr(text, ") is 0x");
	if (!p || sscanf(p, ") is 0x%" SCNx64, hva) != 1 || !*hva)
		ret = why_set(why, ENOENT, "QEMU does not tell the address of guest RAM at 0x%" PRIx64 ": %.100s",
			      gpa, text);
	free(text);
	return ret;
}

static int place_big(struct ramblock_table *t, struct qmp *q, struct why *why)
{
	const struct mtree_map *map;
	struct mtree tree;
	struct ramblock *b;
	unsigned int i, m;
	uint64_t hva;
	int ret;

	ret = mtree_read(&tree, q, why);
	if (ret)
		return ret;
	for (i = 0; i < t->nr; i++) {
		b = &t->blocks[i];
		if (!b->big || b->hva)
			continue;
		for (m = 0; m < tree.nr; m++)
			if (!tree.maps[m].smm && named(b, tree.maps[m].name))
				break;
		if (m == tree.nr) {
			ret = why_set(why, ENOENT, "the guest does not see memory backend %s: cannot find it in QEMU",
				      b->name);
			break;
		}
		map = &tree.maps[m];
		ret = gpa_to_hva(q, map->start, &hva, why);
		if (ret)
			break;
		b->hva = hva - map->offset;
	}
	mtree_free(&tree);
	return ret;
}

int ramblock_read(struct ramblock_table *t, struct qmp *q, struct why *why)
{
	bool all = true;
	char *text;
	int ret;

	ramblock_init(t);
	ret = qmp_hmp(q, "info ramblock", &text, why);
	if (ret)
		return ret;
	ret = ramblock_parse_blocks(t, text, why);
	free(text);
	if (!ret)
		ret = read_memdevs(t, q, why);
	if (ret)
		goto err;
	for (unsigned int i = 0; i < t->nr; i++)
		if (t->blocks[i].big && !t->blocks[i].hva)
			all = false;
	if (!all) {
		ret = place_big(t, q, why);
		if (ret)
			goto err;
	}
	sort_placed(t);
	return 0;
err:
	ramblock_free(t);
	return ret;
}

/*
 * Two devices of one kind have regions of one name. The block's name begins
 * with the device's PCI address, and the region's owner knows its own.
 */
static void name_by_owner(const struct ramblock_table *t, struct qmp *q,
			  struct mtree_map *map)
{
	struct json_object *args, *o;
	char path[RAMBLOCK_NAME_LEN + 32];
	const char *addr, *slash;
	int found = -1;

	if (!strncmp(map->owner, "dev path=", 9))
		snprintf(path, sizeof(path), "%s", map->owner + 9);
	else if (!strncmp(map->owner, "dev id=", 7))
		snprintf(path, sizeof(path), "/machine/peripheral/%s", map->owner + 7);
	else
		return;
	args = json_object_new_object();
	json_object_object_add(args, "path", json_object_new_string(path));
	json_object_object_add(args, "property", json_object_new_string("addr"));
	if (qmp_command(q, "qom-get", args, &o, NULL) || !o)
		return;
	addr = json_object_get_string(o);
	for (unsigned int i = 0; i < t->nr; i++) {
		const struct ramblock *b = &t->blocks[i];

		if (!named(b, map->name))
			continue;
		slash = strchr(b->name, '/');
		if (!slash || (size_t)(slash - b->name) < strlen(addr) ||
		    strncmp(slash - strlen(addr), addr, strlen(addr)))
			continue;
		if (found >= 0) {
			found = -1;
			break;
		}
		found = (int)i;
	}
	if (found >= 0)
		strcpy(map->name, t->blocks[found].name);
	json_object_put(o);
}

static bool slot_placed(struct ramblock_table *t, const struct vmrepl_slot *slot)
{
	unsigned int block, last;
	uint64_t page;

	return ramblock_find(t, slot->hva, &block, &page) &&
	       ramblock_find(t, slot->hva + slot->bytes - 1, &last, &page) && block == last;
}

static int place_slot(struct ramblock_table *t, const struct mtree *tree,
		      const struct vmrepl_slot *slot, struct why *why)
{
	const struct mtree_map *map = NULL;
	unsigned int nr = tree ? tree->nr : 0, m;
	uint64_t offset;
	int i;

	for (m = 0; m < nr; m++) {
		map = &tree->maps[m];
		if (map->smm == !!slot->as_id && slot->gpa >= map->start &&
		    slot->gpa <= map->last && slot->bytes - 1 <= map->last - slot->gpa)
			break;
	}
	if (m == nr)
		return why_set(why, ESTALE, "memory at guest address 0x%llx is not in QEMU's memory tree",
			       (unsigned long long)slot->gpa);
	i = block_of(t, map->name);
	if (i == -ENOTUNIQ)
		return why_set(why, ENOENT, "several of QEMU's RAM blocks may be region %s at guest address 0x%llx",
			       map->name, (unsigned long long)slot->gpa);
	if (i < 0)
		return why_set(why, ENOENT, "memory region %s at guest address 0x%llx is none of QEMU's RAM blocks (plugged in since?)",
			       map->name, (unsigned long long)slot->gpa);
	offset = map->offset + (slot->gpa - map->start);
	if (offset >= t->blocks[i].size || slot->bytes > t->blocks[i].size - offset ||
	    offset > slot->hva)
		return why_set(why, ESTALE, "memory region %s at guest address 0x%llx is longer than its RAM block",
			       map->name, (unsigned long long)slot->gpa);
	if (t->blocks[i].hva && t->blocks[i].hva != slot->hva - offset)
		return why_set(why, ESTALE, "memory region %s at guest address 0x%llx is not where it was in QEMU",
			       map->name, (unsigned long long)slot->gpa);
	t->blocks[i].hva = slot->hva - offset;
	sort_placed(t);
	return 0;
}

int ramblock_place_tree(struct ramblock_table *t, const struct mtree *tree,
			const struct vmrepl_slot *slots, unsigned int nr_slots, struct why *why)
{
	int ret;

	/* System memory first: what SMM sees beside it is mostly the same. */
	for (int as = 0; as < 2; as++) {
		for (unsigned int i = 0; i < nr_slots; i++) {
			if (!!slots[i].as_id != as || !slots[i].bytes || slot_placed(t, &slots[i]))
				continue;
			ret = place_slot(t, tree, &slots[i], why);
			if (ret)
				return ret;
		}
	}
	return 0;
}

int ramblock_place(struct ramblock_table *t, struct qmp *q, const struct vmrepl_slot *slots,
		   unsigned int nr, struct why *why)
{
	struct mtree tree;
	bool all = true;
	int ret;

	for (unsigned int i = 0; i < nr; i++)
		if (slots[i].bytes && !slot_placed(t, &slots[i]))
			all = false;
	if (all)
		return 0;
	ret = mtree_read(&tree, q, why);
	if (ret)
		return ret;
	for (unsigned int m = 0; m < tree.nr; m++)
		if (block_of(t, tree.maps[m].name) == -ENOTUNIQ)
			name_by_owner(t, q, &tree.maps[m]);
	ret = ramblock_place_tree(t, &tree, slots, nr, why);
	mtree_free(&tree);
	return ret;
}

int ramblock_match(struct ramblock_table *theirs, const struct ramblock_table *ours,
		   struct why *why)
{
	static const char same[] = "start both QEMUs with the same command line";
	const struct ramblock *o;
	struct ramblock *b;
	unsigned int i;
	int n;

	for (i = 0; i < theirs->nr; i++) {
		b = &theirs->blocks[i];
		n = ramblock_index(ours, b->name);
		if (n < 0)
			return why_set(why, EINVAL, "the standby's QEMU has no RAM block %s: %s",
				       b->name, same);
		o = &ours->blocks[n];
		if (o->big != b->big)
			return why_set(why, EINVAL, "RAM block %s is guest RAM on one side only: %s",
				       b->name, same);
		if (o->size == b->size)
			continue;
		if (b->big)
			return why_set(why, EINVAL, "guest RAM %s has %" PRIu64 " MiB on the primary and %" PRIu64 " MiB on the standby: %s",
				       b->name, b->size >> 20, o->size >> 20, same);
		if (o->max == o->size || b->size > o->max)
			return why_set(why, EINVAL, "RAM block %s has %" PRIu64 " kB on the primary and %" PRIu64 " kB on the standby: use the same firmware on both",
				       b->name, b->size >> 10, o->size >> 10);
	}
	for (i = 0; i < ours->nr; i++)
		if (ramblock_index(theirs, ours->blocks[i].name) < 0)
			return why_set(why, EINVAL, "the standby's QEMU has a RAM block %s that the primary's has not: %s",
				       ours->blocks[i].name, same);
	for (i = 0; i < theirs->nr; i++) {
		b = &theirs->blocks[i];
		o = &ours->blocks[ramblock_index(ours, b->name)];
		b->hva = b->big ? o->hva : 0;
		b->prealloc = o->prealloc;
	}
	sort_placed(theirs);
	return 0;
}
