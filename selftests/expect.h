/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What several tests expect of a VM and of a session. Included once by a test.
 */
#ifndef _SELFTESTS_EXPECT_H
#define _SELFTESTS_EXPECT_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "consumer.h"
#include "tap.h"
#include "vmm.h"

/* Events come well within this, also on an emulated machine. */
#define EXPECT_MS	60000
#define EXPECT_TRACEFS	"/sys/kernel/tracing"

static inline uint64_t expect_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

/* Look again and again until it holds. Return: it does; false: it never did. */
#define expect_within(ms, condition) ({					\
	uint64_t _end = expect_now_ms() + (ms);				\
	bool _holds;							\
									\
	while (!(_holds = (condition)) && expect_now_ms() < _end)	\
		usleep(1000);						\
	_holds;								\
})

#define expect_until(condition)		expect_within(EXPECT_MS, condition)

/* An ioctl's errno, or 0. */
static inline int expect_ioctl(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) < 0 ? errno : 0;
}

/* Is @got the errno that was wanted? */
static inline bool expect_errno(int got, int want)
{
	if (got == want)
		return true;
	tap_note("got %s, not %s", got ? strerrorname_np(got) : "success",
		 want ? strerrorname_np(want) : "success");
	return false;
}

/* Does the copy hold what @count pages of RAM hold? */
static inline bool expect_same(struct vmm *v, struct consumer *c,
			       uint64_t first, uint64_t count)
{
	uint64_t bad = 0, which = 0;

	for (uint64_t p = first; p < first + count; p++) {
		if (!memcmp(c->copy + p * VMM_PAGE, v->ram + p * VMM_PAGE,
			    VMM_PAGE))
			continue;
		if (!bad++)
			which = p;
	}
	if (bad)
		tap_note("%lu pages differ, the first is %lu", bad, which);
	return !bad;
}

/* Are all of @count pages in this epoch's set? */
static inline bool expect_seen(struct consumer *c, uint64_t first,
			       uint64_t count)
{
	for (uint64_t p = first; p < first + count; p++) {
		if (!c->seen[p]) {
			tap_note("page %lu is not in the set", p);
			return false;
		}
	}
	return true;
}

/* The guest runs, and what it writes is there. */
static inline bool expect_guest_runs(struct vmm *v)
{
	static uint64_t value = 0x5eed000000000000;

	value++;
	vmm_write(v, 0, VMM_FIRST_PAGE, 8, 1, value);
	for (uint64_t p = VMM_FIRST_PAGE; p < VMM_FIRST_PAGE + 8; p++) {
		if (*(uint64_t *)(v->ram + p * VMM_PAGE) != value) {
			tap_note("the guest's write to page %lu is not there", p);
			return false;
		}
	}
	return true;
}

/* Nothing of a session is on the VM: its slot is not logged, and it runs. */
static inline bool expect_untouched(struct vmm *v)
{
	if (vmm_slot_logged(v, 0, v->pages)) {
		tap_note("the slot is logged");
		return false;
	}
	return expect_guest_runs(v);
}

/* An epoch that must work. */
static inline void expect_epoch(struct consumer *c, uint32_t flags)
{
	int err = consumer_epoch(c, flags);

	if (err)
		tap_die("epoch %lu: %s", c->epoch + 1, strerror(err));
	if (c->errors || c->strange)
		tap_die("epoch %lu: %lu records break the contract, %lu name other memory",
			c->epoch, c->errors, c->strange);
}

/* An attach that must work. */
static inline void expect_attach(struct consumer *c, pid_t pid,
				 uint32_t ring_slots)
{
	int err = consumer_attach(c, pid, ring_slots);

	if (err)
		tap_die("attach: %s %s", strerror(err), c->attach.why);
}

/* A VM whose first @used pages are not just zero. */
static inline struct vmm *expect_vmm(enum vmm_ram kind, uint64_t pages,
				     uint64_t used, int vcpus)
{
	struct vmm *v = vmm_create(kind, pages, vcpus);

	for (uint64_t p = VMM_FIRST_PAGE; p < used; p++)
		*(uint64_t *)(v->ram + p * VMM_PAGE) = p;
	return v;
}

/* A session of this process, with a copy of all RAM of @v. */
static inline void expect_session(struct vmm *v, struct consumer *c,
				  uint32_t ring_slots)
{
	expect_attach(c, getpid(), ring_slots);
	consumer_watch(c, v->ram, v->pages);
}

/* Both end. */
static inline void expect_end(struct vmm *v, struct consumer *c)
{
	vmm_stop(v);
	consumer_close(c);
	vmm_destroy(v);
}

/* Epochs until what the first sync itself mapped has settled. */
static inline void expect_settle(struct consumer *c)
{
	for (int i = 0; i < 4; i++) {
		expect_epoch(c, 0);
		if (c->records < VMM_FIRST_PAGE)
			return;
	}
}

/* Does ftrace call us anywhere? */
static inline bool expect_hooks(void)
{
	static const char *const functions[] = {
		"mark_page_dirty_in_slot ", "handle_mm_fault ",
		"hugetlb_fault ", "kvm_arch_commit_memory_region ",
		"kvm_set_memory_region ", "__kvm_set_memory_region ",
	};
	FILE *f = fopen(EXPECT_TRACEFS "/enabled_functions", "r");
	bool on = false;
	char line[1024];

	if (!f && !mount("tracefs", EXPECT_TRACEFS, "tracefs", 0, NULL))
		f = fopen(EXPECT_TRACEFS "/enabled_functions", "r");
	if (!f)
		tap_die(EXPECT_TRACEFS "/enabled_functions: %s", strerror(errno));
	while (fgets(line, sizeof(line), f))
		for (unsigned int i = 0; i < sizeof(functions) / sizeof(*functions); i++)
			on |= !strncmp(line, functions[i], strlen(functions[i]));
	fclose(f);
	return on;
}

/*
 * Another process with a VM and a session of its own: while it lives the hooks stay, and
 * attaching is quicker. Return: its pid, for expect_no_keeper().
 */
static inline pid_t expect_keeper(void)
{
	int ready[2];
	pid_t child;
	char byte;

	if (pipe2(ready, O_CLOEXEC))
		tap_die("pipe: %s", strerror(errno));
	child = fork();
	if (!child) {
		struct consumer c;

		/* A VM of its parent would be one too many. */
		close_range(3, ready[1] - 1, 0);
		close_range(ready[1] + 1, ~0U, 0);
		vmm_create(VMM_RAM_ANON, 64, 1);
		if (consumer_attach(&c, getpid(), 0) || write(ready[1], "", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	if (child < 0 || read(ready[0], &byte, 1) != 1)
		tap_die("another VM cannot be protected");
	close(ready[0]);
	return child;
}

static inline void expect_no_keeper(pid_t keeper)
{
	kill(keeper, SIGKILL);
	waitpid(keeper, NULL, 0);
}

#endif /* _SELFTESTS_EXPECT_H */
