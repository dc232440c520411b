// SPDX-License-Identifier: GPL-2.0
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"

/* Reads a number at @at and moves on behind it. */
static bool cpulist_cpu(const char **at, unsigned long *cpu)
{
	char *end;

	/* strtoul() would take blanks and signs. */
	if (!isdigit((unsigned char)**at))
		return false;
	*cpu = strtoul(*at, &end, 10);
	*at = end;
	return *cpu < CPULIST_CPUS;
}

bool cpulist_parse(struct cpulist *list, const char *text)
{
	unsigned long first, last;
	const char *at = text;

	memset(list, 0, sizeof(*list));
	list->text = text;
	for (;;) {
		if (!cpulist_cpu(&at, &first))
			return false;
		last = first;
		if (*at == '-') {
			at++;
			if (!cpulist_cpu(&at, &last) || last < first)
				return false;
		}
		for (; first <= last; first++)
			list->mask[first / 64] |= UINT64_C(1) << first % 64;
		if (!*at)
			return true;
		if (*at++ != ',')
			return false;
	}
}
