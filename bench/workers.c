// SPDX-License-Identifier: GPL-2.0
/*
 * workers: what a second worker on a second CPU is worth. A guest with two vCPUs
 * writes the same number of pages with each, so that each of two workers has the
 * same to copy; first both may run on one CPU only, then on one each. Their time is
 * what the module's own tracepoint says. The agent takes nothing meanwhile: the ring
 * has room for all.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "consumer.h"
#include "load.h"
#include "tap.h"

#define TRACING		"/sys/kernel/tracing/"
#define VCPUS		2
#define PAGES		16384
#define RAM_MIB		256
#define MAX_EPOCHS	64

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		tap_die("%s: %s", path, strerror(errno));
	close(fd);
}

/* CPUs @first and, unless it is @first, @second. */
static void place(struct consumer *c, int first, int second)
{
	uint64_t mask = 1UL << first | 1UL << second;
	struct vmrepl_cpus cpus = { .mask = (uintptr_t)&mask, .bytes = 8 };

	if (ioctl(c->fd, VMREPL_CPUS, &cpus))
		tap_die("CPUs %d and %d: %s", first, second, strerror(errno));
}

/* Wait until @left workers have said how long they took. Return: the longest. */
static uint64_t longest(FILE *pipe, uint64_t epoch, uint32_t left)
{
	uint64_t most = 0, n, ns;
	char line[512];

	while (left && fgets(line, sizeof(line), pipe)) {
		char *at = strstr(line, " epoch="), *took = strstr(line, " ns=");

		if (!strstr(line, "vmrepl_copied") || !at || !took)
			continue;
		n = strtoull(at + 7, NULL, 10);
		ns = strtoull(took + 4, NULL, 10);
		if (n != epoch)
			continue;
		if (ns > most)
			most = ns;
		left--;
	}
	if (left)
		tap_die("%strace_pipe ended", TRACING);
	return most;
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint64_t measure(struct load *l, struct consumer *c, FILE *pipe, int epochs)
{
	uint64_t took[MAX_EPOCHS];
	int err;

	for (int i = -1; i < epochs; i++) {
		load_epoch(l);
		err = consumer_freeze(c, 0);
		if (err)
			tap_die("freeze: %s", strerror(err));
		took[i < 0 ? 0 : i] = longest(pipe, c->epoch, c->attach.nr_rings);
		err = consumer_drain(c);
		if (err)
			tap_die("drain: %s", strerror(err));
	}
	qsort(took, epochs, sizeof(*took), by_value);
	return took[epochs / 2];
}

int main(int argc, char **argv)
{
	struct load l = { .vcpus = VCPUS, .cpu = -1 };
	uint64_t one, two;
	struct consumer c;
	int epochs, first, second, err;
	FILE *pipe;

	if (argc != 4) {
		fprintf(stderr, "usage: workers EPOCHS CPU CPU\n");
		return 2;
	}
	epochs = atoi(argv[1]);
	first = atoi(argv[2]);
	second = atoi(argv[3]);
	if (epochs < 1 || epochs > MAX_EPOCHS)
		tap_die("1 to %d epochs", MAX_EPOCHS);
	load_create(&l, RAM_MIB, 0);
	load_set(&l, PAGES);
	err = consumer_attach(&c, getpid(), PAGES);
	if (err)
		tap_die("attach: %s %s", strerror(err), c.attach.why);
	for (int i = 0; i < 2; i++) {
		err = consumer_epoch(&c, 0);
		if (err)
			tap_die("the first epochs: %s", strerror(err));
	}
	put(TRACING "events/vmrepl/vmrepl_copied/enable", "1");
	pipe = fopen(TRACING "trace_pipe", "re");
	if (!pipe)
		tap_die(TRACING "trace_pipe: %s", strerror(errno));
	place(&c, first, first);
	one = measure(&l, &c, pipe, epochs);
	place(&c, first, second);
	two = measure(&l, &c, pipe, epochs);
	put(TRACING "events/vmrepl/vmrepl_copied/enable", "0");
	fclose(pipe);
	printf("%d,%d,%d,%lu,%lu\n", VCPUS, PAGES, epochs, one, two);
	consumer_close(&c);
	load_destroy(&l);
	return 0;
}
