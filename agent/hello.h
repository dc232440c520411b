/* SPDX-License-Identifier: GPL-2.0 */
/*
 * hello: what the two sides tell each other about their VMs, and whether it fits.
 */
#ifndef VMREPL_HELLO_H
#define VMREPL_HELLO_H

#include <stdbool.h>
#include <stdint.h>

#include "devices.h"
#include "fabric.h"
#include "frame.h"
#include "pagesums.h"
#include "qmp.h"
#include "ramblock.h"
#include "why.h"

#define HELLO_WHY_LEN	256

/**
 * struct hello - one side
 * @qemu:        version, as text
 * @qemu_major, @qemu_minor: its parts
 * @machine:     machine type as in the device state's stream
 * @name:        QEMU's -name, what is not plain text in it replaced; empty: it has none
 * @uuid:        QEMU's -uuid; all zeros: it has none
 * @ram_bytes:   sum of the big blocks
 * @nr_vcpus:    vCPUs
 * @fence:       has a fence command
 * @timeout_ms:  silence that it takes for a loss
 * @sums_key:    of a primary: wants to be told what the standby holds; of a standby, the
 *               same: will tell; empty: not. Only of what was parsed
 * @devices:     what its command line, or its operator since, has put in
 * @blocks:      RAM blocks in the order of their wire index
 * @streams:     of a primary: so many it wants to send pages by; of a standby: so many it may;
 *               0: none
 * @streams_token: the standby: see link_offer_lanes()
 * @rdma:        it was started with --link rdma
 * @offered:     the standby: it can, and @offer says where
 * @offer:       see link_offer()
 * @rdma_why:    the standby: why it cannot; or empty
 */
struct hello {
	char qemu[64];
	int qemu_major;
	int qemu_minor;
	char machine[128];
	char name[128];
	char uuid[40];
	uint64_t ram_bytes;
	uint64_t nr_vcpus;
	bool fence;
	uint64_t timeout_ms;
	char sums_key[PAGESUMS_KEY_LEN + 1];
	struct devices devices;
	struct ramblock_table blocks;
	uint64_t streams;
	uint8_t streams_token[FRAME_TOKEN_BYTES];
	bool rdma;
	bool offered;
	struct fabric_offer offer;
	char rdma_why[HELLO_WHY_LEN];
};

/*
 * Asks QEMU for all of it but @fence, @timeout_ms, @sums_key and what is about streams and
 * RDMA. Errors: as qmp_command(), ramblock_read() and hello_fits(). hello_free() afterwards
 * in any case.
 */
int hello_read(struct hello *hello, struct qmp *qmp, struct why *why);

/* As JSON text, to be freed, with @sums_key where that is not NULL; NULL: no memory. */
char *hello_write(const struct hello *hello, const char *sums_key);

/* Whether hello_write()'s text fits into a frame. Errors: E2BIG, ENOMEM, with a sentence. */
int hello_fits(const struct hello *hello, struct why *why);

/**
 * hello_parse() - from the other side
 * @text: need not end with NUL
 *
 * Trusts nothing. Errors: EPROTO with a sentence. hello_free() in any case.
 */
int hello_parse(struct hello *hello, const void *text, size_t len, struct why *why);

/**
 * hello_match() - can @standby take over the VM of @primary?
 *
 * On success @primary's blocks have the addresses of the standby's. Errors:
 * EINVAL with a sentence that names what differs and what to do.
 */
int hello_match(struct hello *primary, const struct hello *standby, struct why *why);

void hello_free(struct hello *hello);

#endif /* VMREPL_HELLO_H */
