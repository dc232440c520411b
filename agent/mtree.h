/* SPDX-License-Identifier: GPL-2.0 */
/*
 * mtree: which memory region is where in the guest's address space, as QEMU's
 * `info mtree -f -o` tells.
 */
#ifndef AGENT_MTREE_H
#define AGENT_MTREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qmp.h"
#include "why.h"

#define MTREE_NAME_LEN	256

/**
 * struct mtree_map - one line of a flat view: gpa -> region + offset
 * @start:	first guest physical address
 * @last:	last one
 * @offset:	offset of @start in the region
 * @smm:	in the view of SMM, not in that of system memory
 * @name:	region's name (not the RAM block's: PCI blocks have a longer one)
 * @owner:	what `-o` says of the owner, or empty
 */
struct mtree_map {
	uint64_t start;
	uint64_t last;
	uint64_t offset;
	bool smm;
	char name[MTREE_NAME_LEN];
	char owner[MTREE_NAME_LEN];
};

/**
 * struct mtree - the RAM and ROM lines of the views that vCPUs use
 * @maps:	to be freed with mtree_free()
 * @nr:		their number
 */
struct mtree {
	struct mtree_map *maps;
	unsigned int nr;
};

/**
 * mtree_read - ask QEMU
 *
 * Errors as qmp_command(); EPROTO a text that is not understood; ENOMEM.
 */
int mtree_read(struct mtree *tree, struct qmp *q, struct why *why);

/* The parser behind it, for tests. */
int mtree_parse(struct mtree *tree, const char *text, struct why *why);

void mtree_free(struct mtree *tree);

/**
 * mtree_line - the next line of a text of the monitor, without its end
 * @text:	moves on
 * @buf:	gets it, cut
 *
 * Returns false where there is none.
 */
bool mtree_line(const char **text, char *buf, size_t size);

#endif /* AGENT_MTREE_H */
