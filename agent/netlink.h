/* SPDX-License-Identifier: GPL-2.0 */
/*
 * netlink: rtnetlink requests that are waited for.
 *
 * An answer is waited for one second. The kernel handles a request while it is
 * being sent and takes its rtnl lock for that: as long as somebody else holds the
 * lock we stand still, and nothing bounds that.
 *
 * A message that is built once can be sent any number of times; sending it
 * allocates nothing. Not thread safe.
 */
#ifndef AGENT_NETLINK_H
#define AGENT_NETLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libmnl/libmnl.h>

#include "why.h"

struct tcmsg;

#define NETLINK_MSG_MAX	1024

/**
 * struct netlink_msg - a request
 * @head:	its header; attributes are put behind it with libmnl
 */
struct netlink_msg {
	union {
		struct nlmsghdr head;
		char room[NETLINK_MSG_MAX];
	};
};

/**
 * struct netlink - a socket to the kernel
 * @sock:	libmnl's
 * @portid:	our address
 * @seq:	number of the last request
 */
struct netlink {
	struct mnl_socket *sock;
	unsigned int portid;
	unsigned int seq;
};

/* Errors: the kernel's, with @why. */
int netlink_open(struct netlink *nl, struct why *why);
void netlink_close(struct netlink *nl);

/**
 * netlink_begin - begin a request
 * @type:	RTM_*
 * @flags:	NLM_F_* beside NLM_F_REQUEST
 * @size:	of the fixed part
 *
 * Returns the fixed part, zeroed.
 */
void *netlink_begin(struct netlink_msg *m, uint16_t type, uint16_t flags, size_t size);

/**
 * netlink_tc - begin a request of traffic control
 */
struct tcmsg *netlink_tc(struct netlink_msg *m, uint16_t type, uint16_t flags,
			 unsigned int ifindex, uint32_t handle, uint32_t parent);

/**
 * netlink_ask - send, wait for the acknowledgement
 *
 * Returns 0 or the kernel's errno, with its own words in @why where it has some;
 * -ETIMEDOUT.
 */
int netlink_ask(struct netlink *nl, struct netlink_msg *m, struct why *why);

/**
 * netlink_delete - the same; that the thing is not there is success
 * @did:	set where it was there; may be NULL
 */
int netlink_delete(struct netlink *nl, struct netlink_msg *m, bool *did, struct why *why);

/**
 * netlink_query - the same, with an answer that @cb gets (mnl_cb_t)
 */
int netlink_query(struct netlink *nl, struct netlink_msg *m, mnl_cb_t cb, void *arg,
		  struct why *why);

/**
 * netlink_dump - the same with NLM_F_DUMP in the request: many answers
 */
int netlink_dump(struct netlink *nl, struct netlink_msg *m, mnl_cb_t cb, void *arg,
		 struct why *why);

#endif /* AGENT_NETLINK_H */
