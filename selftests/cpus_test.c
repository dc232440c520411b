// SPDX-License-Identifier: GPL-2.0
/* VMREPL_CPUS: the workers run where the operator wants them, and nowhere else. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "consumer.h"
#include "tap.h"
#include "vmm.h"

#define PAGES	4096UL
#define VCPUS	3
#define WORDS	((int)(VMREPL_CPUS_MAX / 8))

static uint64_t online[WORDS];
static int workers[CONSUMER_MAX_RINGS];
static int nr_workers;

static bool in(const uint64_t *mask, int cpu)
{
	return mask[cpu / 64] >> cpu % 64 & 1;
}

/* A list as the kernel writes it: 0-3,8 */
static void read_list(const char *at, uint64_t *mask)
{
	char *end;

	memset(mask, 0, VMREPL_CPUS_MAX);
	while (*at >= '0' && *at <= '9') {
		long first = strtol(at, &end, 10), last = first;

		if (*end == '-')
			last = strtol(end + 1, &end, 10);
		for (; first <= last; first++)
			mask[first / 64] |= 1UL << first % 64;
		at = *end == ',' ? end + 1 : end;
	}
}

/* Return: length, with a NUL behind it; 0 where there is no such file. */
static size_t read_file(const char *path, char *to, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, to, room - 1);

	if (fd >= 0)
		close(fd);
	to[n > 0 ? n : 0] = '\0';
	return n > 0 ? n : 0;
}

static void find_workers(void)
{
	char name[32], path[300], text[64];
	struct dirent *d;
	DIR *proc = opendir("/proc");

	snprintf(name, sizeof(name), "vmrepl/%d-", getpid());
	nr_workers = 0;
	while ((d = readdir(proc))) {
		snprintf(path, sizeof(path), "/proc/%s/comm", d->d_name);
		if (read_file(path, text, sizeof(text)) &&
		    !strncmp(text, name, strlen(name)) &&
		    nr_workers < CONSUMER_MAX_RINGS)
			workers[nr_workers++] = atoi(d->d_name);
	}
	closedir(proc);
}

/* Which CPUs may this worker use? */
static void allowed(int pid, uint64_t *mask)
{
	static const char key[] = "Cpus_allowed_list:\t";
	char path[64], text[8192];
	char *at;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	read_file(path, text, sizeof(text));
	at = strstr(text, key);
	read_list(at ? at + strlen(key) : "", mask);
}

/* The CPU it ran on last: field 39, counted behind the name. */
static int ran_on(int pid)
{
	char path[64], text[4096];
	char *at;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	read_file(path, text, sizeof(text));
	at = strrchr(text, ')');
	for (int field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at) : -1;
}

static int place(int fd, const uint64_t *mask, uint32_t bytes)
{
	struct vmrepl_cpus c = { .mask = (uintptr_t)mask, .bytes = bytes };

	return ioctl(fd, VMREPL_CPUS, &c) ? errno : 0;
}

static bool all_allowed(const uint64_t *want)
{
	uint64_t have[WORDS];

	for (int i = 0; i < nr_workers; i++) {
		allowed(workers[i], have);
		if (memcmp(have, want, sizeof(have)))
			return false;
	}
	return nr_workers;
}

static bool all_ran_in(const uint64_t *mask)
{
	for (int i = 0; i < nr_workers; i++) {
		int cpu = ran_on(workers[i]);

		if (cpu < 0 || !in(mask, cpu)) {
			tap_note("worker %d ran on CPU %d", i, cpu);
			return false;
		}
	}
	return nr_workers;
}

static void epoch(struct consumer *c, struct vmm *v)
{
	int err;

	for (int i = 0; i < VCPUS; i++)
		vmm_write(v, i, 100 + 500 * i, 400, 1, c->epoch);
	v->ram[3000 * VMM_PAGE]++;
	err = consumer_epoch(c, 0);
	if (err)
		tap_die("epoch: %s", strerror(err));
}

