/* SPDX-License-Identifier: GPL-2.0 */
/*
 * frame: what travels between primary and standby. docs/wire.md is the
 * specification; this is the code for it.
 *
 * All numbers are little endian. No function here keeps state or touches
 * anything but its arguments, so that any buffer can be thrown at the parser.
 */
#ifndef VMREPL_FRAME_H
#define VMREPL_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define FRAME_MAGIC		0x4c504d56u	/* "VMPL" in memory */
#define FRAME_VERSION		5u
#define FRAME_PAGE_SIZE		4096u

enum frame_type {
	FRAME_HELLO = 1,	/* primary: JSON, who I am and what I have */
	FRAME_ACCEPT,		/* standby: JSON, the answer */
	FRAME_REFUSE,		/* either: a sentence; the connection ends */
	FRAME_EPOCH_BEGIN,	/* primary: struct frame_begin */
	FRAME_PAGES,		/* primary: struct frame_pages, descriptors, data */
	FRAME_STATE,		/* primary: struct frame_state, then a piece of device state */
	FRAME_EPOCH_END,	/* primary: struct frame_end */
	FRAME_ACK,		/* standby: the epoch is whole and here */
	FRAME_HEARTBEAT,	/* either: nothing */
	FRAME_BYE,		/* either: struct frame_bye, then a sentence */
	FRAME_BYE_ACK,		/* the answer to it */
	FRAME_SUMS,		/* standby: struct frame_sums, sums of pages that it holds */
	FRAME_JOIN,		/* either: struct frame_join, this is a stream of pages */
	FRAME_TYPES
};

/**
 * struct frame_header - in front of every frame
 * @magic:    FRAME_MAGIC
 * @version:  FRAME_VERSION of the sender
 * @type:     enum frame_type
 * @length:   bytes that follow the header
 * @pad:      0; on the way another field, see placed.h
 * @epoch:    the epoch it belongs to; 0 where it belongs to none
 * @seq:      0, 1, 2... for each direction of each connection
 * @checksum: XXH64 of the header with this field 0, then the payload
 */
struct frame_header {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t length;
	uint32_t pad;
	uint64_t epoch;
	uint64_t seq;
	uint64_t checksum;
};

/*
 * A round of the first sync, made while the guest ran: applied as it comes,
 * never something to promote from. It ends the use of any checkpoint before.
 */
#define FRAME_BEGIN_LIVE	(1u << 0)
/* Its PAGES come by streams, see FRAME_JOIN. */
#define FRAME_BEGIN_STREAMS	(1u << 1)

/**
 * struct frame_begin - payload of FRAME_EPOCH_BEGIN
 * @flags: FRAME_BEGIN_*
 * @pad:   0
 */
struct frame_begin {
	uint32_t flags;
	uint32_t pad;
};

/* The most pages one FRAME_PAGES can name. */
#define FRAME_PAGES_MAX		256u

/**
 * struct frame_pages - head of FRAME_PAGES
 * @nr:    descriptors that follow, 1 to FRAME_PAGES_MAX
 * @bytes: of data after the last one, in their order and without gaps
 */
struct frame_pages {
	uint32_t nr;
	uint32_t bytes;
};

enum frame_page_kind {
	FRAME_PAGE_RAW,		/* the page, 4096 bytes */
	FRAME_PAGE_ZERO,	/* zeros, no data */
	FRAME_PAGE_LZ4,		/* an LZ4 block of the page */
	FRAME_PAGE_DELTA,	/* the same of its XOR with what the standby holds of it */
	FRAME_PAGE_KINDS
};

/**
 * struct frame_page - one descriptor
 * @block: index into the blocks of HELLO
 * @kind:  enum frame_page_kind
 * @bytes: of data: 4096, 0, or 1 to 4095
 * @page:  number of the 4096-byte page in that block
 */
struct frame_page {
	uint32_t block;
	uint16_t kind;
	uint16_t bytes;
	uint64_t page;
};

/* How a piece of device state is sent. */
enum frame_state_kind {
	FRAME_STATE_RAW,	/* the data is the piece */
	FRAME_STATE_LZ4,	/* the piece as one LZ4 block, shorter than it */
	/*
	 * The same of the piece XORed with the bytes at its place in the device state of
	 * the checkpoint before, which has that many.
	 */
	FRAME_STATE_DELTA,
	FRAME_STATE_KINDS
};

/**
 * struct frame_state - head of FRAME_STATE; pieces follow each other
 * @kind:  enum frame_state_kind
 * @bytes: of the piece, 1 to FRAME_STATE_MAX
 */
struct frame_state {
	uint32_t kind;
	uint32_t bytes;
};

/*
 * Somebody else has stopped the guest: it stood before the checkpoint and stands
 * after it, and is not to be started by a standby that takes over.
 */
#define FRAME_END_STANDS	(1u << 0)
/*
 * The epoch is torn: a page in it is not as it was at the checkpoint. It has come
 * whole, but is to be dropped, and ACK says that it was; there is no state in it.
 */
#define FRAME_END_TORN		(1u << 1)

/**
 * struct frame_end - payload of FRAME_EPOCH_END: what the epoch was
 * @pages:       descriptors in all its FRAME_PAGES
 * @zero_pages:  those of FRAME_PAGE_ZERO among them
 * @state_bytes: of device state, the sum of all @bytes of its FRAME_STATE
 * @digest:      struct frame_digest of the frames from EPOCH_BEGIN on, without
 *               this one
 * @flags:       FRAME_END_*
 * @pad:         0
 */
struct frame_end {
	uint64_t pages;
	uint64_t zero_pages;
	uint64_t state_bytes;
	uint64_t digest;
	uint32_t flags;
	uint32_t pad;
};

