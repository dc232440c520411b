// SPDX-License-Identifier: GPL-2.0
/*
 * qpair: one completion queue for both directions; what is unsignaled shows up in it
 * only when it fails.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "frame.h"
#include "placed.h"
#include "qpair.h"

/* Parts of one request at most; every device has as many. */
#define QPAIR_SGES	16u
/* A request for so many parts each, a write whose parts are all over memory. */
#define QPAIR_WRS	(FRAME_PAGES_MAX + 1)
/* What is given back one by one may be on its way while the next is. */
#define QPAIR_SPARE	16u
#define QPAIR_POLL	16
/* How much of the rate is the last write of the largest size. */
#define QPAIR_NEW	0.125

/* What a completion is of. */
enum {
	QPAIR_WR_PART,		/* of a write, not the last */
	QPAIR_WR_WRITE,
	QPAIR_WR_GIVE,
	QPAIR_WR_RECV,
};

/* Memory of qpair_lend(). */
struct qpair_lent {
	uint8_t *mem;
	size_t bytes;
	struct ibv_mr *mr;
};

struct qpair {
	struct loop *loop;
	void (*moved)(void *arg);
	void *arg;
	struct ibv_context *device;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct loop_op *poll;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct why broken;

	uint32_t slots;
	/* Reader. */
	uint8_t *landing;
	struct ibv_mr *landing_mr;
	uint64_t landed;	/* numbers before this one have come */
	uint64_t read;		/* and these were given back */
	/* Writer. */
	uint64_t address;
	uint32_t key;
	uint64_t written;
	uint64_t free;		/* numbers before this one were given back */
	bool writing;
	uint64_t began;
	size_t bytes;
	uint64_t sent;
	double rate;
	unsigned int nr_lent;
	struct qpair_lent *lent;
	unsigned int max_sges;
	struct ibv_sge sges[FRAME_PAGES_MAX];
	struct ibv_send_wr wrs[QPAIR_WRS];
};

static void qpair_readable(void *arg, int res);

const char *qpair_broken(const struct qpair *q)
{
	return q->broken.text[0] ? q->broken.text : NULL;
}

void qpair_break(struct qpair *q, const char *why)
{
	if (!qpair_broken(q))
		why_set(&q->broken, 0, "%s", why);
}

struct qpair *qpair_new(struct loop *loop, struct ibv_context *device,
			void (*moved)(void *arg), void *arg, struct why *why)
{
	struct qpair *q = calloc(1, sizeof(*q));
	struct ibv_device_attr attr;
	const char *name = ibv_get_device_name(device->device);

	if (!q) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	q->loop = loop;
	q->moved = moved;
	q->arg = arg;
	q->device = device;
	if (ibv_query_device(device, &attr)) {
		why_set(why, EIO, "the RDMA device %s does not answer", name);
		goto fail;
	}
	q->max_sges = attr.max_sge < (int)QPAIR_SGES ? (unsigned int)attr.max_sge : QPAIR_SGES;
	q->pd = ibv_alloc_pd(device);
	if (q->pd)
		q->channel = ibv_create_comp_channel(device);
	if (!q->channel || fcntl(q->channel->fd, F_SETFL, O_NONBLOCK)) {
		why_set(why, errno, "the RDMA device %s cannot be used: %s", name, strerror(errno));
		goto fail;
	}
	return q;
fail:
	qpair_free(q, NULL);
	return NULL;
}

void qpair_free(struct qpair *q, struct rdma_cm_id *id)
{
	unsigned int i;

	if (!q)
		return;
	loop_cancel(q->loop, q->poll);
	if (q->qp)
		rdma_destroy_qp(id);
	for (i = 0; i < q->nr_lent; i++)
		ibv_dereg_mr(q->lent[i].mr);
	free(q->lent);
	if (q->landing_mr)
		ibv_dereg_mr(q->landing_mr);
	if (q->landing)
		munmap(q->landing, (size_t)q->slots * PLACED_SLOT);
	if (q->cq)
		ibv_destroy_cq(q->cq);
	if (q->channel)
		ibv_destroy_comp_channel(q->channel);
	if (q->pd)
		ibv_dealloc_pd(q->pd);
	free(q);
}

