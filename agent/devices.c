// SPDX-License-Identifier: GPL-2.0
/*
 * devices: the children of /machine/peripheral (with an id) and peripheral-anon.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices.h"

static int devices_order(const void *a, const void *b)
{
	return strcmp(a, b);
}

int devices_add(struct devices *devices, const char *name)
{
	size_t len = strlen(name);
	void *more;

	if (!len || len >= DEVICES_NAME_LEN)
		return -EINVAL;
	if (devices->nr == DEVICES_MAX)
		return -ENOSPC;
	more = realloc(devices->names, (devices->nr + 1) * sizeof(*devices->names));
	if (!more)
		return -ENOMEM;
	devices->names = more;
	memcpy(devices->names[devices->nr++], name, len + 1);
	qsort(devices->names, devices->nr, sizeof(*devices->names), devices_order);
	return 0;
}

static const char *devices_text(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "";
}

static int devices_list(struct devices *devices, struct qmp *qmp, const char *path, bool ids,
			struct why *why)
{
	static const char child[] = "child<";
	char name[DEVICES_NAME_LEN], *p;
	struct json_object *ret, *dev;
	const char *type;
	int err;

	err = qmp_command(qmp, "qom-list", qmp_args("path", path), &ret, why);
	if (err)
		return err;
	for (size_t i = 0; !err && i < json_object_array_length(ret); i++) {
		dev = json_object_array_get_idx(ret, i);
		type = devices_text(dev, "type");
		if (strncmp(type, child, sizeof(child) - 1))
			continue;
		type += sizeof(child) - 1;
		snprintf(name, sizeof(name), "%.*s%s%s", (int)strcspn(type, ">"), type,
			 ids ? " " : "", ids ? devices_text(dev, "name") : "");
		for (p = name; *p; p++)
			if (*p < 0x20 || *p > 0x7e)
				*p = '?';
		err = devices_add(devices, name);
	}
	json_object_put(ret);
	if (err == -ENOSPC)
		return why_set(why, ENOSPC, "the guest has more than %u devices", DEVICES_MAX);
	return err ? why_set(why, -err, "QEMU's list of devices: %s", strerror(-err)) : 0;
}

int devices_read(struct devices *devices, struct qmp *qmp, struct why *why)
{
	int err;

	memset(devices, 0, sizeof(*devices));
	err = devices_list(devices, qmp, "/machine/peripheral", true, why);
	if (err)
		return err;
	return devices_list(devices, qmp, "/machine/peripheral-anon", false, why);
}

const char *devices_differ(const struct devices *a, const struct devices *b, bool *ours)
{
	unsigned int i = 0, k = 0;

	while (i < a->nr || k < b->nr) {
		int order = i == a->nr ? 1 : k == b->nr ? -1 : strcmp(a->names[i], b->names[k]);

		if (order) {
			*ours = order < 0;
			return *ours ? a->names[i] : b->names[k];
		}
		i++;
		k++;
	}
	return NULL;
}

void devices_free(struct devices *devices)
{
	free(devices->names);
	memset(devices, 0, sizeof(*devices));
}
