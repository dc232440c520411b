/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cpulist: a set of CPUs, written the way the kernel writes one: 2-3,8.
 */
#ifndef VMREPL_CPULIST_H
#define VMREPL_CPULIST_H

#include <stdbool.h>
#include <stdint.h>

#include "vmrepl.h"

#define CPULIST_CPUS	(8 * VMREPL_CPUS_MAX)

/**
 * struct cpulist - a set of CPUs
 * @mask: as in struct vmrepl_cpus; no bit is set where none was named
 * @text: as it was written, or NULL
 */
struct cpulist {
	uint64_t mask[CPULIST_CPUS / 64];
	const char *text;
};

/**
 * cpulist_parse() - read a list of CPUs and ranges of them
 * @text: kept in @list, so it must stay
 *
 * Returns false where @text is no such list, is empty, or names a CPU that no
 * kernel has (from CPULIST_CPUS on). Whether they are there is not looked at.
 */
bool cpulist_parse(struct cpulist *list, const char *text);

#endif /* VMREPL_CPULIST_H */