int qpair_land(struct qpair *q, uint32_t slots, uint64_t *address, uint32_t *key,
	       struct why *why)
{
	size_t bytes = (size_t)slots * PLACED_SLOT;
	uint8_t *mem;

	mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return why_set(why, ENOMEM, "no memory for a landing buffer of %zu MiB", bytes >> 20);
	q->landing = mem;
	q->slots = slots;
	/* The fence command's process needs no copy of it. */
	madvise(mem, bytes, MADV_DONTFORK);
	q->landing_mr = ibv_reg_mr(q->pd, mem, bytes, IBV_ACCESS_LOCAL_WRITE |
				   IBV_ACCESS_REMOTE_WRITE);
	if (!q->landing_mr)
		return why_set(why, errno, "%zu MiB of memory cannot be registered for RDMA: %s; see ulimit -l",
			       bytes >> 20, strerror(errno));
	*address = (uintptr_t)mem;
	*key = q->landing_mr->rkey;
	return 0;
}

void qpair_aim(struct qpair *q, uint32_t slots, uint64_t address, uint32_t key)
{
	q->slots = slots;
	q->address = address;
	q->key = key;
}

static int qpair_post_recv(struct qpair *q)
{
	/* An immediate needs no memory. */
	struct ibv_recv_wr wr = { .wr_id = QPAIR_WR_RECV }, *bad;

	return ibv_post_recv(q->qp, &wr, &bad);
}

int qpair_open(struct qpair *q, struct rdma_cm_id *id, struct why *why)
{
	uint32_t recvs = q->slots + QPAIR_SPARE;
	struct ibv_qp_init_attr attr = {
		.qp_type = IBV_QPT_RC,
		.cap = {
			.max_send_wr = q->landing ? 2 * q->slots + QPAIR_SPARE :
						    FRAME_PAGES_MAX / q->max_sges + QPAIR_SPARE,
			.max_recv_wr = recvs,
			.max_send_sge = q->landing ? 1 : q->max_sges,
			.max_recv_sge = 1,
		},
	};
	uint32_t i;

	q->cq = ibv_create_cq(q->device, (int)(attr.cap.max_send_wr + recvs), NULL, q->channel, 0);
	if (!q->cq || ibv_req_notify_cq(q->cq, 0))
		return why_set(why, errno, "an RDMA completion queue cannot be made: %s",
			       strerror(errno));
	attr.send_cq = q->cq;
	attr.recv_cq = q->cq;
	if (rdma_create_qp(id, q->pd, &attr))
		return why_set(why, errno, "an RDMA queue pair cannot be made: %s", strerror(errno));
	q->qp = id->qp;
	for (i = 0; i < recvs; i++)
		if (qpair_post_recv(q))
			return why_set(why, EIO, "the RDMA queue pair takes no receives");
	q->poll = loop_poll(q->loop, q->channel->fd, POLLIN, qpair_readable, q);
	return 0;
}

int qpair_lend(struct qpair *q, void *mem, size_t bytes, struct why *why)
{
	struct qpair_lent *more = realloc(q->lent, (q->nr_lent + 1) * sizeof(*more));
	struct ibv_mr *mr;

	if (!more)
		return why_set(why, ENOMEM, "out of memory");
	q->lent = more;
	/* The device only reads it. */
	mr = ibv_reg_mr(q->pd, mem, bytes, 0);
	if (!mr)
		return why_set(why, errno, "%zu MiB of memory cannot be registered for RDMA: %s; see ulimit -l",
			       bytes >> 20, strerror(errno));
	q->lent[q->nr_lent++] = (struct qpair_lent) { mem, bytes, mr };
	return 0;
}

