// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU's memory tree, read from what its monitor prints.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "mtree.h"

bool mtree_line(const char **text, char *buf, size_t size)
{
	const char *p = *text;
	size_t n, copied;

	if (!*p)
		return false;
	n = strcspn(p, "\n");
	*text = p + n + (p[n] == '\n');
	while (n && p[n - 1] == '\r')
		n--;
	copied = n < size ? n : size - 1;
	memcpy(buf, p, copied);
	buf[copied] = '\0';
	return true;
}

/*
 * A line of a flat view:
 *	"  START-LAST (prio 0, ram): NAME [@OFFSET] [owner:{...}|parent:{...}] [KVM]"
 * with 16 hex digits. Only what has memory behind it is kept: 1, else 0.
 */
static int parse_map_line(char *line, struct mtree_map *map)
{
	char *kind, *p, *end;
	int n = 0;

	memset(map, 0, sizeof(*map));
	if (sscanf(line, " %16" SCNx64 "-%16" SCNx64 " (prio %*d, %n", &map->start, &map->last,
		   &n) < 2 || !n)
		return -EPROTO;
	kind = line + n;
	p = strstr(kind, "): ");
	if (!p || map->last < map->start)
		return -EPROTO;
	*p = '\0';
	if (!strncmp(kind, "nv-", 3))
		kind += 3;
	if (strcmp(kind, "ram") && strcmp(kind, "rom") && strcmp(kind, "romd") &&
	    strcmp(kind, "ramd"))
		return 0;
	p += 3;

	end = strstr(p, " owner:{");
	if (!end)
		end = strstr(p, " parent:{");
	if (end) {
		snprintf(map->owner, sizeof(map->owner), "%s", strchr(end, '{') + 1);
		map->owner[strcspn(map->owner, "}")] = '\0';
		*end = '\0';
	} else {
		n = (int)strlen(p);
		if (n > 4 && !strcmp(p + n - 4, " KVM"))
			p[n - 4] = '\0';
	}
	end = strstr(p, " @");
	if (end && strspn(end + 2, "0123456789abcdef") == 16) {
		map->offset = strtoull(end + 2, NULL, 16);
		*end = '\0';
	}
	if (strlen(p) >= sizeof(map->name))
		return -EPROTO;
	strcpy(map->name, p);
	return 1;
}

static int add_map(struct mtree *tree, const struct mtree_map *map)
{
	struct mtree_map *maps = realloc(tree->maps, (tree->nr + 1) * sizeof(*maps));

	if (!maps)
		return -ENOMEM;
	tree->maps = maps;
	maps[tree->nr++] = *map;
	return 0;
}

int mtree_parse(struct mtree *tree, const char *text, struct why *why)
{
	bool memory = false, smm = false, seen = false;
	struct mtree_map map;
	char line[2048];
	int ret;

	*tree = (struct mtree){ .nr = 0 };
	while (mtree_line(&text, line, sizeof(line))) {
		if (!strncmp(line, "FlatView #", 10)) {
			memory = smm = false;
			continue;
		}
		if (!strncmp(line, " AS \"", 5)) {
			if (!strncmp(line + 5, "memory\",", 8))
				memory = seen = true;
			if (!strncmp(line + 5, "cpu-smm-", 8) ||
			    !strncmp(line + 5, "KVM-SMRAM\"", 10))
				smm = true;
			continue;
		}
		if ((!memory && !smm) || strncmp(line, "  0", 3) ||
		    !strchr("0123456789abcdef", line[3]))
			continue;
		ret = parse_map_line(line, &map);
		map.smm = !memory;
		if (ret > 0)
			ret = add_map(tree, &map);
		if (ret < 0)
			goto err;
	}
	if (seen && tree->nr)
		return 0;
	line[0] = '\0';
	ret = -EPROTO;
err:
	mtree_free(tree);
	if (ret == -ENOMEM)
		return why_set(why, ENOMEM, "out of memory");
	return why_set(why, EPROTO, "QEMU's memory tree is not understood: %.100s", line);
}

void mtree_free(struct mtree *tree)
{
	free(tree->maps);
	*tree = (struct mtree){ .nr = 0 };
}

int mtree_read(struct mtree *tree, struct qmp *q, struct why *why)
{
	char *text;
	int ret;

	ret = qmp_hmp(q, "info mtree -f -o", &text, why);
	if (ret)
		return ret;
	ret = mtree_parse(tree, text, why);
	free(text);
	return ret;
}
