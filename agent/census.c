// SPDX-License-Identifier: GPL-2.0
/*
 * census: one frame is under way at a time, so a slow link has only one to wait for.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "census.h"
#include "pagemap.h"
#include "pagesums.h"

/* Looked through at once where there is nothing to tell: 64 MiB. */
#define CENSUS_LOOK		(64 * FRAME_SUMS_MAX)
#define CENSUS_WAIT_NS		NSEC_PER_MSEC

_Static_assert(FRAME_SUMS_MAX <= PAGEMAP_MAX, "one look");

struct census {
	struct link_tx tx;
	struct loop *loop;
	struct link *link;
	const struct store *store;
	const struct ramblock_table *blocks;
	struct pagesums_key *key;
	struct loop_timer timer;
	int pagemap;
	unsigned int block;
	uint64_t page;
	bool sending;
	bool ended;
	struct {
		struct frame_sums head;
		struct frame_sum sums[FRAME_SUMS_MAX];
	} payload;
	struct iovec iov[2];
	uint8_t data[FRAME_SUMS_MAX * RAMBLOCK_PAGE];
};

static void census_free(struct census *census)
{
	if (census->pagemap >= 0)
		close(census->pagemap);
	pagesums_key_free(census->key);
	free(census);
}

/* Sums of the pages from @hva on that are there. Returns how many. */
static uint32_t census_read(struct census *census, uint64_t hva, uint32_t nr)
{
	bool there[FRAME_SUMS_MAX];
	struct iovec remote[FRAME_SUMS_MAX];
	uint32_t index[FRAME_SUMS_MAX];
	unsigned int nr_remote = 0;
	struct iovec local = { .iov_base = census->data };
	uint32_t i, found = 0;
	ssize_t n;

	if (!pagemap_look(census->pagemap, hva, nr, there))
		return 0;
	memset(census->payload.sums, 0, nr * sizeof(*census->payload.sums));
	for (i = 0; i < nr; i++) {
		uint8_t *at = (uint8_t *)(uintptr_t)(hva + (uint64_t)i * RAMBLOCK_PAGE);
		struct iovec *last = nr_remote ? &remote[nr_remote - 1] : NULL;

		if (!there[i])
			continue;
		index[found++] = i;
		if (last && (uint8_t *)last->iov_base + last->iov_len == at)
			last->iov_len += RAMBLOCK_PAGE;
		else
			remote[nr_remote++] = (struct iovec){ at, RAMBLOCK_PAGE };
	}
	if (!found)
		return 0;
	local.iov_len = (size_t)found * RAMBLOCK_PAGE;
	n = process_vm_readv(census->store->target.vm, &local, 1, remote, nr_remote, 0);
	if (n != (ssize_t)local.iov_len)
		return 0;
	for (i = 0; i < found; i++)
		census->payload.sums[index[i]] =
			pagesums_of(census->key, census->data + (size_t)i * RAMBLOCK_PAGE);
	return found;
}

static void census_send(struct census *census, uint32_t nr)
{
	census->payload.head = (struct frame_sums){
		.block = nr ? census->block : 0,
		.nr = nr,
		.page = nr ? census->page : 0,
	};
	census->iov[1].iov_base = &census->payload;
	census->iov[1].iov_len = sizeof(census->payload.head) +
				 nr * sizeof(*census->payload.sums);
	census->sending = true;
	link_send(census->link, &census->tx, FRAME_SUMS, 0);
}

static void census_go_on(void *arg)
{
	struct census *census = arg;
	uint32_t looked = 0;

	if (!store_applied(census->store)) {
		loop_timer_set(census->loop, &census->timer, CENSUS_WAIT_NS);
		return;
	}
	while (census->block < census->blocks->nr) {
		const struct ramblock *block = &census->blocks->blocks[census->block];
		uint64_t left = block->size / RAMBLOCK_PAGE - census->page;
		uint32_t nr = left < FRAME_SUMS_MAX ? (uint32_t)left : FRAME_SUMS_MAX;

		if (!block->big || !left) {
			census->block++;
			census->page = 0;
			continue;
		}
		if (census_read(census, block->hva + census->page * RAMBLOCK_PAGE, nr)) {
			census_send(census, nr);
			census->page += nr;
			return;
		}
		census->page += nr;
		looked += nr;
		if (looked >= CENSUS_LOOK) {
			loop_timer_set(census->loop, &census->timer, 0);
			return;
		}
	}
	census->ended = true;
	census_send(census, 0);
}

static void census_sent(struct link_tx *tx, bool sent)
{
	/* @tx is the first member. */
	struct census *census = (struct census *)tx;

	census->sending = false;
	if (!census->link)
		census_free(census);
	else if (sent && !census->ended)
		loop_timer_set(census->loop, &census->timer, 0);
}

struct census *census_new(struct loop *loop, struct link *link, const struct store *store,
			  const struct ramblock_table *blocks, const char *key)
{
	struct census *census = calloc(1, sizeof(*census));

	if (!census)
		return NULL;
	census->pagemap = pagemap_open(store->target.vm);
	census->key = pagesums_key_new(key);
	if (census->pagemap < 0 || !census->key) {
		census_free(census);
		return NULL;
	}
	census->tx.iov = census->iov;
	census->tx.n = 2;
	census->tx.done = census_sent;
	census->loop = loop;
	census->link = link;
	census->store = store;
	census->blocks = blocks;
	census->timer.fn = census_go_on;
	census->timer.arg = census;
	loop_timer_set(loop, &census->timer, 0);
	return census;
}

void census_end(struct census *census)
{
	if (!census)
		return;
	loop_timer_cancel(census->loop, &census->timer);
	census->link = NULL;
	if (!census->sending)
		census_free(census);
}