static const struct qpair_lent *qpair_find(const struct qpair *q, const struct iovec *iov)
{
	const uint8_t *at = iov->iov_base;
	unsigned int i;

	for (i = 0; i < q->nr_lent; i++) {
		const struct qpair_lent *lent = &q->lent[i];

		if (at >= lent->mem && iov->iov_len <= lent->bytes &&
		    (size_t)(at - lent->mem) <= lent->bytes - iov->iov_len)
			return lent;
	}
	return NULL;
}

bool qpair_holds(const struct qpair *q, const struct iovec *iov, int n)
{
	int i;

	for (i = 0; i < n; i++)
		if (!qpair_find(q, &iov[i]))
			return false;
	return n > 0 && n <= (int)FRAME_PAGES_MAX;
}

bool qpair_room(const struct qpair *q)
{
	return !q->writing && q->written - q->free < q->slots;
}

bool qpair_writing(const struct qpair *q)
{
	return q->writing;
}

uint64_t qpair_sent(const struct qpair *q)
{
	return q->sent;
}

uint64_t qpair_rate(const struct qpair *q)
{
	return (uint64_t)q->rate;
}

int qpair_write(struct qpair *q, const struct iovec *iov, int n, uint64_t *number)
{
	uint64_t to = q->address + q->written % q->slots * PLACED_SLOT;
	struct ibv_send_wr *wr = NULL, *bad;
	unsigned int nr = 0;
	int i, err;

	q->bytes = 0;
	for (i = 0; i < n; i++) {
		q->sges[i] = (struct ibv_sge) {
			.addr = (uintptr_t)iov[i].iov_base,
			.length = (uint32_t)iov[i].iov_len,
			.lkey = qpair_find(q, &iov[i])->mr->lkey,
		};
		if (!wr || wr->num_sge == (int)q->max_sges) {
			struct ibv_send_wr *next = &q->wrs[nr++];

			*next = (struct ibv_send_wr) {
				.wr_id = QPAIR_WR_PART,
				.sg_list = &q->sges[i],
				.opcode = IBV_WR_RDMA_WRITE,
				.wr.rdma = { .remote_addr = to + q->bytes, .rkey = q->key },
			};
			if (wr)
				wr->next = next;
			wr = next;
		}
		wr->num_sge++;
		q->bytes += iov[i].iov_len;
	}
	wr->wr_id = QPAIR_WR_WRITE;
	wr->opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
	wr->send_flags = IBV_SEND_SIGNALED;
	wr->imm_data = htonl((uint32_t)q->written);
	q->began = loop_now();
	/* Some of it may be under way where the last part was not taken. */
	q->writing = true;
	err = ibv_post_send(q->qp, q->wrs, &bad);
	if (err) {
		qpair_break(q, "the RDMA queue pair takes no writes");
		return -EIO;
	}
	*number = q->written++;
	return 0;
}

const uint8_t *qpair_slot(const struct qpair *q, uint64_t *number)
{
	*number = q->read;
	return q->landed == q->read ? NULL : q->landing + q->read % q->slots * PLACED_SLOT;
}

void qpair_give(struct qpair *q)
{
	struct ibv_send_wr wr = {
		.wr_id = QPAIR_WR_GIVE,
		.opcode = IBV_WR_SEND_WITH_IMM,
		.send_flags = IBV_SEND_SIGNALED,
		.imm_data = htonl((uint32_t)++q->read),
	}, *bad;

	if (!qpair_broken(q) && ibv_post_send(q->qp, &wr, &bad))
		qpair_break(q, "the RDMA queue pair takes no sends");
}

/* Data has landed. The device has seen to it that it is before its immediate. */
static void qpair_land_one(struct qpair *q, uint32_t number)
{
	if (!q->landing || number != (uint32_t)q->landed || q->landed - q->read >= q->slots) {
		qpair_break(q, "it wrote into a slot of the landing buffer that is not free");
		return;
	}
	q->landed++;
}

/* All numbers before this one were read. */
static void qpair_freed(struct qpair *q, uint32_t number)
{
	uint32_t more = number - (uint32_t)q->free;

	if (q->landing || more > q->written - q->free) {
		qpair_break(q, "it gave a slot of the landing buffer back that it did not have");
		return;
	}
	q->free += more;
}

