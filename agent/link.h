/* SPDX-License-Identifier: GPL-2.0 */
/*
 * link: a connection that carries frames between primary and standby, numbers
 * and checks them, sends heartbeats and notices that the other side is lost.
 *
 * What moves the bytes is a struct link_ops, one for each transport: a file, and a line in
 * link_named()'s table.
 * All calls and callbacks are in the loop's thread.
 */
#ifndef VMREPL_LINK_H
#define VMREPL_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "fabric.h"
#include "frame.h"
#include "key.h"
#include "loop.h"
#include "why.h"

#define LINK_PORT_DEFAULT	7788
#define LINK_PEER_LEN		80
/* The most streams that one link can have. */
#define LINK_LANES_MAX		8u

/**
 * struct link_addr - where a link goes to, or listens
 * @sa:   resolved address
 * @len:  bytes used in @sa
 * @text: as a person writes it
 * @key:  who is there must have it, and it encrypts; NULL: in the clear, with anybody.
 *        @resolve leaves it alone; must stay as long as the address is used
 */
struct link_addr {
	struct sockaddr_storage sa;
	socklen_t len;
	char text[LINK_PEER_LEN];
	const struct key *key;
};

/* What an address's key is called, for people; "none". */
static inline const char *link_key(const struct link_addr *addr)
{
	return addr->key ? addr->key->id : "none";
}

/* A connection as a transport knows it; a socket that accepts them. */
struct link_wire;
struct link_door;

/**
 * struct link_out - a frame that a transport sends
 * @sent: all of it is with the transport, 0, or -errno: it never will be. The next may be
 *        given, from within
 * @back: its memory is not read any more. After @sent, and in any case, unless the wire is
 *        closed before; may end the wire
 * @holds: the transport's
 */
struct link_out {
	void (*sent)(struct link_out *out, int res);
	void (*back)(struct link_out *out);
	unsigned int holds;
};

/**
 * struct link_ops - a transport
 * @name:    what --link calls it
 * @resolve: "ADDR[:PORT]" to an address; false with a sentence in @why
 * @loopback: whether what goes to or comes from the address stays on this host
 * @listen:  opens a door; @accepted gets a wire and the peer's address for each
 *           connection. Returns NULL with a sentence in @why
 * @unlisten: closes the door
 * @connect: begins a connection; @done gets 0 or -errno. NULL: @why
 * @secure:  comes first on a connection: makes sure of the other side, and that nobody
 *           else reads or changes what is sent, where there is a key; @dialled: we
 *           connected. @done gets NULL, maybe from within, or a sentence. False: no memory
 * @send:    sends all of @iov; one at a time, see struct link_out. @iov and what it points
 *           to must stay until @out->back
 * @recv:    receives some bytes; one at a time; @done gets their number, 0 at the
 *           end, or -errno
 * @rate:    bytes a second that it carries, as far as is known; 0: not
 * @finish:  nothing more is sent; the other side sees the end behind what was
 * @shut:    makes connect, secure, send and recv under way end soon, and hands back what
 *           it can
 * @close:   frees; nothing may be under way. What was not handed back never will be
 * @ends:    our address and the peer's; false: it has none any more
 *
 * The rest is NULL where pages have no way of their own, see link_offer():
 * @offer, @join, @lend, @direct: as the link_...() of their names
 * @fault:   why recv failed, a sentence; NULL: there is only the errno
 * @lost:    why there is no such way any more, a sentence; NULL: it was not lost
 */