static void test_each(struct consumer *c, struct vmm *v)
{
	for (int cpu = 0; cpu < WORDS * 64; cpu++) {
		uint64_t one[WORDS] = {};

		if (!in(online, cpu))
			continue;
		one[cpu / 64] = 1UL << cpu % 64;
		tap_ok(!place(c->fd, one, sizeof(one)) && all_allowed(one),
		       "all workers may run on CPU %d only", cpu);
		epoch(c, v);
		tap_ok(all_ran_in(one) && !c->errors,
		       "they made an epoch there");
	}
}

/* A worker that waits for room is moved, too, and ends its epoch there. */
static void test_amid(struct consumer *c, struct vmm *v)
{
	uint64_t last[WORDS] = {};
	int err, cpu;

	for (int i = WORDS * 64 - 1; i >= 0; i--) {
		if (in(online, i)) {
			last[i / 64] = 1UL << i % 64;
			break;
		}
	}
	vmm_write(v, 0, VMM_FIRST_PAGE, 3000, 1, 77);
	err = consumer_freeze(c, 0);
	if (!err)
		err = place(c->fd, last, sizeof(last));
	tap_ok(!err && all_allowed(last), "between a freeze and its END records");
	err = consumer_drain(c);
	/* Of the first vCPU's log; those with less to copy had ended before they were moved. */
	cpu = ran_on(workers[0]);
	tap_ok(!err && c->records >= 3000 && !c->errors && cpu >= 0 && in(last, cpu),
	       "that epoch is whole, and was ended there");
}

static void test_bad(struct consumer *c)
{
	uint64_t before[WORDS], mask[WORDS + 1] = { 0 };
	struct vmrepl_cpus arg = { .mask = (uintptr_t)online, .bytes = 8, .pad = 1 };
	int fd = open(VMREPL_DEVICE, O_RDWR | O_CLOEXEC);
	int absent = 0;

	while (in(online, absent))
		absent++;
	allowed(workers[0], before);
	tap_ok(place(fd, online, sizeof(online)) == ENOTCONN, "without a VM: ENOTCONN");
	close(fd);
	tap_ok(place(c->fd, mask, sizeof(online)) == EINVAL, "no CPU: EINVAL");
	mask[absent / 64] = 1UL << absent % 64 | 2;
	tap_ok(place(c->fd, mask, sizeof(online)) == EINVAL,
	       "CPU %d, which is not online: EINVAL", absent);
	memset(mask, 0, sizeof(mask));
	mask[0] = online[0];
	mask[WORDS - 1] |= 1UL << 63;
	tap_ok(place(c->fd, mask, sizeof(online)) == EINVAL,
	       "a CPU that no kernel has: EINVAL");
	for (uint32_t bytes = 0; bytes < 8; bytes++)
		tap_ok(place(c->fd, online, bytes) == EINVAL, "%u bytes: EINVAL", bytes);
	tap_ok(place(c->fd, mask, VMREPL_CPUS_MAX + 8) == EINVAL, "too long: EINVAL");
	tap_ok(place(c->fd, mask, ~0u - 7) == EINVAL, "far too long: EINVAL");
	tap_ok(ioctl(c->fd, VMREPL_CPUS, &arg) && errno == EINVAL, "padding: EINVAL");
	tap_ok(place(c->fd, (void *)8, 8) == EFAULT, "a bitmap that is nowhere: EFAULT");
	tap_ok(all_allowed(before), "the workers are where they were");
}

int main(void)
{
	struct vmm *v = vmm_create(VMM_RAM_ANON, PAGES, VCPUS);
	struct consumer c;
	char text[4096];
	int err;

	read_file("/sys/devices/system/cpu/online", text, sizeof(text));
	read_list(text, online);
	err = consumer_attach(&c, getpid(), 512);
	if (err)
		tap_die("attach: %s %s", strerror(err), c.attach.why);
	find_workers();
	tap_ok(nr_workers == VCPUS + 1, "one worker for each vCPU, and one");
	epoch(&c, v);
	test_each(&c, v);
	test_bad(&c);
	tap_ok(!place(c.fd, online, sizeof(online)) && all_allowed(online),
	       "anywhere");
	epoch(&c, v);
	tap_ok(all_ran_in(online), "and they run");
	test_amid(&c, v);
	consumer_close(&c);
	find_workers();
	tap_ok(!nr_workers, "no worker stays");
	vmm_destroy(v);
	return tap_done();
}
