// SPDX-License-Identifier: GPL-2.0
/*
 * flight: the times of an epoch, and what they are together.
 */
#include <inttypes.h>

#include "flight.h"
#include "report.h"

void flight_begin(struct flight *flight, bool live)
{
	*flight = (struct flight) {
		.number = flight->number + 1,
		.live = live,
		.started = loop_now(),
		.held_since = flight->held_since,
	};
}

void flight_acked(const struct flight *flight, const struct checkpoint *cp,
		  const struct stream_totals *totals, struct acked *acked)
{
	uint64_t now = loop_now();

	acked->number = flight->number;
	acked->count++;
	acked->pause_ns = cp->pause_ns;
	acked->pages = flight->pages;
	/* Copies of small blocks may come along, beyond the set. */
	acked->same_pages = totals->pages < flight->pages ? flight->pages - totals->pages : 0;
	acked->bytes = totals->bytes;
	acked->cow = flight->cow;
	acked->held_ns = now - flight->held_since;
	report_event("epoch",
		     "epoch:u pause_us:u pages:u same_pages:u zero_pages:u bytes:u state_bytes:u state_sent:u stop_us:u freeze_us:u copy_us:u resume_us:u ack_us:u commit_us:u held_us:u cow:b",
		     flight->number, acked->pause_ns / NSEC_PER_USEC, acked->pages,
		     acked->same_pages, totals->zero_pages, totals->bytes,
		     totals->state_bytes, totals->state_sent,
		     (flight->stopped - flight->started) / NSEC_PER_USEC,
		     flight->freeze_ns / NSEC_PER_USEC,
		     (flight->collected - flight->stopped) / NSEC_PER_USEC,
		     (flight->resumed - flight->let_go) / NSEC_PER_USEC,
		     (now - flight->sent) / NSEC_PER_USEC,
		     (now - flight->stopped) / NSEC_PER_USEC, acked->held_ns / NSEC_PER_USEC,
		     flight->cow);
}

void flight_torn(const struct flight *flight, struct acked *acked)
{
	acked->torn++;
	report_event("torn", "epoch:u pages:u", flight->number, flight->pages);
}

void acked_line(const struct acked *acked)
{
	report_phase("epoch %" PRIu64 "  pause %.1f ms  dirty %" PRIu64
		     " pages (%" PRIu64 " as before)  sent %" PRIu64 " KiB  output held %.1f ms  (acked)",
		     acked->number, (double)acked->pause_ns / 1e6, acked->pages,
		     acked->same_pages, acked->bytes >> 10, (double)acked->held_ns / 1e6);
}

void acked_status(const struct acked *acked, struct json_object *o)
{
	json_object_object_add(o, "checkpoint", json_object_new_uint64(acked->number));
	json_object_object_add(o, "epochs", json_object_new_uint64(acked->count));
	json_object_object_add(o, "pause-us",
			       json_object_new_uint64(acked->pause_ns / NSEC_PER_USEC));
	json_object_object_add(o, "dirty-pages", json_object_new_uint64(acked->pages));
	json_object_object_add(o, "same-pages", json_object_new_uint64(acked->same_pages));
	json_object_object_add(o, "torn-epochs", json_object_new_uint64(acked->torn));
	json_object_object_add(o, "copy", json_object_new_string(acked->cow ? "cow" : "pause"));
}
