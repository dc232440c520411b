/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ramstream: the RAM part of QEMU's migration stream, read and written.
 *
 * Reading: a whole stream comes in, in pieces of any size; the pages of small
 * blocks (ramblock.h) go into their copies, those of big blocks are skipped,
 * and what follows RAM is ignored. The bytes may be anything: nothing is read
 * beyond what was given, nothing is written outside of the copies.
 *
 * Source of the format: QEMU, migration/ram.c and migration/savevm.c, 7.2 to
 * 10.0, without xbzrle, compression, multifd and postcopy.
 */
#ifndef AGENT_RAMSTREAM_H
#define AGENT_RAMSTREAM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "ramblock.h"
#include "why.h"

/* Marks of a migration stream. */
#define RAMSTREAM_MAGIC		0x5145564du	/* "QEVM" */
#define RAMSTREAM_VERSION	3u
#define RAMSTREAM_EOF		0x00
#define RAMSTREAM_START		0x01
#define RAMSTREAM_PART		0x02
#define RAMSTREAM_END		0x03
#define RAMSTREAM_FULL		0x04
#define RAMSTREAM_SUBSECTION	0x05
#define RAMSTREAM_VMDESC	0x06
#define RAMSTREAM_CONFIG	0x07
#define RAMSTREAM_COMMAND	0x08
#define RAMSTREAM_FOOTER	0x7e

struct ramstream;

/**
 * ramstream_new - start at the first byte of a stream
 * @t:		table whose small blocks have zeroed copies; stays the caller's
 *
 * NULL where there is no memory.
 */
struct ramstream *ramstream_new(struct ramblock_table *t);
void ramstream_free(struct ramstream *s);

/**
 * ramstream_feed - the next bytes
 *
 * A small block that QEMU does not migrate loses its copy. Returns 1 when every
 * page of every small block has been seen at least once (what comes later is
 * still stored); 0 more is needed; -EPROTO, and then on every further call.
 */
int ramstream_feed(struct ramstream *s, const void *buf, size_t len, struct why *why);

/**
 * ramstream_write - a complete "ram" section with all blocks that have a copy
 *
 * Nothing where no block has one. Errors are left to ferror(@f).
 */
void ramstream_write(FILE *f, const struct ramblock_table *t);

#endif /* AGENT_RAMSTREAM_H */