static void qpair_written(struct qpair *q)
{
	double ns = (double)(loop_now() - q->began + 1);
	double rate = (double)q->bytes * (double)NSEC_PER_SEC / ns;
	double weight = q->rate > 0 ? QPAIR_NEW * (double)q->bytes / PLACED_SLOT : 1;

	q->sent += q->bytes;
	/* Who was busy meanwhile has seen its end later than it was: it was no slower than that. */
	if (loop_waited(q->loop) < q->began && rate < q->rate)
		return;
	q->rate += (rate - q->rate) * weight;
}

static void qpair_completed(struct qpair *q, const struct ibv_wc *wc)
{
	/* Of a broken one each request comes back, in order, or was never taken. */
	if (wc->wr_id == QPAIR_WR_WRITE)
		q->writing = false;
	if (wc->status != IBV_WC_SUCCESS) {
		char text[WHY_LEN];

		snprintf(text, sizeof(text), "the RDMA queue pair failed: %s",
			 ibv_wc_status_str(wc->status));
		qpair_break(q, text);
		return;
	}
	switch (wc->opcode) {
	case IBV_WC_RDMA_WRITE:
		if (wc->wr_id == QPAIR_WR_WRITE)
			qpair_written(q);
		return;
	case IBV_WC_RECV_RDMA_WITH_IMM:
		qpair_land_one(q, ntohl(wc->imm_data));
		break;
	case IBV_WC_RECV:
		if (wc->wc_flags & IBV_WC_WITH_IMM) {
			qpair_freed(q, ntohl(wc->imm_data));
			break;
		}
		qpair_break(q, "it sent by RDMA what nobody understands");
		return;
	default:
		return;
	}
	if (qpair_post_recv(q))
		qpair_break(q, "the RDMA queue pair takes no receives");
}

static void qpair_drain(struct qpair *q)
{
	struct ibv_wc wcs[QPAIR_POLL];
	int i, n;

	while ((n = ibv_poll_cq(q->cq, QPAIR_POLL, wcs)) > 0)
		for (i = 0; i < n; i++)
			qpair_completed(q, &wcs[i]);
	if (n < 0)
		qpair_break(q, "the RDMA device does not tell what it has done");
}

void qpair_leave(struct qpair *q, struct qpair_rest *rest)
{
	/* The writer knows that these have come, even if we have not looked yet. */
	if (q->cq)
		qpair_drain(q);
	*rest = (struct qpair_rest) {
		.mem = q->landing, .slots = q->slots, .landed = q->landed, .read = q->read,
	};
	/* With the queue pair the memory's registration ends: nothing writes there any more. */
	q->landing = NULL;
}

const uint8_t *qpair_rest_slot(const struct qpair_rest *rest, uint64_t *number)
{
	*number = rest->read;
	return rest->landed == rest->read ? NULL :
	       rest->mem + rest->read % rest->slots * PLACED_SLOT;
}

void qpair_rest_free(struct qpair_rest *rest)
{
	if (rest->mem)
		munmap(rest->mem, (size_t)rest->slots * PLACED_SLOT);
	rest->mem = NULL;
}

static void qpair_readable(void *arg, int res)
{
	struct qpair *q = arg;
	struct ibv_cq *cq;
	void *context;

	q->poll = NULL;
	if (res < 0 || res & (POLLERR | POLLNVAL))
		qpair_break(q, "the RDMA device is gone");
	while (!ibv_get_cq_event(q->channel, &cq, &context))
		ibv_ack_cq_events(cq, 1);
	/* Armed first: what comes after the last look is told. */
	if (ibv_req_notify_cq(q->cq, 0))
		qpair_break(q, "the RDMA device does not tell what it has done");
	qpair_drain(q);
	if (!(res < 0 || res & (POLLERR | POLLNVAL)))
		q->poll = loop_poll(q->loop, q->channel->fd, POLLIN, qpair_readable, q);
	q->moved(q->arg);
}
