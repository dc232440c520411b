// SPDX-License-Identifier: GPL-2.0
/*
 * peer: whatever ends a connection closes the link first and tells the owner then.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "carrier.h"
#include "peer.h"
#include "report.h"

/* The standby may be busy with its own set-up. */
#define PEER_PREPARE_NS	(60 * NSEC_PER_SEC)
#define PEER_STREAMLESS_NS	(NSEC_PER_SEC / 2)

static void peer_cancel(struct peer *peer)
{
	loop_timer_cancel(peer->loop, &peer->answer);
	loop_timer_cancel(peer->loop, &peer->streamless);
}

static void peer_end(struct peer *peer, const char *why)
{
	peer_cancel(peer);
	peer->joining = false;
	link_close(peer->link);
	peer->lost(peer->arg, why);
}

static void peer_drop_sums(struct peer *peer)
{
	pagesums_free(peer->sums);
	peer->sums = NULL;
}

static void peer_up(void *arg)
{
	struct peer *peer = arg;
	char *text;

	if (!peer->up(peer->arg))
		return;
	/* Who wants pages compared exactly does not trust a sum; nobody needs them. */
	if (peer->options->attach_flags & VMREPL_ATTACH_HASH && !pagesums_draw(peer->sums_key))
		peer->sums = pagesums_new(&peer->hello->blocks, peer->sums_key);
	text = hello_write(peer->hello, peer->sums ? peer->sums_key : NULL);
	if (!text) {
		peer_end(peer, "out of memory");
		return;
	}
	link_watch(peer->link, peer->options->timeout_ns / 8, PEER_PREPARE_NS);
	link_send_copy(peer->link, FRAME_HELLO, 0, text, strlen(text));
	free(text);
}

/* It is clear what it holds, and how pages will go. */
static void peer_ready(struct peer *peer)
{
	if (peer->counting || peer->joining)
		return;
	/* It judges our silence from the first epoch on; we its from now on. */
	if (peer->accepted(peer->arg, peer->beat_ns))
		link_watch(peer->link, peer->beat_ns, peer->options->timeout_ns);
}

/* What it holds, before the VM is touched. */
static void peer_sums(struct peer *peer, const struct frame *frame)
{
	int ret = pagesums_take(peer->sums, frame);

	if (ret < 0) {
		peer_end(peer, "it told of a page that is not in the guest's memory");
		return;
	}
	if (!ret) {
		if (loop_now() - peer->count_began > NSEC_PER_SEC)
			report_progress("what the standby holds", pagesums_position(peer->sums),
					pagesums_pages(peer->sums));
		return;
	}
	peer->counting = false;
	report_event("sums", "pages:u", pagesums_told(peer->sums));
	peer_ready(peer);
}

static void peer_joined(void *arg, const char *why)
{
	struct peer *peer = arg;

	/* We are leaving, or it is. */
	if (!peer->joining)
		return;
	peer->joining = false;
	carrier_joined(peer->link, why);
	peer_ready(peer);
}

/* The standby agrees. */
static void peer_accepted(struct peer *peer, const struct frame *frame)
{
	struct hello theirs;
	struct why why;
	int err;

	err = hello_parse(&theirs, frame->payload, frame->length, &why);
	hello_free(&theirs);
	if (err) {
		peer_end(peer, why.text);
		return;
	}
	peer->agreed = true;
	report_phase("standby %s agrees: QEMU %s", link_peer(peer->link), theirs.qemu);
	/* Often enough for both. */
	peer->beat_ns = theirs.timeout_ms * NSEC_PER_MSEC;
	if (peer->options->timeout_ns < peer->beat_ns)
		peer->beat_ns = peer->options->timeout_ns;
	peer->beat_ns /= 8;
	peer->counting = peer->sums && !strcmp(theirs.sums_key, peer->sums_key);
	peer->count_began = loop_now();
	if (!peer->counting)
		peer_drop_sums(peer);
	/* @joining first: that may be over at once. */
	peer->joining = true;
	if (!carrier_join(peer->link, &peer->options->addr, peer->beat_ns * 8, &theirs,
			  peer->hello, peer_joined, peer)) {
		peer->joining = false;
		peer_ready(peer);
	}
}

static void peer_left(struct peer *peer, const struct frame *frame)
{
	char text[FRAME_TEXT_MAX + 1];

	peer_cancel(peer);
	peer->counting = false;
	peer->joining = false;
	frame_get_text(frame, text, sizeof(text));
	peer->left(peer->arg, frame_get_bye(frame).reason);
	link_send_copy(peer->link, FRAME_BYE_ACK, 0, NULL, 0);
	link_close_soon(peer->link);
	peer->lost(peer->arg, text);
}

