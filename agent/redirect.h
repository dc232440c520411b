/* SPDX-License-Identifier: GPL-2.0 */
/*
 * redirect: what comes in at a tap goes to another interface instead.
 *
 * A matchall filter with a mirred action on the tap's ingress. It is told from
 * others by its priority and its handle.
 */
#ifndef AGENT_REDIRECT_H
#define AGENT_REDIRECT_H

#include <stdbool.h>

#include "netlink.h"
#include "why.h"

/**
 * struct redirect_found - what is on a tap's ingress
 * @ifindex:	private
 * @ingress:	it has a clsact or ingress qdisc
 * @ours:	our filter is there
 * @others:	other filters
 */
struct redirect_found {
	unsigned int ifindex;
	bool ingress;
	bool ours;
	unsigned int others;
};

/* Errors: the kernel's. */
int redirect_look(struct netlink *nl, unsigned int tap, struct redirect_found *found,
		  struct why *why);

/**
 * redirect_put - begin to redirect
 * @tap, @to:	interface indices
 * @ingress:	make the clsact qdisc too
 *
 * On error nothing stays behind.
 */
int redirect_put(struct netlink *nl, unsigned int tap, unsigned int to, bool ingress,
		 struct why *why);

/**
 * redirect_remove - take the filter away; that there is none is success
 * @ingress:	take the clsact qdisc too, if no other filter uses it
 * @did:	set where something was taken away; may be NULL
 */
int redirect_remove(struct netlink *nl, unsigned int tap, bool ingress, bool *did,
		    struct why *why);

#endif /* AGENT_REDIRECT_H */