enum frame_bye_reason {
	FRAME_BYE_STOP = 1,	/* the sender's agent was stopped */
	FRAME_BYE_VM_ENDED,	/* the sender's VM ended by itself */
	FRAME_BYE_ERROR,	/* the sender cannot go on; the sentence says why */
	FRAME_BYE_RESYNC,	/* the sender starts over on a new connection */
	FRAME_BYE_REASONS
};

/**
 * struct frame_bye - head of FRAME_BYE: the sender ends protection in order
 * @reason: enum frame_bye_reason
 * @pad:    0
 *
 * A standby that gets or sends it has no right to promote any more.
 */
struct frame_bye {
	uint32_t reason;
	uint32_t pad;
};

/* The most pages one FRAME_SUMS can tell of: 1 MiB. */
#define FRAME_SUMS_MAX		256u

/**
 * struct frame_sums - head of FRAME_SUMS
 * @block: index into the blocks of HELLO, one of guest RAM
 * @nr:    sums that follow, at most FRAME_SUMS_MAX; 0: that was all, @block and @page are 0
 * @page:  number of the first page in that block
 */
struct frame_sums {
	uint32_t block;
	uint32_t nr;
	uint64_t page;
};

/**
 * struct frame_sum - of one page (pagesums.h)
 * @low, @high: of 128 bits; both 0: nothing is told of this page
 */
struct frame_sum {
	uint64_t low;
	uint64_t high;
};

#define FRAME_TOKEN_BYTES	16u

/**
 * struct frame_join - payload of FRAME_JOIN: the first frame of a connection that is a
 *                     stream of another one, and the answer to it
 * @token: which the other one's ACCEPT had
 */
struct frame_join {
	uint8_t token[FRAME_TOKEN_BYTES];
};

#define FRAME_TEXT_MAX		1024u		/* a sentence */
#define FRAME_JSON_MAX		65536u		/* HELLO, ACCEPT */
#define FRAME_STATE_MAX		(1u << 20)	/* one piece of state */
#define FRAME_PAYLOAD_MAX	(sizeof(struct frame_pages) + \
				 FRAME_PAGES_MAX * (sizeof(struct frame_page) + FRAME_PAGE_SIZE))
#define FRAME_MAX		(sizeof(struct frame_header) + FRAME_PAYLOAD_MAX)

/**
 * struct frame - a frame that was found whole and valid
 * @type:    enum frame_type
 * @length:  payload bytes
 * @epoch:   see struct frame_header
 * @payload: in the buffer that was parsed; not aligned
 * @checksum: the frame's, for frame_digest_add()
 * @landing: what @payload is in, for who wants to keep it there; NULL: it cannot be kept
 */
struct landing;
struct frame {
	enum frame_type type;
	uint32_t length;
	uint64_t epoch;
	const uint8_t *payload;
	uint64_t checksum;
	struct landing *landing;
};

/**
 * frame_parse() - look for one frame at the front of a buffer
 * @buf:  what came
 * @len:  bytes of it
 * @seq:  the number that the next frame must have
 * @out:  the frame, where there is one
 * @why:  out: what is wrong, where something is; a static string
 *
 * Checks all that can be checked without knowing the VM: magic, version, type,
 * length, order, checksum and the shape of the payload (counts that fit its
 * length, flags that exist, pads of 0). What is wrong is found as early as its
 * bytes are there, so a wrong length is never waited for.
 *
 * Returns the bytes of the whole frame; 0 where more must come first; -EPROTO
 * where it is no frame; -EPROTONOSUPPORT where it is one of another version.
 */
ssize_t frame_parse(const void *buf, size_t len, uint64_t seq,
		    struct frame *out, const char **why);

/**
 * frame_seal() - fill in a header
 * @head:  @type, @epoch, @seq as given; the rest is filled in
 * @iov:   the payload
 * @n:     parts of it
 *
 * Returns the checksum, for frame_digest_add().
 */
uint64_t frame_seal(struct frame_header *head, enum frame_type type,
		    uint64_t epoch, uint64_t seq, const struct iovec *iov, int n);

/**
 * struct frame_digest - of an epoch's frames so far; all zeros at first
 * @streams: it has FRAME_BEGIN_STREAMS, and its PAGES may come in any order
 * @order:   of the others, or of all
 * @pages:   of them
 */
struct frame_digest {
	bool streams;
	uint64_t order;
	uint64_t pages;
};

/* The next frame, by its checksum. */
void frame_digest_add(struct frame_digest *digest, enum frame_type type, uint64_t checksum);
/* What EPOCH_END has, of all before it. */
uint64_t frame_digest_value(const struct frame_digest *digest);

/* "PAGES" and so on, for messages. */
const char *frame_name(enum frame_type type);

/* Payloads, out of a frame that frame_parse() passed. */
struct frame_begin frame_get_begin(const struct frame *frame);
struct frame_pages frame_get_pages(const struct frame *frame);
struct frame_page frame_get_page(const struct frame *frame, uint32_t i);
/* The data of all its pages, one behind the other. */
const uint8_t *frame_get_data(const struct frame *frame);
struct frame_state frame_get_state(const struct frame *frame);
struct frame_end frame_get_end(const struct frame *frame);
struct frame_bye frame_get_bye(const struct frame *frame);
struct frame_join frame_get_join(const struct frame *frame);
struct frame_sums frame_get_sums(const struct frame *frame);
struct frame_sum frame_get_sum(const struct frame *frame, uint32_t i);
/* The sentence of REFUSE or BYE, made printable; @len of room in @text. */
void frame_get_text(const struct frame *frame, char *text, size_t len);

#endif /* VMREPL_FRAME_H */
