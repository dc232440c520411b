// SPDX-License-Identifier: GPL-2.0
/* The list of CPUs on the agent's command line. */
#include <string.h>

#include "cpulist.h"
#include "tap.h"

static bool has(const struct cpulist *l, unsigned int cpu)
{
	return l->mask[cpu / 64] >> cpu % 64 & 1;
}

static unsigned int count(const struct cpulist *l)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < CPULIST_CPUS; i++)
		n += has(l, i);
	return n;
}

int main(void)
{
	static const char *const bad[] = {
		"", ",", "1,", ",1", "1,,2", "-", "1-", "-1", "3-2", "a", "1a", "1 ", " 1",
		"+1", "1-+2", "0x1", "1;2", "1--2", "1-2-3", "8192", "0-8192",
		"18446744073709551616", "1,99999999999999999999999",
	};
	struct cpulist l;

	tap_ok(cpulist_parse(&l, "0") && has(&l, 0) && count(&l) == 1, "one CPU");
	tap_ok(cpulist_parse(&l, "2-3,8") && has(&l, 2) && has(&l, 3) && has(&l, 8) &&
	       count(&l) == 3 && !strcmp(l.text, "2-3,8"), "a range and a CPU");
	tap_ok(cpulist_parse(&l, "5,1-70,60-65") && count(&l) == 70 && has(&l, 70) &&
	       !has(&l, 71) && !has(&l, 0), "in any order, some of them twice");
	tap_ok(cpulist_parse(&l, "7-7") && has(&l, 7) && count(&l) == 1, "a range of one");
	tap_ok(cpulist_parse(&l, "8191") && has(&l, 8191) && count(&l) == 1, "the last one");
	tap_ok(cpulist_parse(&l, "0-8191") && count(&l) == CPULIST_CPUS, "all of them");
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		tap_ok(!cpulist_parse(&l, bad[i]), "'%s' is no list", bad[i]);
	return tap_done();
}