struct link_ops {
	const char *name;
	bool (*resolve)(const char *text, struct link_addr *addr, struct why *why);
	bool (*loopback)(const struct link_addr *addr);
	struct link_door *(*listen)(struct loop *loop, const struct link_addr *addr,
				    void (*accepted)(void *arg, struct link_wire *wire,
						     const char *peer),
				    void *arg, struct why *why);
	void (*unlisten)(struct link_door *door);
	struct link_wire *(*connect)(struct loop *loop, const struct link_addr *addr,
				     loop_fn done, void *arg, struct why *why);
	bool (*secure)(struct link_wire *wire, bool dialled,
		       void (*done)(void *arg, const char *why), void *arg);
	void (*send)(struct link_wire *wire, struct iovec *iov, int n, struct link_out *out);
	void (*recv)(struct link_wire *wire, void *buf, size_t len,
		     loop_fn done, void *arg);
	uint64_t (*rate)(struct link_wire *wire);
	void (*finish)(struct link_wire *wire);
	void (*shut)(struct link_wire *wire);
	void (*close)(struct link_wire *wire);
	bool (*ends)(struct link_wire *wire, struct sockaddr_storage *ours,
		     struct sockaddr_storage *theirs);
	int (*offer)(struct link_wire *wire, uint64_t timeout_ns, struct fabric_offer *offer,
		     struct why *why);
	int (*join)(struct link_wire *wire, uint64_t timeout_ns, const struct fabric_offer *offer,
		    void (*done)(void *arg, const char *why), void *arg, struct why *why);
	int (*lend)(struct link_wire *wire, void *mem, size_t bytes, struct why *why);
	bool (*direct)(struct link_wire *wire, uint64_t *bytes);
	const char *(*fault)(struct link_wire *wire);
	const char *(*lost)(struct link_wire *wire);
};

extern const struct link_ops link_tcp;
extern const struct link_ops link_rdma;

/* The transport of that name, or NULL. */
const struct link_ops *link_named(const char *name);

/**
 * struct link_tx - a frame to be sent; belongs to the caller until @done
 * @iov:  @iov[0] is left for the header, the payload follows
 * @n:    parts, the header's included
 * @sent: called once, before @done, where all of it is with the transport, which may read
 *        it still; NULL: nobody wants to know. Not where it never gets there
 * @done: called once: it is the caller's again. @whole: all was sent; else it may never be
 *
 * The rest is private to the link.
 */
struct link_tx {
	struct iovec *iov;
	int n;
	void (*sent)(struct link_tx *tx);
	void (*done)(struct link_tx *tx, bool whole);

	struct frame_header head;
	struct link_out out;
	struct outbox *box;
	struct link_tx *next;
	bool whole;
};

struct outbox;
struct link;

/**
 * struct link_handlers - what a link tells its owner
 * @up:     connected, and sure of the other side (only after link_connect())
 * @frame:  a valid frame; false: not now, link_resume() will bring it again.
 *          Heartbeats are not shown
 * @down:   the connection is lost or refused; @why is a sentence. Called at most
 *          once, never after link_close()
 * @closed: after @down or link_close(): every link_tx is back, the link is about to
 *          be freed and must be forgotten
 * @lanes_lost: its streams are gone, and with them pages, but not the other side; a
 *          sentence. NULL: nobody wants to know
 */
struct link_handlers {
	void (*up)(void *arg);
	bool (*frame)(void *arg, const struct frame *frame);
	void (*down)(void *arg, const char *why);
	void (*closed)(void *arg);
	void (*lanes_lost)(void *arg, const char *why);
};

/* Connects. Returns NULL with a sentence in @why. */
struct link *link_connect(struct loop *loop, const struct link_ops *ops,
			  const struct link_addr *addr,
			  const struct link_handlers *handlers, void *arg, struct why *why);
/* Takes over an accepted wire, in any case. NULL: no memory. */
struct link *link_adopt(struct loop *loop, const struct link_ops *ops,
			struct link_wire *wire, const char *peer,
			const struct link_handlers *handlers, void *arg);

/**
 * link_watch() - begin to judge silence
 * @beat_ns:    send something at least this often
 * @timeout_ns: nothing received for this long is a loss; 0: not judged
 *
 * May be called again to change either.
 */
void link_watch(struct link *link, uint64_t beat_ns, uint64_t timeout_ns);

/* Queues a frame. Returns its checksum, for frame_digest_add(). */
uint64_t link_send(struct link *link, struct link_tx *tx,
		   enum frame_type type, uint64_t epoch);
/* Bytes that wait to be sent, or are being sent. */
uint64_t link_waiting(const struct link *link);
/* Whether pages would have to wait, whichever way they go. */
bool link_full(const struct link *link);
/* Takes back what waits: it comes back, not sent. */
void link_unqueue(struct link *link);
/*
 * Queues a small frame made of a copy of @payload (FRAME_JSON_MAX at most).
 * Allocates: not for use while the guest stands.
 */
