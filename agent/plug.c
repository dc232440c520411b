// SPDX-License-Identifier: GPL-2.0
/*
 * A plug on a tap: ifb, redirect, `plug` qdisc, by netlink.
 *
 * What is ours can be told: the ifb is named after the tap's index and carries
 * an alias, and the filter has a handle of its own. So the next start can clean
 * up behind an agent that was killed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <libmnl/libmnl.h>
#include <linux/gen_stats.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

#include "netlink.h"
#include "plug.h"

/* Ours among the filters of a tap's ingress: first, and "vmre". */
#define FILTER_PRIO	1u
#define FILTER_HANDLE	0x766d7265u

/* Root of the ifb. */
#define PLUG_HANDLE	TC_H_MAKE(0x766d0000u, 0)

/* "vmrepl-plug INGRESS TAP": whether the ingress qdisc is ours too. */
#define ALIAS_WORD	"vmrepl-plug"
#define ALIAS_OWN	"own"
#define ALIAS_FOUND	"found"

/* What the ifb may have under way to its receive side, packets. */
#define IFB_QUEUE	1000u

/* Bound for packets on their way out, milliseconds. */
#define DRAIN_MS	100

enum plug_state {
	PLUG_OPEN,		/* everything passes */
	PLUG_HOLDING,		/* one segment is filling, none is closed */
	PLUG_CLOSED,		/* one is closed, one is filling */
};

struct plug {
	struct netlink nl;
	char tap[IF_NAMESIZE];
	char ifb[IF_NAMESIZE];
	unsigned int tap_index;
	unsigned int ifb_index;
	bool own_ingress;
	enum plug_state state;
	/* Built ahead: nothing is built or allocated while the guest stands. */
	struct netlink_msg buffer;
	struct netlink_msg release_one;
	struct netlink_msg release_all;
	struct netlink_msg query;
};

static struct tcmsg *tc_msg(struct netlink_msg *m, uint16_t type, uint16_t flags,
			    unsigned int ifindex, uint32_t handle, uint32_t parent)
{
	struct tcmsg *tc = netlink_begin(m, type, flags, sizeof(*tc));

	tc->tcm_family = AF_UNSPEC;
	tc->tcm_ifindex = (int)ifindex;
	tc->tcm_handle = handle;
	tc->tcm_parent = parent;
	return tc;
}

static void filter_msg(struct netlink_msg *m, uint16_t type, uint16_t flags,
		       unsigned int tap_index)
{
	struct tcmsg *tc = tc_msg(m, type, flags, tap_index, FILTER_HANDLE,
				  TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS));

	tc->tcm_info = TC_H_MAKE(FILTER_PRIO << 16, htons(ETH_P_ALL));
	mnl_attr_put_strz(&m->head, TCA_KIND, "matchall");
}

/* A message for the plug itself. */
static void action_msg(struct netlink_msg *m, unsigned int ifb_index, uint16_t flags, int action,
		       uint32_t limit)
{
	struct tc_plug_qopt opt = { .action = action, .limit = limit };

	tc_msg(m, RTM_NEWQDISC, flags, ifb_index, PLUG_HANDLE, TC_H_ROOT);
	mnl_attr_put_strz(&m->head, TCA_KIND, "plug");
	mnl_attr_put(&m->head, TCA_OPTIONS, sizeof(opt), &opt);
}

