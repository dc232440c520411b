/* SPDX-License-Identifier: GPL-2.0 */
/*
 * flight: the epoch that is in flight, and what is told of the last that was acknowledged.
 */
#ifndef VMREPL_FLIGHT_H
#define VMREPL_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

#include "checkpoint.h"
#include "stream.h"

/**
 * struct flight - an epoch from its beginning to its ACK; times are loop_now()'s, 0: not yet
 * @number:    of the epoch
 * @live:      the guest runs meanwhile, it is no checkpoint
 * @cow:       the guest goes on before it is copied
 * @waiting:   its END is sent, its ACK is not here
 * @pages:     that were written
 * @started:   QEMU is told to stop the guest
 * @stopped:   the guest stands
 * @collected: its last page is with the stream
 * @let_go:    QEMU is told to let the guest run
 * @resumed:   the guest runs again
 * @sent:      its END is with the link
 * @held_since: output of this epoch began to be held
 * @freeze_ns: what VMREPL_FREEZE took
 */
struct flight {
	uint64_t number;
	bool live;
	bool cow;
	bool waiting;
	uint64_t pages;
	uint64_t started;
	uint64_t stopped;
	uint64_t collected;
	uint64_t let_go;
	uint64_t resumed;
	uint64_t sent;
	uint64_t held_since;
	uint64_t freeze_ns;
};

/* The next epoch begins now; output that is held stays so. */
void flight_begin(struct flight *flight, bool live);

/**
 * struct acked - the last checkpoint that was acknowledged
 * @count: of them, on all connections
 * @torn:  that had to be taken again
 */
struct acked {
	uint64_t number;
	uint64_t count;
	uint64_t pause_ns;
	uint64_t pages;
	uint64_t same_pages;
	uint64_t bytes;
	uint64_t held_ns;
	uint64_t torn;
	bool cow;
};

/* It is acknowledged: tells so by an event. */
void flight_acked(const struct flight *flight, const struct checkpoint *cp,
		  const struct stream_totals *totals, struct acked *acked);
/* It is torn: tells so by an event. */
void flight_torn(const struct flight *flight, struct acked *acked);
/* A line of it, for people. */
void acked_line(const struct acked *acked);
/* Adds checkpoint, epochs, pause-us, dirty-pages, same-pages, torn-epochs and copy to @o. */
void acked_status(const struct acked *acked, struct json_object *o);

#endif /* VMREPL_FLIGHT_H */
