// SPDX-License-Identifier: GPL-2.0
/*
 * outbox: a frame belongs to one list at a time, which is where it is found when the
 * connection ends.
 */
#include <stdlib.h>
#include <string.h>

#include "outbox.h"

/* A frame of outbox_copy(). */
struct outbox_copy {
	struct link_tx tx;
	struct iovec iov[2];
	uint8_t payload[];
};

static struct link_tx *outbox_tx(struct link_out *out)
{
	return (struct link_tx *)((char *)out - offsetof(struct link_tx, out));
}

uint64_t outbox_add(struct outbox *box, struct link_tx *tx, enum frame_type type, uint64_t epoch)
{
	uint64_t sum = frame_seal(&tx->head, type, epoch, box->seq, tx->iov + 1, tx->n - 1);

	box->seq++;
	tx->iov[0].iov_base = &tx->head;
	tx->iov[0].iov_len = sizeof(tx->head);
	tx->box = box;
	tx->next = NULL;
	if (box->first)
		box->last->next = tx;
	else
		box->first = tx;
	box->last = tx;
	box->bytes += sizeof(tx->head) + tx->head.length;
	return sum;
}

/* The first one: it is sent, or will never be. */
static struct link_tx *outbox_shift(struct outbox *box)
{
	struct link_tx *tx = box->first;

	box->first = tx->next;
	box->bytes -= sizeof(tx->head) + tx->head.length;
	return tx;
}

static void outbox_sent(struct link_out *out, int res)
{
	struct link_tx *tx = outbox_tx(out);
	struct outbox *box = tx->box;

	outbox_shift(box);
	box->busy = false;
	tx->whole = !res;
	tx->next = box->lent;
	box->lent = tx;
	/* The next one first: what @sent does need not keep the wire idle. */
	if (!res)
		outbox_send(box);
	if (!res && tx->sent)
		tx->sent(tx);
	box->sent(box->arg, res);
}

static void outbox_back(struct link_out *out)
{
	struct link_tx *tx = outbox_tx(out);
	struct outbox *box = tx->box;
	struct link_tx **p;

	for (p = &box->lent; *p != tx; p = &(*p)->next)
		;
	*p = tx->next;
	tx->done(tx, tx->whole);
	box->back(box->arg);
}

void outbox_send(struct outbox *box)
{
	struct link_tx *tx = box->first;

	if (box->busy || box->closed || !tx)
		return;
	box->busy = true;
	tx->out.sent = outbox_sent;
	tx->out.back = outbox_back;
	box->ops->send(box->wire, tx->iov, tx->n, &tx->out);
}

void outbox_unqueue(struct outbox *box)
{
	struct link_tx *kept = box->busy ? outbox_shift(box) : NULL, *queued = box->first, *tx;

	for (tx = queued; tx; tx = tx->next) {
		box->bytes -= sizeof(tx->head) + tx->head.length;
		box->seq--;
	}
	box->first = kept;
	box->last = kept;
	if (kept) {
		kept->next = NULL;
		box->bytes += sizeof(kept->head) + kept->head.length;
	}
	while (queued) {
		tx = queued;
		queued = tx->next;
		tx->done(tx, false);
	}
}

void outbox_close(struct outbox *box)
{
	box->closed = true;
}

void outbox_abandon(struct outbox *box)
{
	while (box->lent) {
		struct link_tx *tx = box->lent;

		box->lent = tx->next;
		tx->done(tx, tx->whole);
	}
}

static void outbox_copy_done(struct link_tx *tx, bool whole)
{
	(void)whole;
	/* @tx is the first member. */
	free(tx);
}

struct link_tx *outbox_copy(const void *payload, size_t len)
{
	struct outbox_copy *copy = calloc(1, sizeof(*copy) + len);

	if (!copy)
		return NULL;
	if (len)
		memcpy(copy->payload, payload, len);
	copy->iov[1].iov_base = copy->payload;
	copy->iov[1].iov_len = len;
	copy->tx.iov = copy->iov;
	copy->tx.n = len ? 2 : 1;
	copy->tx.done = outbox_copy_done;
	return &copy->tx;
}