static int make_ifb(struct plug *p, struct why *why)
{
	struct netlink_msg m;
	struct nlattr *info;
	char alias[64];
	int ret;

	netlink_begin(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(&m.head, IFLA_IFNAME, p->ifb);
	mnl_attr_put_u32(&m.head, IFLA_TXQLEN, IFB_QUEUE);
	info = mnl_attr_nest_start(&m.head, IFLA_LINKINFO);
	mnl_attr_put_strz(&m.head, IFLA_INFO_KIND, "ifb");
	mnl_attr_nest_end(&m.head, info);
	ret = netlink_ask(&p->nl, &m, why);
	if (ret == -EEXIST)
		return why_set(why, EEXIST, "there is a plug on tap %s already (%s): another agent protects it, or one was killed (vmrepl-agent release)",
			       p->tap, p->ifb);
	if (ret == -EOPNOTSUPP)
		return why_set(why, EOPNOTSUPP, "the kernel has no ifb: modprobe ifb");
	if (ret) {
		why_prefix(why, "cannot make interface %s: ", p->ifb);
		return ret;
	}
	p->ifb_index = if_nametoindex(p->ifb);
	if (!p->ifb_index)
		return why_set(why, ENODEV, "interface %s is gone at once", p->ifb);

	snprintf(alias, sizeof(alias), ALIAS_WORD " %s %s",
		 p->own_ingress ? ALIAS_OWN : ALIAS_FOUND, p->tap);
	((struct ifinfomsg *)netlink_begin(&m, RTM_NEWLINK, 0, sizeof(struct ifinfomsg)))
		->ifi_index = (int)p->ifb_index;
	mnl_attr_put(&m.head, IFLA_IFALIAS, strlen(alias), alias);
	ret = netlink_ask(&p->nl, &m, why);
	if (ret)
		why_prefix(why, "cannot mark interface %s: ", p->ifb);
	return ret;
}

static int make_plug(struct plug *p, struct why *why)
{
	struct netlink_msg m;
	struct ifinfomsg *ifi;
	int ret;

	action_msg(&m, p->ifb_index, NLM_F_CREATE | NLM_F_REPLACE, TCQ_PLUG_LIMIT, PLUG_LIMIT);
	ret = netlink_ask(&p->nl, &m, why);
	if (ret == -ENOENT)
		return why_set(why, ENOENT, "the kernel has no plug qdisc: modprobe sch_plug");
	if (!ret)
		ret = netlink_ask(&p->nl, &p->release_all, why);
	if (ret) {
		why_prefix(why, "cannot put a plug on interface %s: ", p->ifb);
		return ret;
	}

	ifi = netlink_begin(&m, RTM_NEWLINK, 0, sizeof(*ifi));
	ifi->ifi_index = (int)p->ifb_index;
	ifi->ifi_flags = IFF_UP;
	ifi->ifi_change = IFF_UP;
	ret = netlink_ask(&p->nl, &m, why);
	if (ret)
		why_prefix(why, "cannot bring interface %s up: ", p->ifb);
	return ret;
}

static int make_ingress(struct plug *p, struct why *why)
{
	struct netlink_msg m;
	int ret;

	if (!p->own_ingress)
		return 0;
	tc_msg(&m, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, p->tap_index,
	       TC_H_MAKE(TC_H_CLSACT, 0), TC_H_CLSACT);
	mnl_attr_put_strz(&m.head, TCA_KIND, "clsact");
	ret = netlink_ask(&p->nl, &m, why);
	if (ret == -ENOENT)
		return why_set(why, ENOENT, "the kernel has no clsact qdisc: modprobe sch_ingress");
	if (ret)
		why_prefix(why, "cannot open the ingress of tap %s: ", p->tap);
	return ret;
}

static int make_filter(struct plug *p, struct why *why)
{
	struct tc_mirred mirred = {
		.action = TC_ACT_STOLEN,
		.eaction = TCA_EGRESS_REDIR,
		.ifindex = p->ifb_index,
	};
	struct nlattr *opts, *acts, *act, *aopts;
	struct netlink_msg m;
	int ret;

	filter_msg(&m, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, p->tap_index);
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
	ret = netlink_ask(&p->nl, &m, why);
	if (ret == -ENOENT)
		return why_set(why, ENOENT, "the kernel has no matchall filter or no mirred action: modprobe cls_matchall act_mirred");
	if (ret)
		why_prefix(why, "cannot redirect what comes from tap %s: ", p->tap);
	return ret;
}

/* What tc_look() finds on a tap. */
struct tc_found {
	unsigned int ifindex;
	bool ingress;		/* clsact or ingress qdisc */
	bool ours;		/* our filter */
	unsigned int others;	/* other filters on ingress */
};

static int on_qdisc(const struct nlmsghdr *nlh, void *arg)
{
	const struct tcmsg *tc = mnl_nlmsg_get_payload(nlh);
	struct tc_found *found = arg;

	if (nlh->nlmsg_type == RTM_NEWQDISC && (unsigned int)tc->tcm_ifindex == found->ifindex &&
	    tc->tcm_parent == TC_H_CLSACT)
		found->ingress = true;
	return MNL_CB_OK;
}

static int on_filter(const struct nlmsghdr *nlh, void *arg)
{
	const struct tcmsg *tc = mnl_nlmsg_get_payload(nlh);
	struct tc_found *found = arg;

	/* Each priority also has an entry of its own, without a handle. */
	if (nlh->nlmsg_type != RTM_NEWTFILTER || !tc->tcm_handle)
		return MNL_CB_OK;
	if (tc->tcm_handle == FILTER_HANDLE && TC_H_MAJ(tc->tcm_info) >> 16 == FILTER_PRIO)
		found->ours = true;
	else
		found->others++;
	return MNL_CB_OK;
}

static int tc_look(struct netlink *nl, unsigned int ifindex, struct tc_found *found,
		   struct why *why)
{
	struct netlink_msg m;
	int ret;

	memset(found, 0, sizeof(*found));
	found->ifindex = ifindex;
	tc_msg(&m, RTM_GETQDISC, NLM_F_DUMP, ifindex, 0, 0);
	ret = netlink_dump(nl, &m, on_qdisc, found, why);
	if (ret || !found->ingress)
		return ret;
	tc_msg(&m, RTM_GETTFILTER, NLM_F_DUMP, ifindex, 0,
	       TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS));
	return netlink_dump(nl, &m, on_filter, found, why);
}

