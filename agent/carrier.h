/* SPDX-License-Identifier: GPL-2.0 */
/*
 * carrier: what the pages of a connection go by, as both sides find out when they greet each
 * other, and what people are told of it: streams of their own, or RDMA, or the connection
 * itself. Everything else goes over that in any case.
 */
#ifndef VMREPL_CARRIER_H
#define VMREPL_CARRIER_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

#include "hello.h"
#include "link.h"

/* Standby, before ACCEPT: offers what both want; what it says of that is in @ours. */
void carrier_offer(struct link *link, uint64_t timeout_ns, const struct hello *theirs,
		   struct hello *ours);

/*
 * Primary, after ACCEPT from @addr: takes what is offered. True: @done comes, maybe from
 * within, but not after link_close(), and is to call carrier_joined(). False: pages go over
 * the connection.
 */
bool carrier_join(struct link *link, const struct link_addr *addr, uint64_t timeout_ns,
		  const struct hello *theirs, const struct hello *ours,
		  void (*done)(void *arg, const char *why), void *arg);
/* @why: why it is not; or NULL. */
void carrier_joined(struct link *link, const char *why);

/* Primary, joined: as link_lend(); where that fails, pages go by TCP. */
void carrier_lend(struct link *link, void *mem, size_t bytes);

/*
 * Adds link (tcp or rdma), streams, rdma-bytes that were sent so, and link-why, where it is
 * not what was asked for.
 */
void carrier_status(const struct link *link, struct json_object *o);

#endif /* VMREPL_CARRIER_H */
