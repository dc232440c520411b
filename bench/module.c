// SPDX-License-Identifier: GPL-2.0
/* The module, with an agent that looks at every record and drops the page. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "consumer.h"
#include "method.h"
#include "tap.h"

struct module {
	struct consumer agent;
	uint64_t start;
	bool running;		/* the guest may go on before all is copied */
};

static void must(struct module *m, int err, const char *what)
{
	if (err)
		tap_die("%s: %s %s", what, strerror(err), m->agent.attach.why);
}

static void module_drain(void *data, struct cost *cost)
{
	struct module *m = data;

	if (!m->running)
		return;
	must(m, consumer_drain(&m->agent), "drain");
	cost->total = cost->prepare + now_ns() - m->start;
	cost->pages = m->agent.records;
	m->running = false;
}

static void freeze(struct module *m, struct cost *cost, uint32_t flags)
{
	m->start = now_ns();
	must(m, consumer_freeze(&m->agent, flags), "freeze");
	cost->pause = now_ns() - m->start;
	cost->found = cost->prepare + cost->pause;
	m->running = true;
	/* Also where a copy on write was asked for, and refused. */
	if (!(m->agent.freeze.flags & VMREPL_FREEZE_COW)) {
		module_drain(m, cost);
		cost->pause = cost->total - cost->prepare;
	}
}

static void cow_prepare(void *data, struct cost *cost)
{
	struct module *m = data;
	struct vmrepl_prepare p;
	uint64_t start = now_ns();

	if (ioctl(m->agent.fd, VMREPL_PREPARE, &p))
		tap_die("VMREPL_PREPARE: %s", strerror(errno));
	cost->prepare = now_ns() - start;
}

static void pause_freeze(void *data, struct cost *cost)
{
	freeze(data, cost, 0);
}

static void cow_freeze(void *data, struct cost *cost)
{
	freeze(data, cost, VMREPL_FREEZE_COW);
}

static void *module_open(struct load *l, uint32_t flags)
{
	struct module *m = calloc(1, sizeof(*m));
	uint32_t slots = 65536 / l->vcpus;

	/* Not all of them are written by vCPUs. */
	if (l->vcpus > 1)
		slots *= 2;
	must(m, consumer_attach_with(&m->agent, getpid(), slots, flags), "attach");
	/* Two: the first is all of RAM, the second what copying it has mapped. */
	must(m, consumer_epoch(&m->agent, 0), "the first epoch");
	must(m, consumer_epoch(&m->agent, 0), "the second epoch");
	return m;
}

static void module_close(void *data)
{
	struct module *m = data;

	consumer_close(&m->agent);
	free(m);
}

static void *plain_open(struct load *l)
{
	return module_open(l, 0);
}

static void *hash_open(struct load *l)
{
	return module_open(l, VMREPL_ATTACH_HASH);
}

const struct method method_pause = {
	.name = "pause",
	.open = plain_open,
	.freeze = pause_freeze,
	.close = module_close,
};

const struct method method_pause_hash = {
	.name = "pause+hash",
	.open = hash_open,
	.freeze = pause_freeze,
	.close = module_close,
};

const struct method method_cow = {
	.name = "cow",
	.open = plain_open,
	.prepare = cow_prepare,
	.freeze = cow_freeze,
	.drain = module_drain,
	.close = module_close,
};

const struct method method_cow_busy = {
	.name = "cow-busy",
	.open = plain_open,
	.prepare = cow_prepare,
	.nth = 10,
	.freeze = cow_freeze,
	.drain = module_drain,
	.close = module_close,
};

const struct method method_cow_hash = {
	.name = "cow+hash",
	.open = hash_open,
	.prepare = cow_prepare,
	.freeze = cow_freeze,
	.drain = module_drain,
	.close = module_close,
};