/* Deletes something; that it is not there is success, *did says whether it was. */
static int del_ask(struct netlink *nl, struct netlink_msg *m, bool *did, struct why *why)
{
	int ret = netlink_ask(nl, m, why);

	if (ret == -ENOENT || ret == -ENODEV || ret == -EINVAL)
		return 0;
	if (!ret && did)
		*did = true;
	return ret;
}

static int del_filter(struct netlink *nl, unsigned int tap_index, bool *did, struct why *why)
{
	struct netlink_msg m;
	int ret;

	filter_msg(&m, RTM_DELTFILTER, 0, tap_index);
	ret = del_ask(nl, &m, did, why);
	if (ret)
		why_prefix(why, "cannot take the redirect away: ");
	return ret;
}

static int del_ingress(struct netlink *nl, unsigned int tap_index, struct why *why)
{
	struct netlink_msg m;
	int ret;

	tc_msg(&m, RTM_DELQDISC, 0, tap_index, TC_H_MAKE(TC_H_CLSACT, 0), TC_H_CLSACT);
	ret = del_ask(nl, &m, NULL, why);
	if (ret)
		why_prefix(why, "cannot close the ingress: ");
	return ret;
}

static int del_ifb(struct netlink *nl, unsigned int ifb_index, bool *did, struct why *why)
{
	struct netlink_msg m;
	int ret;

	((struct ifinfomsg *)netlink_begin(&m, RTM_DELLINK, 0, sizeof(struct ifinfomsg)))
		->ifi_index = (int)ifb_index;
	ret = del_ask(nl, &m, did, why);
	if (ret)
		why_prefix(why, "cannot delete the ifb: ");
	return ret;
}

static void ifb_name(char *name, unsigned int tap_index)
{
	snprintf(name, IF_NAMESIZE, "vmr%u", tap_index);
}

struct plug *plug_open(const char *ifname, struct why *why)
{
	struct plug *p = calloc(1, sizeof(*p));
	struct tc_found found;
	int ret;

	if (!p) {
		why_set(why, ENOMEM, "out of memory");
		errno = ENOMEM;
		return NULL;
	}
	ret = netlink_open(&p->nl, why);
	if (ret)
		goto err;
	p->tap_index = if_nametoindex(ifname);
	if (!p->tap_index) {
		ret = why_set(why, ENODEV, "there is no interface %s here", ifname);
		goto err_nl;
	}
	snprintf(p->tap, sizeof(p->tap), "%s", ifname);
	ifb_name(p->ifb, p->tap_index);
	ret = tc_look(&p->nl, p->tap_index, &found, why);
	if (ret)
		goto err_nl;
	/* What comes back from the ifb passes by every filter of the ingress. */
	if (found.others) {
		ret = why_set(why, EBUSY, "tap %s has ingress filters of its own, which a plug would bypass: remove them (tc filter show dev %s ingress)",
			      ifname, ifname);
		goto err_nl;
	}
	if (found.ours) {
		ret = why_set(why, EEXIST, "there is a plug on tap %s already: another agent protects it, or one was killed (vmrepl-agent release)",
			      ifname);
		goto err_nl;
	}
	p->own_ingress = !found.ingress;

	ret = make_ifb(p, why);
	if (ret)
		goto err_ifb;
	action_msg(&p->buffer, p->ifb_index, 0, TCQ_PLUG_BUFFER, 0);
	action_msg(&p->release_one, p->ifb_index, 0, TCQ_PLUG_RELEASE_ONE, 0);
	action_msg(&p->release_all, p->ifb_index, 0, TCQ_PLUG_RELEASE_INDEFINITE, 0);
	tc_msg(&p->query, RTM_GETQDISC, 0, p->ifb_index, PLUG_HANDLE, TC_H_ROOT);
	ret = make_plug(p, why);
	if (ret)
		goto err_ifb;
	ret = make_ingress(p, why);
	if (ret)
		goto err_ifb;
	ret = make_filter(p, why);
	if (ret)
		goto err_ingress;
	return p;
err_ingress:
	if (p->own_ingress)
		del_ingress(&p->nl, p->tap_index, NULL);
err_ifb:
	if (p->ifb_index)
		del_ifb(&p->nl, p->ifb_index, NULL, NULL);
err_nl:
	netlink_close(&p->nl);
err:
	free(p);
	errno = -ret;
	return NULL;
}

