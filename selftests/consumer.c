// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "consumer.h"
#include "tap.h"

/* The module is expected to answer well within this, also when emulated. */
#define PATIENCE_MS	60000

int consumer_attach(struct consumer *c, pid_t pid, uint32_t ring_slots)
{
	return consumer_attach_with(c, pid, ring_slots, 0);
}

int consumer_attach_with(struct consumer *c, pid_t pid, uint32_t ring_slots,
			 uint32_t flags)
{
	int err;

	memset(c, 0, sizeof(*c));
	c->fd = open(VMREPL_DEVICE, O_RDWR | O_CLOEXEC);
	if (c->fd < 0)
		return errno;
	c->attach = (struct vmrepl_attach){
		.abi = VMREPL_ABI, .pid = pid, .ring_slots = ring_slots,
		.flags = flags,
	};
	if (ioctl(c->fd, VMREPL_ATTACH, &c->attach)) {
		err = errno;
		close(c->fd);
		c->fd = -1;
		return err;
	}
	for (uint32_t i = 0; i < c->attach.nr_rings; i++) {
		c->ring[i] = mmap(NULL, c->attach.ring_bytes,
				  PROT_READ | PROT_WRITE, MAP_SHARED, c->fd,
				  i * c->attach.ring_bytes);
		if (c->ring[i] == MAP_FAILED)
			tap_die("mmap of ring %u: %s", i, strerror(errno));
	}
	return 0;
}

void consumer_watch(struct consumer *c, const void *base, uint64_t pages)
{
	c->base = (uintptr_t)base;
	c->pages = pages;
	c->copy = malloc(pages * VMREPL_PAGE_SIZE);
	c->stage = malloc(pages * VMREPL_PAGE_SIZE);
	c->seen = calloc(pages, sizeof(*c->seen));
	if (!c->copy || !c->stage || !c->seen)
		tap_die("no memory for the copy");
	/* Nothing the guest would have: a page that is never sent shows. */
	memset(c->copy, 0xa5, pages * VMREPL_PAGE_SIZE);
}

void consumer_close(struct consumer *c)
{
	for (uint32_t i = 0; i < c->attach.nr_rings; i++)
		munmap(c->ring[i], c->attach.ring_bytes);
	close(c->fd);
	free(c->copy);
	free(c->stage);
	free(c->seen);
}

int consumer_prepare(struct consumer *c)
{
	struct vmrepl_prepare prepare;

	return ioctl(c->fd, VMREPL_PREPARE, &prepare) ? errno : 0;
}

int consumer_freeze(struct consumer *c, uint32_t flags)
{
	c->freeze = (struct vmrepl_freeze){
		.epoch = c->epoch + 1, .flags = flags,
	};
	while (ioctl(c->fd, VMREPL_FREEZE, &c->freeze)) {
		struct vmrepl_layout layout = {};

		if (errno != ESTALE)
			return errno;
		if (ioctl(c->fd, VMREPL_LAYOUT, &layout) && errno != ENOSPC)
			return errno;
	}
	c->epoch++;
	return 0;
}

static void take_page(struct consumer *c, const struct vmrepl_rec *rec,
		      const void *data)
{
	uint64_t page = (rec->hva - c->base) / VMREPL_PAGE_SIZE;

	c->records++;
	if (rec->hva < c->base || page >= c->pages) {
		c->strange++;
		return;
	}
	c->seen[page]++;
	if (rec->type == VMREPL_REC_ZERO)
		memset(c->stage + page * VMREPL_PAGE_SIZE, 0, VMREPL_PAGE_SIZE);
	else
		memcpy(c->stage + page * VMREPL_PAGE_SIZE, data, VMREPL_PAGE_SIZE);
}

static void apply(struct consumer *c)
{
	for (uint64_t p = 0; p < c->pages; p++)
		if (c->seen[p])
			memcpy(c->copy + p * VMREPL_PAGE_SIZE,
			       c->stage + p * VMREPL_PAGE_SIZE, VMREPL_PAGE_SIZE);
}

/* Return: END was among the records. */
static bool take_ring(struct consumer *c, int i, uint64_t *in_ring)
{
	struct vmrepl_ring *r = c->ring[i];
	struct vmrepl_rec *recs = (void *)r + r->rec_offset;
	uint64_t head = __atomic_load_n(&r->head, __ATOMIC_ACQUIRE);
	bool end = false;

	for (; c->tail[i] != head && !end; c->tail[i]++) {
		uint64_t slot = c->tail[i] & (r->nr_slots - 1);
		struct vmrepl_rec *rec = &recs[slot];

		if (rec->epoch != c->epoch)
			c->errors++;
		if (rec->type == VMREPL_REC_END) {
			if (rec->arg != *in_ring || rec->hva)
				c->errors++;
			c->torn |= rec->flags & VMREPL_REC_TORN;
			end = true;
		} else if (rec->type == VMREPL_REC_SKIP) {
			c->skipped++;
		} else {
			(*in_ring)++;
			take_page(c, rec, (void *)r + r->data_offset +
				  slot * VMREPL_PAGE_SIZE);
		}
	}
	__atomic_store_n(&r->tail, c->tail[i], __ATOMIC_RELEASE);
	atomic_thread_fence(memory_order_seq_cst);
	if (!c->no_kick &&
	    __atomic_load_n(&r->flags, __ATOMIC_RELAXED) & VMREPL_RING_NEED_KICK)
		ioctl(c->fd, VMREPL_KICK);
	return end;
}

int consumer_drain(struct consumer *c)
{
	uint64_t in_ring[CONSUMER_MAX_RINGS] = {};
	bool ended[CONSUMER_MAX_RINGS] = {};
	uint32_t left = c->attach.nr_rings;
	struct pollfd pfd = { .fd = c->fd, .events = POLLIN };

	c->records = 0;
	c->skipped = 0;
	c->torn = false;
	if (c->seen)
		memset(c->seen, 0, c->pages * sizeof(*c->seen));
	while (left) {
		if (poll(&pfd, 1, PATIENCE_MS) <= 0)
			return ETIMEDOUT;
		if (pfd.revents & POLLERR)
			return EIO;
		for (uint32_t i = 0; i < c->attach.nr_rings; i++) {
			if (!ended[i] && take_ring(c, i, &in_ring[i])) {
				ended[i] = true;
				left--;
			}
		}
		if (pfd.revents & POLLHUP && left)
			return ESRCH;
	}
	if (c->seen && !c->torn)
		apply(c);
	return 0;
}

int consumer_epoch(struct consumer *c, uint32_t flags)
{
	int err = consumer_freeze(c, flags);

	return err ?: consumer_drain(c);
}

struct vmrepl_stats consumer_stats(struct consumer *c)
{
	struct vmrepl_stats st = {};

	ioctl(c->fd, VMREPL_STATS, &st);
	return st;
}

int consumer_log_stats(struct consumer *c, uint32_t ring, struct vmrepl_log_stats *st)
{
	*st = (struct vmrepl_log_stats){ .ring = ring };
	return ioctl(c->fd, VMREPL_LOG_STATS, st) ? errno : 0;
}
