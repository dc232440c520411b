// SPDX-License-Identifier: GPL-2.0
/*
 * devices: the children of /machine/peripheral (with an id) and peripheral-anon.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices.h"

#define DEVICES_PATH_LEN	512u

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

/* A property of a device; NULL where it has none of this name. */
static int devices_property(struct qmp *qmp, const char *path, const char *property,
			    struct json_object **value, struct why *why)
{
	struct json_object *args = qmp_args("path", path);
	int err;

	json_object_object_add(args, "property", json_object_new_string(property));
	err = qmp_command(qmp, "qom-get", args, value, why);
	return err == -EREMOTEIO ? 0 : err;
}

/* The last part of its path is what an operator calls the bus. */
static const char *devices_bus(struct json_object *bus)
{
	const char *path = json_object_get_string(bus), *slash;

	slash = path ? strrchr(path, '/') : NULL;
	return slash ? slash + 1 : "";
}

/* Appends where the device at @path is: " at BUS:SLOT.FUNCTION", " at BUS", " at ADDRESS". */
static int devices_place(struct qmp *qmp, const char *path, char *name, size_t size,
			 struct why *why)
{
	struct json_object *bus, *addr = NULL;
	size_t len = strlen(name);
	uint64_t at;
	int err;

	err = devices_property(qmp, path, "parent_bus", &bus, why);
	if (err)
		return err;
	err = devices_property(qmp, path, "addr", &addr, why);
	at = addr ? json_object_get_uint64(addr) : 0;
	if (!err && *devices_bus(bus) && addr)
		snprintf(name + len, size - len, " at %s:%02x.%x", devices_bus(bus),
			 (unsigned int)at >> 3, (unsigned int)at & 7);
	else if (!err && *devices_bus(bus))
		snprintf(name + len, size - len, " at %s", devices_bus(bus));
	else if (!err && addr)
		snprintf(name + len, size - len, " at 0x%" PRIx64, at);
	json_object_put(addr);
	json_object_put(bus);
	return err;
}

static int devices_each_at(struct qmp *qmp, const char *parent, bool ids, devices_fn fn, void *arg,
			   struct why *why)
{
	static const char child[] = "child<";
	char type[DEVICES_NAME_LEN], path[DEVICES_PATH_LEN];
	struct device device = { .type = type, .has_id = ids, .path = path };
	struct json_object *ret, *dev;
	const char *kind;
	int err;

	err = qmp_command(qmp, "qom-list", qmp_args("path", parent), &ret, why);
	if (err)
		return err;
	for (size_t i = 0; !err && i < json_object_array_length(ret); i++) {
		dev = json_object_array_get_idx(ret, i);
		kind = devices_text(dev, "type");
		if (strncmp(kind, child, sizeof(child) - 1))
			continue;
		kind += sizeof(child) - 1;
		device.name = devices_text(dev, "name");
		snprintf(type, sizeof(type), "%.*s", (int)strcspn(kind, ">"), kind);
		snprintf(path, sizeof(path), "%s/%s", parent, device.name);
		err = fn(arg, &device, why);
	}
	json_object_put(ret);
	return err;
}

int devices_each(struct qmp *qmp, devices_fn fn, void *arg, struct why *why)
{
	int err;

	err = devices_each_at(qmp, "/machine/peripheral", true, fn, arg, why);
	return err ? err : devices_each_at(qmp, "/machine/peripheral-anon", false, fn, arg, why);
}

struct devices_reader {
	struct devices *devices;
	struct qmp *qmp;
};

static int devices_read_one(void *arg, const struct device *device, struct why *why)
{
	struct devices_reader *reader = arg;
	char name[DEVICES_NAME_LEN], *p;
	int err;

	snprintf(name, sizeof(name), "%s%s%s", device->type, device->has_id ? " " : "",
		 device->has_id ? device->name : "");
	err = devices_place(reader->qmp, device->path, name, sizeof(name), why);
	if (err)
		return err;
	for (p = name; *p; p++)
		if (*p < 0x20 || *p > 0x7e)
			*p = '?';
	err = devices_add(reader->devices, name);
	if (err == -ENOSPC)
		return why_set(why, ENOSPC, "the guest has more than %u devices", DEVICES_MAX);
	return err ? why_set(why, -err, "QEMU's list of devices: %s", strerror(-err)) : 0;
}

int devices_read(struct devices *devices, struct qmp *qmp, struct why *why)
{
	struct devices_reader reader = { .devices = devices, .qmp = qmp };

	memset(devices, 0, sizeof(*devices));
	return devices_each(qmp, devices_read_one, &reader, why);
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
