// SPDX-License-Identifier: GPL-2.0
/* trace_test: the tracepoints tell of an epoch what the records tell. TAP. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "consumer.h"
#include "tap.h"
#include "vmm.h"

#define TRACEFS		"/sys/kernel/tracing/"
#define PAGES		1024UL
#define COUNT		100UL

static bool put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_TRUNC | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* What was traced of one epoch. */
struct traced {
	int freezes;
	uint64_t pages;
	int live;
	int copied;
	uint64_t given;
	uint64_t zero;
	uint64_t same;
	int whole;
};

static struct traced traced(uint64_t epoch)
{
	FILE *trace = fopen(TRACEFS "trace", "re");
	struct traced t = {};
	char line[512];

	if (!trace)
		tap_die(TRACEFS "trace: %s", strerror(errno));
	while (fgets(line, sizeof(line), trace)) {
		uint64_t e, pages, ns, given, zero, same;
		char *said = strstr(line, ": vmrepl_");
		int vm, live, scan, whole;
		unsigned int log;

		if (!said)
			continue;
		if (sscanf(said, ": vmrepl_freeze: vm=%d epoch=%" SCNu64 " pages=%" SCNu64
			   " ns=%" SCNu64 " live=%d scan=%d", &vm, &e, &pages, &ns,
			   &live, &scan) == 6 && vm == getpid() && e == epoch) {
			t.freezes++;
			t.pages = pages;
			t.live = live;
		}
		if (sscanf(said, ": vmrepl_copied: vm=%d epoch=%" SCNu64 " log=%u given=%" SCNu64
			   " zero=%" SCNu64 " same=%" SCNu64 " ns=%" SCNu64 " whole=%d",
			   &vm, &e, &log, &given, &zero, &same, &ns, &whole) == 8 &&
		    vm == getpid() && e == epoch) {
			t.copied++;
			t.given += given;
			t.zero += zero;
			t.same += same;
			t.whole += whole;
		}
	}
	fclose(trace);
	return t;
}

static void check(struct consumer *c, const char *what, uint32_t flags)
{
	struct vmrepl_stats before = consumer_stats(c), after;
	struct traced t;
	int err = consumer_epoch(c, flags);

	if (err)
		tap_die("epoch: %s", strerror(err));
	after = consumer_stats(c);
	t = traced(c->epoch);
	tap_ok(t.freezes == 1 && t.pages == c->freeze.pages && t.live == !!flags,
	       "%s: the freeze, with %lu pages", what, t.pages);
	tap_ok(t.copied == (int)c->attach.nr_rings && t.whole == t.copied &&
	       t.given == c->records && t.zero == after.zero_pages - before.zero_pages &&
	       t.same == after.same_pages - before.same_pages,
	       "%s: %d workers, %lu records, %lu zero, %lu left out", what, t.copied,
	       t.given, t.zero, t.same);
}

int main(void)
{
	struct consumer c;
	struct vmm *v;
	int err;

	mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	if (!put(TRACEFS "events/vmrepl/enable", "1") || !put(TRACEFS "trace", ""))
		tap_die(TRACEFS "events/vmrepl: %s", strerror(errno));

	v = vmm_create(VMM_RAM_ANON, PAGES, 2);
	err = consumer_attach_with(&c, getpid(), 0, VMREPL_ATTACH_HASH);
	if (err)
		tap_die("attach: %s %s", strerror(err), c.attach.why);
	consumer_watch(&c, v->ram, PAGES);
	vmm_write(v, 0, VMM_FIRST_PAGE, COUNT, 2, 1);
	check(&c, "a live round with all pages", VMREPL_FREEZE_LIVE);
	vmm_write(v, 1, VMM_FIRST_PAGE, COUNT, 2, 1);
	check(&c, "the same content", 0);
	vmm_write(v, 0, VMM_FIRST_PAGE, COUNT, 2, 2);
	check(&c, "new content", 0);
	consumer_close(&c);
	vmm_destroy(v);
	tap_ok(put(TRACEFS "events/vmrepl/enable", "0"), "and off again");
	return tap_done();
}
