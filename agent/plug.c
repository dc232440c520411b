// SPDX-License-Identifier: GPL-2.0
/*
 * A plug on a tap: ifb, redirect, `plug` qdisc, by netlink.
 *
 * What is ours can be told: the ifb is named after the tap's index and carries
 * an alias, and the filter has a handle of its own. So the next start can clean
 * up behind an agent that was killed.
 */
#include <errno.h>
#include <inttypes.h>
#include <libmnl/libmnl.h>
#include <linux/gen_stats.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>

#include "deadline.h"
#include "netlink.h"
#include "plug.h"
#include "redirect.h"

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

/* A message for the plug itself. */
static void action_msg(struct netlink_msg *m, unsigned int ifb_index, uint16_t flags, int action,
		       uint32_t limit)
{
	struct tc_plug_qopt opt = { .action = action, .limit = limit };

	netlink_tc(m, RTM_NEWQDISC, flags, ifb_index, PLUG_HANDLE, TC_H_ROOT);
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

/*
 * Otherwise the kernel gives the ifb an IPv6 address of its own, and what it then
 * sends for that (router solicitations, after 0, 4 and 8 seconds) goes into the plug.
 */
static int no_address(struct plug *p, struct why *why)
{
	struct netlink_msg m;
	struct nlattr *all, *inet6;
	int ret;

	((struct ifinfomsg *)netlink_begin(&m, RTM_NEWLINK, 0, sizeof(struct ifinfomsg)))
		->ifi_index = (int)p->ifb_index;
	all = mnl_attr_nest_start(&m.head, IFLA_AF_SPEC);
	inet6 = mnl_attr_nest_start(&m.head, AF_INET6);
	mnl_attr_put_u8(&m.head, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
	mnl_attr_nest_end(&m.head, inet6);
	mnl_attr_nest_end(&m.head, all);
	ret = netlink_ask(&p->nl, &m, why);
	/* This kernel has no IPv6. */
	if (ret == -EAFNOSUPPORT)
		return 0;
	if (ret)
		why_prefix(why, "cannot keep interface %s without an address: ", p->ifb);
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

static int del_ifb(struct netlink *nl, unsigned int ifb_index, bool *did, struct why *why)
{
	struct netlink_msg m;
	int ret;

	((struct ifinfomsg *)netlink_begin(&m, RTM_DELLINK, 0, sizeof(struct ifinfomsg)))
		->ifi_index = (int)ifb_index;
	ret = netlink_delete(nl, &m, did, why);
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
	struct redirect_found found;
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
	ret = redirect_look(&p->nl, p->tap_index, &found, why);
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
	if (!ret)
		ret = no_address(p, why);
	if (ret)
		goto err_ifb;
	action_msg(&p->buffer, p->ifb_index, 0, TCQ_PLUG_BUFFER, 0);
	action_msg(&p->release_one, p->ifb_index, 0, TCQ_PLUG_RELEASE_ONE, 0);
	action_msg(&p->release_all, p->ifb_index, 0, TCQ_PLUG_RELEASE_INDEFINITE, 0);
	netlink_tc(&p->query, RTM_GETQDISC, 0, p->ifb_index, PLUG_HANDLE, TC_H_ROOT);
	ret = make_plug(p, why);
	if (ret)
		goto err_ifb;
	ret = redirect_put(&p->nl, p->tap_index, p->ifb_index, p->own_ingress, why);
	if (ret)
		goto err_ifb;
	return p;
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

/* Waits until an open plug is empty: there is no event for that. */
static int drain(struct plug *p, struct why *why)
{
	int64_t deadline = deadline_in(DRAIN_MS);
	struct plug_held held;
	int ret;

	for (;;) {
		ret = plug_held(p, &held, why);
		if (ret || !held.packets)
			return ret;
		if (!deadline_left(deadline))
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

const char *plug_ifb(const struct plug *p)
{
	return p->ifb;
}

unsigned int plug_tap_index(const struct plug *p)
{
	return p->tap_index;
}

static int release_and_drain(struct plug *p, struct why *why)
{
	int err = plug_release_all(p, why);

	return err ? err : drain(p, why);
}

int plug_close(struct plug *p, bool release, struct why *why)
{
	char name[IF_NAMESIZE];
	struct why later;
	int first = 0, err;
	bool here;

	if (!p)
		return 0;
	/* By index: it may have another name now. */
	here = if_indextoname(p->tap_index, name) != NULL;
	if (release)
		first = release_and_drain(p, why);
	if (here) {
		err = redirect_remove(&p->nl, p->tap_index, p->own_ingress, NULL, &later);
		first = why_first(first, err, why, &later);
	}
	/* What came between the two goes out before the ifb goes. */
	if (release && !first)
		first = drain(p, why);
	err = del_ifb(&p->nl, p->ifb_index, NULL, &later);
	first = why_first(first, err, why, &later);
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
	int ret = 0;

	if (tap_index)
		ret = redirect_remove(nl, tap_index, ifb && ifb->own_ingress, did, why);
	if (ret)
		return ret;
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
