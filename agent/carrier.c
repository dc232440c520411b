// SPDX-License-Identifier: GPL-2.0
/*
 * carrier: that RDMA is missing, or streams are, is never an end, only a sentence.
 */
#include <stdio.h>

#include "carrier.h"
#include "report.h"

/* It was asked for, and is not to be had. */
static void carrier_without(struct link *link, const char *verb, const char *why)
{
	report_warn("pages %s by TCP: %s", verb, why);
	report_event("link", "link:s why:s", "tcp", why);
	link_keep_why(link, why);
}

void carrier_offer(struct link *link, uint64_t timeout_ns, const struct hello *theirs,
		   struct hello *ours)
{
	struct why why;

	ours->streams = 0;
	if (theirs->streams && !link_offer_lanes(link, (unsigned int)theirs->streams,
						 ours->streams_token))
		ours->streams = theirs->streams;
	ours->offered = false;
	ours->rdma_why[0] = '\0';
	if (!ours->rdma)
		return;
	if (!theirs->rdma) {
		why_set(&why, 0, "the primary was not started with --link rdma");
	} else if (!link_offer(link, timeout_ns, &ours->offer, &why)) {
		ours->offered = true;
		return;
	}
	snprintf(ours->rdma_why, sizeof(ours->rdma_why), "%.*s", HELLO_WHY_LEN - 1, why.text);
	carrier_without(link, "come", why.text);
}

bool carrier_join(struct link *link, const struct link_addr *addr, uint64_t timeout_ns,
		  const struct hello *theirs, const struct hello *ours,
		  void (*done)(void *arg, const char *why), void *arg)
{
	struct why why;

	if (!ours->rdma) {
		if (!ours->streams)
			return false;
		if (theirs->streams &&
		    link_dial_lanes(link, addr, (unsigned int)ours->streams,
				    theirs->streams_token, done, arg))
			return true;
		carrier_without(link, "go", "the standby can have no streams now");
		return false;
	}
	if (!theirs->rdma)
		why_set(&why, 0, "the standby was not started with --link rdma");
	else if (!theirs->offered)
		why_set(&why, 0, "the standby has it not: %s", theirs->rdma_why);
	else if (!link_join(link, timeout_ns, &theirs->offer, done, arg, &why))
		return true;
	carrier_without(link, "go", why.text);
	return false;
}

void carrier_joined(struct link *link, const char *why)
{
	if (!why && link_lanes(link)) {
		report_event("link", "link:s streams:u", "tcp", (uint64_t)link_lanes(link));
		return;
	}
	if (why) {
		carrier_without(link, "go", why);
		return;
	}
	report_phase("pages go by RDMA, which is not encrypted");
	report_event("link", "link:s", "rdma");
}

void carrier_lend(struct link *link, void *mem, size_t bytes)
{
	struct why why;

	if (link_lend(link, mem, bytes, &why))
		carrier_without(link, "go", why.text);
}

void carrier_status(const struct link *link, struct json_object *o)
{
	uint64_t bytes = 0;
	const char *why;
	bool direct;

	if (!link)
		return;
	direct = link_direct(link, &bytes);
	why = link_why(link);
	json_object_object_add(o, "link", json_object_new_string(direct ? "rdma" : "tcp"));
	if (link_lanes(link))
		json_object_object_add(o, "streams", json_object_new_int((int)link_lanes(link)));
	if (bytes)
		json_object_object_add(o, "rdma-bytes", json_object_new_uint64(bytes));
	if (why)
		json_object_object_add(o, "link-why", json_object_new_string(why));
}
