// SPDX-License-Identifier: GPL-2.0
/*
 * rtnetlink requests that are waited for.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "netlink.h"

#define ANSWER_SECONDS	1

/* An answer of the kernel is at most this long. */
#define ANSWER_MAX	32768

int netlink_open(struct netlink *nl, struct why *why)
{
	struct timeval tv = { .tv_sec = ANSWER_SECONDS };
	int on = 1, ret;

	memset(nl, 0, sizeof(*nl));
	nl->sock = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!nl->sock)
		return why_set(why, errno, "netlink: %s", strerror(errno));
	if (mnl_socket_bind(nl->sock, 0, MNL_SOCKET_AUTOPID) < 0 ||
	    setsockopt(mnl_socket_get_fd(nl->sock), SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv))) {
		ret = why_set(why, errno, "netlink: %s", strerror(errno));
		netlink_close(nl);
		return ret;
	}
	/* Only make the kernel's errors better; all kernels that we know have both. */
	mnl_socket_setsockopt(nl->sock, NETLINK_EXT_ACK, &on, sizeof(on));
	mnl_socket_setsockopt(nl->sock, NETLINK_CAP_ACK, &on, sizeof(on));
	nl->portid = mnl_socket_get_portid(nl->sock);
	return 0;
}

void netlink_close(struct netlink *nl)
{
	if (nl->sock)
		mnl_socket_close(nl->sock);
	nl->sock = NULL;
}

void *netlink_begin(struct netlink_msg *m, uint16_t type, uint16_t flags, size_t size)
{
	memset(m, 0, sizeof(*m));
	mnl_nlmsg_put_header(m);
	m->head.nlmsg_type = type;
	m->head.nlmsg_flags = NLM_F_REQUEST | flags;
	return mnl_nlmsg_put_extra_header(&m->head, size);
}

struct tcmsg *netlink_tc(struct netlink_msg *m, uint16_t type, uint16_t flags,
			 unsigned int ifindex, uint32_t handle, uint32_t parent)
{
	struct tcmsg *tc = netlink_begin(m, type, flags, sizeof(*tc));

	tc->tcm_family = AF_UNSPEC;
	tc->tcm_ifindex = (int)ifindex;
	tc->tcm_handle = handle;
	tc->tcm_parent = parent;
	return tc;
}

/* The kernel's own words in an acknowledgement, or NULL. */
static const char *ack_text(const struct nlmsghdr *nlh)
{
	const struct nlmsgerr *err = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attr;
	size_t skip = sizeof(*err);

	if (!(nlh->nlmsg_flags & NLM_F_ACK_TLVS))
		return NULL;
	if (!(nlh->nlmsg_flags & NLM_F_CAPPED))
		skip += mnl_nlmsg_get_payload_len(&err->msg);
	mnl_attr_for_each(attr, nlh, skip)
		if (mnl_attr_get_type(attr) == NLMSGERR_ATTR_MSG &&
		    mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) >= 0)
			return mnl_attr_get_str(attr);
	return NULL;
}

/* 0 or the error that an acknowledgement (or the end of a dump) carries. */
static int ack_error(const struct nlmsghdr *nlh, struct why *why)
{
	const struct nlmsgerr *err = mnl_nlmsg_get_payload(nlh);
	const char *text;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*err))
		return why_set(why, EPROTO, "netlink: a short answer");
	if (!err->error)
		return 0;
	text = ack_text(nlh);
	return why_set(why, -err->error, "%s%s%s", strerror(-err->error), text ? ": " : "",
		       text ? text : "");
}

/* Messages of one datagram: 1 the request is done (*result), 0 more to come. */
static int use_answer(struct netlink *nl, const struct nlmsghdr *nlh, int len, mnl_cb_t cb,
		      void *arg, int *result, struct why *why)
{
	for (; mnl_nlmsg_ok(nlh, len); nlh = mnl_nlmsg_next(nlh, &len)) {
		if (nlh->nlmsg_seq != nl->seq || nlh->nlmsg_pid != nl->portid)
			continue;
		if (nlh->nlmsg_type == NLMSG_ERROR) {
			*result = ack_error(nlh, why);
			return 1;
		}
		if (nlh->nlmsg_type == NLMSG_DONE) {
			*result = 0;
			return 1;
		}
		if (cb)
			cb(nlh, arg);
	}
	return 0;
}

static int exchange(struct netlink *nl, struct netlink_msg *m, mnl_cb_t cb, void *arg,
		    struct why *why)
{
	static _Thread_local char buf[ANSWER_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	int result = 0;
	ssize_t got;

	m->head.nlmsg_seq = ++nl->seq;
	if (mnl_socket_sendto(nl->sock, m, m->head.nlmsg_len) < 0)
		return why_set(why, errno, "netlink: %s", strerror(errno));
	for (;;) {
		got = mnl_socket_recvfrom(nl->sock, buf, sizeof(buf));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN)
			return why_set(why, ETIMEDOUT, "netlink: the kernel does not answer");
		if (got < 0)
			return why_set(why, errno, "netlink: %s", strerror(errno));
		if (use_answer(nl, (void *)buf, (int)got, cb, arg, &result, why))
			return result;
	}
}

int netlink_ask(struct netlink *nl, struct netlink_msg *m, struct why *why)
{
	m->head.nlmsg_flags |= NLM_F_ACK;
	return exchange(nl, m, NULL, NULL, why);
}

int netlink_delete(struct netlink *nl, struct netlink_msg *m, bool *did, struct why *why)
{
	int ret = netlink_ask(nl, m, why);

	if (ret == -ENOENT || ret == -ENODEV)
		return 0;
	if (!ret && did)
		*did = true;
	return ret;
}

int netlink_query(struct netlink *nl, struct netlink_msg *m, mnl_cb_t cb, void *arg,
		  struct why *why)
{
	/* Traffic control answers a question by an echo, before it acknowledges. */
	m->head.nlmsg_flags |= NLM_F_ACK | NLM_F_ECHO;
	return exchange(nl, m, cb, arg, why);
}

int netlink_dump(struct netlink *nl, struct netlink_msg *m, mnl_cb_t cb, void *arg,
		 struct why *why)
{
	return exchange(nl, m, cb, arg, why);
}
