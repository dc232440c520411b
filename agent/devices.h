/* SPDX-License-Identifier: GPL-2.0 */
/*
 * devices: what was put into a QEMU beside its machine's own, by its command line
 * or since: the state of one QEMU can only be loaded by one that has the same.
 */
#ifndef VMREPL_DEVICES_H
#define VMREPL_DEVICES_H

#include <stdbool.h>

#include "qmp.h"
#include "why.h"

#define DEVICES_MAX		512u
#define DEVICES_NAME_LEN	128u

/**
 * struct devices - of one QEMU
 * @nr:    entries in @names
 * @names: "TYPE" or "TYPE ID" of each and, as QEMU names the parts of its state by that,
 *	   " at PLACE"; printable, cut, sorted; two may be equal
 */
struct devices {
	unsigned int nr;
	char (*names)[DEVICES_NAME_LEN];
};

/**
 * struct device - one of them
 * @type:   its QOM type, cut to DEVICES_NAME_LEN
 * @name:   its id, or where it has none what QEMU calls it
 * @has_id: whether @name is an id
 * @path:   where it is in QOM
 */
struct device {
	const char *type;
	const char *name;
	bool has_id;
	const char *path;
};

/* May ask QEMU more. 0 to go on, else a negative errno with a sentence. */
typedef int (*devices_fn)(void *arg, const struct device *device, struct why *why);

/*
 * Asks QEMU, and calls @fn for each until one call fails. Errors: as qmp_command(), or @fn's.
 * What @fn gets is valid only meanwhile.
 */
int devices_each(struct qmp *qmp, devices_fn fn, void *arg, struct why *why);

/*
 * Asks QEMU. Errors: as qmp_command(); ENOSPC more than DEVICES_MAX. devices_free()
 * in any case.
 */
int devices_read(struct devices *devices, struct qmp *qmp, struct why *why);

/* Puts one in. Returns 0, -EINVAL (no name), -ENOSPC, -ENOMEM. */
int devices_add(struct devices *devices, const char *name);

/**
 * devices_differ() - one that only one of the two has
 * @ours: out: whether it is @a that has it
 *
 * Returns its name, NULL where there is none.
 */
const char *devices_differ(const struct devices *a, const struct devices *b, bool *ours);

void devices_free(struct devices *devices);

#endif /* VMREPL_DEVICES_H */