static int on_stats(const struct nlattr *attr, void *arg)
{
	struct plug_held *held = arg;
	struct gnet_stats_queue q;

	if (mnl_attr_get_type(attr) != TCA_STATS_QUEUE ||
	    mnl_attr_get_payload_len(attr) < sizeof(q))
		return MNL_CB_OK;
	memcpy(&q, mnl_attr_get_payload(attr), sizeof(q));
	held->packets = q.qlen;
	held->bytes = q.backlog;
	held->drops = q.drops;
	return MNL_CB_OK;
}

static int on_stats_attr(const struct nlattr *attr, void *arg)
{
	if (mnl_attr_get_type(attr) == TCA_STATS2)
		return mnl_attr_parse_nested(attr, on_stats, arg);
	return MNL_CB_OK;
}

static int on_held(const struct nlmsghdr *nlh, void *arg)
{
	if (nlh->nlmsg_type == RTM_NEWQDISC)
		mnl_attr_parse(nlh, sizeof(struct tcmsg), on_stats_attr, arg);
	return MNL_CB_OK;
}

int plug_held(struct plug *p, struct plug_held *held, struct why *why)
{
	int ret;

	memset(held, 0, sizeof(*held));
	ret = netlink_query(&p->nl, &p->query, on_held, held, why);
	if (ret)
		why_prefix(why, "plug on tap %s: ", p->tap);
	return ret;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Waits until an open plug is empty: there is no event for that. */
static int drain(struct plug *p, struct why *why)
{
	int64_t deadline = now_ms() + DRAIN_MS;
	struct plug_held held;
	int ret;

	for (;;) {
		ret = plug_held(p, &held, why);
		if (ret || !held.packets)
			return ret;
		if (now_ms() >= deadline)
			return why_set(why, EAGAIN, "%" PRIu64 " packets do not leave the plug on tap %s",
				       held.packets, p->tap);
		poll(NULL, 0, 1);
	}
}

static int act(struct plug *p, struct netlink_msg *m, struct why *why)
{
	int ret = netlink_ask(&p->nl, m, why);

	if (ret)
		why_prefix(why, "plug on tap %s: ", p->tap);
	return ret;
}

int plug_buffer(struct plug *p, struct why *why)
{
	int ret;

	if (p->state == PLUG_CLOSED)
		return why_set(why, EBUSY, "the plug on tap %s holds a closed segment already",
			       p->tap);
	/*
	 * What is on its way out of an open plug is counted in no segment: left
	 * in the queue it would keep back as many packets of the next ones.
	 */
	if (p->state == PLUG_OPEN) {
		ret = drain(p, why);
		if (ret)
			return ret;
	}
	ret = act(p, &p->buffer, why);
	if (!ret)
		p->state = p->state == PLUG_OPEN ? PLUG_HOLDING : PLUG_CLOSED;
	return ret;
}

int plug_release_one(struct plug *p, struct why *why)
{
	int ret;

	if (p->state != PLUG_CLOSED)
		return 0;
	ret = act(p, &p->release_one, why);
	if (!ret)
		p->state = PLUG_HOLDING;
	return ret;
}

int plug_release_all(struct plug *p, struct why *why)
{
	int ret = act(p, &p->release_all, why);

	if (!ret)
		p->state = PLUG_OPEN;
	return ret;
}

const char *plug_tap(const struct plug *p)
{
	return p->tap;
}

const char *plug_ifb(const struct plug *p)
{
	return p->ifb;
}

/* Keeps the first error and its sentence. */
static void note(int *first, int ret, struct why *why, const struct why *later)
{
	if (!ret || *first)
		return;
	*first = ret;
	if (why)
		*why = *later;
}

int plug_close(struct plug *p, bool release, struct why *why)
{
	struct tc_found found;
	struct why later;
	int first = 0;
	bool here;

	if (!p)
		return 0;
	here = if_nametoindex(p->tap) == p->tap_index;
	if (release) {
		note(&first, plug_release_all(p, &later), why, &later);
		if (!first)
			note(&first, drain(p, &later), why, &later);
	}
	if (here) {
		note(&first, del_filter(&p->nl, p->tap_index, NULL, &later), why, &later);
		/* Others may have put filters there since. */
		if (p->own_ingress && !tc_look(&p->nl, p->tap_index, &found, NULL) &&
		    !found.others)
			note(&first, del_ingress(&p->nl, p->tap_index, &later), why, &later);
	}
	/* What came between the two goes out before the ifb goes. */
	if (release && !first)
		note(&first, drain(p, &later), why, &later);
	note(&first, del_ifb(&p->nl, p->ifb_index, NULL, &later), why, &later);
	netlink_close(&p->nl);
	free(p);
	return first;
}

/* An ifb of ours. */
struct ifb_found {
	unsigned int index;
	unsigned int tap_index;
	bool own_ingress;
};

struct ifbs {
	struct ifb_found list[64];
	unsigned int nr;
};

static int on_info(const struct nlattr *attr, void *arg)
{
	if (mnl_attr_get_type(attr) == IFLA_INFO_KIND)
		*(bool *)arg = !strcmp(mnl_attr_get_str(attr), "ifb");
	return MNL_CB_OK;
}

/* Ours by name and kind; the alias came a moment later and may be missing. */
static int on_link(const struct nlmsghdr *nlh, void *arg)
{
	static const char own[] = ALIAS_WORD " " ALIAS_OWN " ";
	const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(nlh);
	const char *name = "", *alias = "";
	struct ifbs *ifbs = arg;
	unsigned int tap_index;
	struct nlattr *attr;
	bool is_ifb = false;
	int end = 0;

	mnl_attr_for_each(attr, nlh, sizeof(*ifi)) {
		if (mnl_attr_get_type(attr) == IFLA_IFNAME)
			name = mnl_attr_get_str(attr);
		else if (mnl_attr_get_type(attr) == IFLA_IFALIAS)
			alias = mnl_attr_get_str(attr);
		else if (mnl_attr_get_type(attr) == IFLA_LINKINFO)
			mnl_attr_parse_nested(attr, on_info, &is_ifb);
	}
	if (!is_ifb || sscanf(name, "vmr%u%n", &tap_index, &end) != 1 || name[end] ||
	    ifbs->nr == sizeof(ifbs->list) / sizeof(ifbs->list[0]))
		return MNL_CB_OK;
	ifbs->list[ifbs->nr++] = (struct ifb_found){
		.index = (unsigned int)ifi->ifi_index,
		.tap_index = tap_index,
		.own_ingress = !strncmp(alias, own, sizeof(own) - 1),
	};
	return MNL_CB_OK;
}

/* Takes away what is on a tap; tap_index 0: the tap is gone. */
static int clean(struct netlink *nl, unsigned int tap_index, const struct ifb_found *ifb,
		 bool *did, struct why *why)
{
	struct tc_found found;
	int ret;

	if (tap_index) {
		ret = tc_look(nl, tap_index, &found, why);
		if (!ret && found.ours)
			ret = del_filter(nl, tap_index, did, why);
		if (!ret && found.ingress && ifb && ifb->own_ingress && !found.others)
			ret = del_ingress(nl, tap_index, why);
		if (ret)
			return ret;
	}
	return ifb ? del_ifb(nl, ifb->index, did, why) : 0;
}

int plug_cleanup(const char *ifname, struct why *why)
{
	unsigned int tap_index = 0, i;
	struct ifbs ifbs = { .nr = 0 };
	struct ifb_found *mine = NULL;
	struct ifinfomsg *ifi;
	char name[IF_NAMESIZE];
	struct netlink_msg m;
	struct netlink nl;
	bool did = false;
	int ret;

	if (ifname) {
		tap_index = if_nametoindex(ifname);
		if (!tap_index)
			return why_set(why, ENODEV, "there is no interface %s here", ifname);
	}
	ret = netlink_open(&nl, why);
	if (ret)
		return ret;
	ifi = netlink_begin(&m, RTM_GETLINK, NLM_F_DUMP, sizeof(*ifi));
	ifi->ifi_family = AF_UNSPEC;
	ret = netlink_dump(&nl, &m, on_link, &ifbs, why);
	if (ret)
		goto out;
	if (ifname) {
		for (i = 0; i < ifbs.nr; i++)
			if (ifbs.list[i].tap_index == tap_index)
				mine = &ifbs.list[i];
		ret = clean(&nl, tap_index, mine, &did, why);
	} else {
		for (i = 0; i < ifbs.nr && !ret; i++)
			if (!if_indextoname(ifbs.list[i].tap_index, name))
				ret = clean(&nl, 0, &ifbs.list[i], &did, why);
	}
out:
	netlink_close(&nl);
	return ret ? ret : did;
}