void link_send_copy(struct link *link, enum frame_type type, uint64_t epoch,
		    const void *payload, size_t len);
/*
 * Queues BYE with @text, which is cut where it is longer than FRAME_TEXT_MAX. Who leaves
 * does not wait for what was queued before: that comes back, not sent.
 */
void link_send_bye(struct link *link, enum frame_bye_reason reason, const char *text);

/* Shows the frame again that @frame had put off. */
void link_resume(struct link *link);

/* The peer's address. */
const char *link_peer(const struct link *link);
/* Bytes a second that it carries, measured by the transport; 0: not known. */
uint64_t link_rate(const struct link *link);
/* When something was received last, loop_now() time. */
uint64_t link_last_rx(const struct link *link);

/**
 * link_offer() - the accepting side: a way for pages past the connection
 * @timeout_ns: silence that is taken for a loss
 * @offer:      out: what the other side needs for link_join()
 *
 * From here on it may be joined at any time, until the connection ends. Where it is, PAGES
 * frames come as before. Errors, with a sentence in @why: EOPNOTSUPP, the transport has no
 * such thing; whatever keeps it from having it here. Then nothing has changed.
 */
int link_offer(struct link *link, uint64_t timeout_ns, struct fabric_offer *offer,
	       struct why *why);
/**
 * link_join() - the connecting side: takes what was offered
 * @done: called once, never from within and never after link_close(): NULL, it is joined;
 *        or a sentence, and all goes over the connection as before
 *
 * Errors as link_offer(); @done is not called then.
 */
int link_join(struct link *link, uint64_t timeout_ns, const struct fabric_offer *offer,
	      void (*done)(void *arg, const char *why), void *arg, struct why *why);
/*
 * Joined: pages will be sent from there; the memory stays until the link is closed. Only
 * such pages go past the connection. Pins it, so it takes its time. Nothing happens where
 * it is not joined. Errors: with a sentence, and all goes over the connection from here on.
 */
int link_lend(struct link *link, void *mem, size_t bytes, struct why *why);
/* Whether there is such a way, and joined; @bytes: that were sent by it so far. */
bool link_direct(const struct link *link, uint64_t *bytes);
/* Why there is none, for whoever asks later: a sentence of the owner's, or of the transport. */
void link_keep_why(struct link *link, const char *why);
const char *link_why(const struct link *link);

/*
 * The accepting side: the link may have up to @nr streams from now on; @token: what the other
 * side needs for that, FRAME_TOKEN_BYTES. Returns 0 or -errno.
 */
int link_offer_lanes(struct link *link, unsigned int nr, uint8_t *token);
/*
 * Another connection wants to be one, by @frame, a JOIN. False: it may not. Else it belongs
 * to @link, whose owner gets its frames.
 */
bool link_adopt_lane(struct link *link, struct link *lane, const struct frame *frame);
/**
 * link_dial_lanes() - the connecting side: makes streams, that PAGES frames go by
 * @addr:  of the other side; stays as long as the link
 * @nr:    1 to LINK_LANES_MAX
 * @token: what it has offered
 * @done:  called once, maybe from within, but not after link_close(): NULL, or a sentence:
 *         there are none then
 *
 * Returns false where there is no memory; @done is not called then.
 */
bool link_dial_lanes(struct link *link, const struct link_addr *addr, unsigned int nr,
		     const uint8_t *token, void (*done)(void *arg, const char *why), void *arg);
/* How many streams pages go by; 0: they go over the link itself. */
unsigned int link_lanes(const struct link *link);
/* It belongs to somebody else from here on. */
void link_give_to(struct link *link, const struct link_handlers *handlers, void *arg);

/* Ends the connection now. @closed follows, later or from within. */
void link_close(struct link *link);
/*
 * Ends the connection as soon as what is queued has been sent and the other side has
 * closed, within 2 s. What comes meanwhile is dropped; nothing more can be sent.
 */
void link_close_soon(struct link *link);

#endif /* VMREPL_LINK_H */
