/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ramblock: the RAM blocks of a QEMU.
 *
 * A block is QEMU's unit of guest-visible memory: guest RAM, a BIOS, an option
 * ROM, video RAM. Its name is the same on both hosts, so (block, offset) is how
 * a page is named on the wire; each side turns it into an address of its own.
 *
 * "Big" blocks back guest RAM (a memory backend or the machine's default RAM).
 * On the standby they are written straight into QEMU. All others are small:
 * the standby keeps a copy of them and gives it to QEMU at promotion
 * (devstate.h).
 */
#ifndef AGENT_RAMBLOCK_H
#define AGENT_RAMBLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "qmp.h"
#include "why.h"

struct mtree;
struct vmrepl_slot;

#define RAMBLOCK_NAME_LEN	256
#define RAMBLOCK_MAX		256
#define RAMBLOCK_PAGE		4096u

/**
 * struct ramblock - one block
 * @name:	QEMU's idstr, ends with NUL
 * @size:	used length in bytes, a multiple of RAMBLOCK_PAGE
 * @max:	length it may be resized to by QEMU; @size where it may not
 * @hva:	address of its first byte in that QEMU; 0 where it is not known,
 *		which is so for small blocks that the guest does not see now
 * @big:	backs guest RAM
 * @prealloc:	(big) its owner wants all of it in memory, touched or not
 * @copy:	(small) its content, @size bytes, page aligned; or NULL
 */
struct ramblock {
	char name[RAMBLOCK_NAME_LEN];
	uint64_t size;
	uint64_t max;
	uint64_t hva;
	bool big;
	bool prealloc;
	uint8_t *copy;
};

/**
 * struct ramblock_table - the blocks of one QEMU
 * @nr:		entries in @blocks
 * @blocks:	in QEMU's own order; the index is stable for the table's life
 * @nr_placed, @placed, @last: private: blocks with an address, sorted, for lookup
 */
struct ramblock_table {
	unsigned int nr;
	struct ramblock *blocks;
	unsigned int nr_placed;
	unsigned int *placed;
	unsigned int last;
};

/* Whether a page, RAMBLOCK_PAGE bytes, holds zeros only. */
static inline bool ramblock_page_is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, RAMBLOCK_PAGE - 1);
}

/* Makes an empty table of @t. */
void ramblock_init(struct ramblock_table *t);

/* Frees everything in @t, the copies too. */
void ramblock_free(struct ramblock_table *t);

/**
 * ramblock_read - names, sizes, big; addresses as far as QEMU tells
 *
 * Needs no module. For the primary before it attaches, and for the standby:
 * there the addresses of all big blocks are known afterwards (from `info
 * ramblock` where it has them, else gpa2hva; QEMU may be paused).
 *
 * Errors: EREMOTEIO/EPIPE/ETIMEDOUT as qmp_command(); EPROTO a text that is not
 * understood; ENOENT a big block whose address cannot be found.
 */
int ramblock_read(struct ramblock_table *t, struct qmp *q, struct why *why);

/**
 * ramblock_place - addresses of all blocks the guest can write
 * @slots:	the module's answer to VMREPL_LAYOUT
 * @nr:		their number
 *
 * To be called after every VMREPL_LAYOUT. Reads `info mtree -f` where it has to.
 * Afterwards every memslot belongs to a block. A block keeps the address it had
 * even if the guest does not see it at the moment: a block does not move.
 *
 * Errors as ramblock_read(); ENOENT a memslot that belongs to no block: @why
 * names it; ESTALE mtree and slots disagree because the layout changed in
 * between: VMREPL_LAYOUT and then again (not more than a few times).
 */
int ramblock_place(struct ramblock_table *t, struct qmp *q, const struct vmrepl_slot *slots,
		   unsigned int nr, struct why *why);

/**
 * ramblock_find - whose page is at an address?
 * @hva:	address in QEMU
 * @block:	gets the index in @blocks
 * @page:	gets the page's number in the block
 *
 * Returns false where it is in no known block. Fast (the last hit first, then a
 * binary search); allocates nothing.
 */
bool ramblock_find(struct ramblock_table *t, uint64_t hva, unsigned int *block,
		   uint64_t *page);

/* Index of a block by name, or -1. */
int ramblock_index(const struct ramblock_table *t, const char *name);

/**
 * ramblock_add - put a block into a table (the standby, from the primary's list)
 * @size:	bytes, a multiple of RAMBLOCK_PAGE, not 0
 *
 * Returns its index; -EINVAL bad name or size, or there already; -ENOSPC more
 * than RAMBLOCK_MAX; -ENOMEM.
 */
int ramblock_add(struct ramblock_table *t, const char *name, uint64_t size, bool big);

/**
 * ramblock_match - do the primary's blocks fit this standby?
 * @theirs:	the primary's list (names, sizes, big); on success gets the
 *		addresses (@hva) of our big blocks
 * @ours:	of ramblock_read() on the standby's QEMU
 *
 * Every big block must be on both sides with the same size. A small block may
 * have another size (firmware of another build: QEMU resizes it if it can),
 * but must exist. Errors: EINVAL with the sentence in @why.
 */
int ramblock_match(struct ramblock_table *theirs, const struct ramblock_table *ours,
		   struct why *why);

/**
 * ramblock_alloc_copies - zeroed copies for all small blocks
 *
 * Memory is used only for what is written. Errors: ENOMEM.
 */
int ramblock_alloc_copies(struct ramblock_table *t);

/* Frees the copy of one block; of all small blocks. */
void ramblock_free_copy(struct ramblock *b);
void ramblock_free_copies(struct ramblock_table *t);

/*
 * The parts behind it, for tests: a text as the human monitor prints it.
 */
int ramblock_parse_blocks(struct ramblock_table *t, const char *text, struct why *why);

/**
 * ramblock_place_tree - the part of ramblock_place() after the text was read
 * @tree:	may be NULL where no slot needs it
 */
int ramblock_place_tree(struct ramblock_table *t, const struct mtree *tree,
			const struct vmrepl_slot *slots, unsigned int nr_slots, struct why *why);

#endif /* AGENT_RAMBLOCK_H */
