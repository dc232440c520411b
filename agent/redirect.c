// SPDX-License-Identifier: GPL-2.0
/*
 * A redirect of what comes in at a tap.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>

#include "redirect.h"

/* Ours among the filters of a tap's ingress: first, and "vmre". */
#define FILTER_PRIO	1u
#define FILTER_HANDLE	0x766d7265u

static int on_qdisc(const struct nlmsghdr *nlh, void *arg)
{
	const struct tcmsg *tc = mnl_nlmsg_get_payload(nlh);
	struct redirect_found *found = arg;

	if (nlh->nlmsg_type == RTM_NEWQDISC && (unsigned int)tc->tcm_ifindex == found->ifindex &&
	    tc->tcm_parent == TC_H_CLSACT)
		found->ingress = true;
	return MNL_CB_OK;
}

static int on_filter(const struct nlmsghdr *nlh, void *arg)
{
	const struct tcmsg *tc = mnl_nlmsg_get_payload(nlh);
	struct redirect_found *found = arg;

	/* Each priority also has an entry of its own, without a handle. */
	if (nlh->nlmsg_type != RTM_NEWTFILTER || !tc->tcm_handle)
		return MNL_CB_OK;
	if (tc->tcm_handle == FILTER_HANDLE && TC_H_MAJ(tc->tcm_info) >> 16 == FILTER_PRIO)
		found->ours = true;
	else
		found->others++;
	return MNL_CB_OK;
}

int redirect_look(struct netlink *nl, unsigned int tap, struct redirect_found *found,
		  struct why *why)
{
	struct netlink_msg m;
	int ret;

	memset(found, 0, sizeof(*found));
	found->ifindex = tap;
	netlink_tc(&m, RTM_GETQDISC, NLM_F_DUMP, tap, 0, 0);
	ret = netlink_dump(nl, &m, on_qdisc, found, why);
	if (ret || !found->ingress)
		return ret;
	netlink_tc(&m, RTM_GETTFILTER, NLM_F_DUMP, tap, 0,
	       TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS));
	return netlink_dump(nl, &m, on_filter, found, why);
}

static void filter_msg(struct netlink_msg *m, uint16_t type, uint16_t flags,
		       unsigned int tap)
{
	struct tcmsg *tc = netlink_tc(m, type, flags, tap, FILTER_HANDLE,
				  TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS));

	tc->tcm_info = TC_H_MAKE(FILTER_PRIO << 16, htons(ETH_P_ALL));
	mnl_attr_put_strz(&m->head, TCA_KIND, "matchall");
}

static int make_ingress(struct netlink *nl, unsigned int tap, struct why *why)
{
	struct netlink_msg m;
	int ret;

	netlink_tc(&m, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, tap,
	       TC_H_MAKE(TC_H_CLSACT, 0), TC_H_CLSACT);
	mnl_attr_put_strz(&m.head, TCA_KIND, "clsact");
	ret = netlink_ask(nl, &m, why);
	if (ret == -ENOENT)
		return why_set(why, ENOENT, "the kernel has no clsact qdisc: modprobe sch_ingress");
	if (ret)
		why_prefix(why, "cannot open the tap's ingress: ");
	return ret;
}

static int make_filter(struct netlink *nl, unsigned int tap, unsigned int to,
		       struct why *why)
{
	struct tc_mirred mirred = {
		.action = TC_ACT_STOLEN,
		.eaction = TCA_EGRESS_REDIR,
		.ifindex = to,
	};
	struct nlattr *opts, *acts, *act, *aopts;
	struct netlink_msg m;
	int ret;

	filter_msg(&m, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, tap);
	opts = mnl_attr_nest_start(&m.head, TCA_OPTIONS);
	acts = mnl_attr_nest_start(&m.head, TCA_MATCHALL_ACT);
	act = mnl_attr_nest_start(&m.head, 1);
	mnl_attr_put_strz(&m.head, TCA_ACT_KIND, "mirred");
	aopts = mnl_attr_nest_start(&m.head, TCA_ACT_OPTIONS);
	mnl_attr_put(&m.head, TCA_MIRRED_PARMS, sizeof(mirred), &mirred);
	mnl_attr_nest_end(&m.head, aopts);
	mnl_attr_nest_end(&m.head, act);
	mnl_attr_nest_end(&m.head, acts);
	mnl_attr_nest_end(&m.head, opts);
	ret = netlink_ask(nl, &m, why);
	if (ret == -ENOENT)
		return why_set(why, ENOENT, "the kernel has no matchall filter or no mirred action: modprobe cls_matchall act_mirred");
	if (ret)
		why_prefix(why, "cannot redirect what comes from the tap: ");
	return ret;
}

static int del_filter(struct netlink *nl, unsigned int tap, bool *did, struct why *why)
{
	struct netlink_msg m;
	int ret;

	filter_msg(&m, RTM_DELTFILTER, 0, tap);
	ret = netlink_delete(nl, &m, did, why);
	if (ret)
		why_prefix(why, "cannot take the redirect away: ");
	return ret;
}

static int del_ingress(struct netlink *nl, unsigned int tap, struct why *why)
{
	struct netlink_msg m;
	int ret;

	netlink_tc(&m, RTM_DELQDISC, 0, tap, TC_H_MAKE(TC_H_CLSACT, 0), TC_H_CLSACT);
	ret = netlink_delete(nl, &m, NULL, why);
	if (ret)
		why_prefix(why, "cannot close the ingress: ");
	return ret;
}

int redirect_put(struct netlink *nl, unsigned int tap, unsigned int to, bool ingress,
		 struct why *why)
{
	int ret = 0;

	if (ingress)
		ret = make_ingress(nl, tap, why);
	if (ret)
		return ret;
	ret = make_filter(nl, tap, to, why);
	if (ret && ingress)
		del_ingress(nl, tap, NULL);
	return ret;
}

int redirect_remove(struct netlink *nl, unsigned int tap, bool ingress, bool *did,
		    struct why *why)
{
	struct redirect_found found;
	int ret;

	ret = redirect_look(nl, tap, &found, why);
	if (!ret && found.ours)
		ret = del_filter(nl, tap, did, why);
	if (!ret && ingress && found.ingress && !found.others)
		ret = del_ingress(nl, tap, why);
	return ret;
}
