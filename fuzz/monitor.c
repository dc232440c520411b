// SPDX-License-Identifier: GPL-2.0
/* monitor: texts of QEMU's human monitor, `info mtree -f -o` and `info ramblock`. */
#include "fuzz.h"
#include "mtree.h"
#include "ramblock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size);
	struct why why = { .text = "" };
	struct ramblock_table table;
	struct mtree tree;
	unsigned int i;

	if (!mtree_parse(&tree, text, &why)) {
		for (i = 0; i < tree.nr; i++)
			MUST(tree.maps[i].start <= tree.maps[i].last &&
			     strlen(tree.maps[i].name) < MTREE_NAME_LEN &&
			     strlen(tree.maps[i].owner) < MTREE_NAME_LEN);
		mtree_free(&tree);
	} else {
		MUST(why.text[0]);
	}
	ramblock_init(&table);
	why.text[0] = '\0';
	if (!ramblock_parse_blocks(&table, text, &why)) {
		MUST(table.nr <= RAMBLOCK_MAX);
		for (i = 0; i < table.nr; i++)
			MUST(table.blocks[i].size && table.blocks[i].size % RAMBLOCK_PAGE == 0 &&
			     strlen(table.blocks[i].name) < RAMBLOCK_NAME_LEN);
	} else {
		MUST(why.text[0]);
	}
	ramblock_free(&table);
	free(text);
	return 0;
}