static bool peer_frame(void *arg, const struct frame *frame)
{
	struct peer *peer = arg;
	char text[FRAME_TEXT_MAX + 1];

	switch (frame->type) {
	case FRAME_ACCEPT:
		if (peer->agreed || peer->leaving)
			break;
		peer_accepted(peer, frame);
		return true;
	case FRAME_SUMS:
		/* Not wanted any more: it will hear that. */
		if (peer->agreed && peer->leaving)
			return true;
		if (!peer->counting)
			break;
		peer_sums(peer, frame);
		return true;
	case FRAME_REFUSE:
		frame_get_text(frame, text, sizeof(text));
		peer_end(peer, text);
		return true;
	case FRAME_ACK:
		if (!peer->acked(peer->arg, frame->epoch))
			break;
		return true;
	case FRAME_BYE:
		peer_left(peer, frame);
		return true;
	case FRAME_BYE_ACK:
		if (!peer->leaving)
			break;
		peer_cancel(peer);
		peer->freed(peer->arg);
		link_close(peer->link);
		return true;
	default:
		break;
	}
	snprintf(text, sizeof(text), "it sent %s when it should not", frame_name(frame->type));
	peer_end(peer, text);
	return true;
}

static void peer_down(void *arg, const char *why)
{
	struct peer *peer = arg;

	peer_cancel(peer);
	peer->joining = false;
	peer->lost(peer->arg, why);
}

static void peer_closed(void *arg)
{
	struct peer *peer = arg;

	peer_cancel(peer);
	peer->link = NULL;
	peer->agreed = false;
	peer->leaving = false;
	peer->counting = false;
	peer_drop_sums(peer);
	peer->closed(peer->arg);
}

/* A moment later the connection itself would have shown if it is the standby that is lost. */
static void peer_broken(void *arg)
{
	struct peer *peer = arg;

	peer->broken(peer->arg, peer->why.text);
}

static void peer_lanes_lost(void *arg, const char *why)
{
	struct peer *peer = arg;

	if (!peer->agreed || peer->leaving)
		return;
	/* No page was sent yet. */
	if (peer->counting) {
		carrier_joined(peer->link, why);
		return;
	}
	why_set(&peer->why, 0, "the streams of pages were lost: %s", why);
	loop_timer_set(peer->loop, &peer->streamless, PEER_STREAMLESS_NS);
}

static const struct link_handlers peer_handlers = {
	.up	= peer_up,
	.frame	= peer_frame,
	.down	= peer_down,
	.closed	= peer_closed,
	.lanes_lost = peer_lanes_lost,
};

/* Heartbeats may come on time while what we send crawls. */
static void peer_no_answer(void *arg)
{
	struct peer *peer = arg;

	if (loop_timer_overslept(peer->loop, &peer->answer, peer->options->timeout_ns))
		return;
	peer_end(peer, "it does not answer our goodbye");
}

void peer_connect(struct peer *peer, struct loop *loop)
{
	struct why why;

	peer->loop = loop;
	peer->answer.fn = peer_no_answer;
	peer->answer.arg = peer;
	peer->streamless.fn = peer_broken;
	peer->streamless.arg = peer;
	peer->link = link_connect(loop, peer->options->ops, &peer->options->addr,
				  &peer_handlers, peer, &why);
	if (!peer->link)
		peer->lost(peer->arg, why.text);
}

bool peer_leave(struct peer *peer, enum frame_bye_reason reason, const char *text)
{
	if (!peer->link || !peer->agreed) {
		peer_close(peer);
		return false;
	}
	peer_cancel(peer);
	peer->leaving = true;
	peer->joining = false;
	link_watch(peer->link, peer->options->timeout_ns / 8, peer->options->timeout_ns);
	link_send_bye(peer->link, reason, text);
	loop_timer_set(peer->loop, &peer->answer, peer->options->max_stall_ns);
	return true;
}

void peer_close(struct peer *peer)
{
	peer->joining = false;
	if (peer->link)
		link_close(peer->link);
}

const char *peer_name(const struct peer *peer)
{
	return link_peer(peer->link);
}

void peer_status(const struct peer *peer, struct json_object *o)
{
	const struct link_addr *addr = &peer->options->addr;

	json_object_object_add(o, "peer", json_object_new_string(addr->text));
	json_object_object_add(o, "key", json_object_new_string(link_key(addr)));
	json_object_object_add(o, "connected", json_object_new_boolean(peer->link && peer->agreed));
	if (peer->agreed)
		carrier_status(peer->link, o);
}

uint64_t peer_silence(const struct peer *peer)
{
	return peer->link ? loop_now() - link_last_rx(peer->link) : 0;
}
