// SPDX-License-Identifier: GPL-2.0
/*
 * Texts of QEMU's monitor into a table of RAM blocks, and lookups in it. The
 * texts are what QEMU 7.2 (pc) and 10.0 (q35) print; lines of i/o regions and
 * unused flat views are left out but for a few.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "mtree.h"
#include "ramblock.h"
#include "tap.h"
#include "vmrepl.h"

static const char blocks_72[] =
"              Block Name    PSize              Offset               Used              Total\r\n"
"                    ram0    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000\r\n"
"   0000:00:02.0/vga.vram    4 KiB  0x0000000008080000 0x0000000001000000 0x0000000001000000\r\n"
"    /rom@etc/acpi/tables    4 KiB  0x0000000009100000 0x0000000000020000 0x0000000000200000\r\n"
"                 pc.bios    4 KiB  0x0000000008000000 0x0000000000040000 0x0000000000040000\r\n"
"0000:00:03.0/virtio-net-pci.rom    4 KiB  0x00000000090c0000 0x0000000000040000 0x0000000000040000\r\n"
"0000:00:04.0/virtio-net-pci.rom    2 MiB  0x00000000090c0000 0x0000000000040000 0x0000000000040000\r\n"
"                  pc.rom    4 KiB  0x0000000008040000 0x0000000000020000 0x0000000000020000\r\n"
"                            4 KiB  0x000000000a040000 0x0000000000020000 0x0000000000020000\r\n"
"      /rom@etc/acpi/rsdp    4 KiB  0x0000000009340000 0x0000000000001000 0x0000000000001000\r\n";

static const char mtree_72[] =
"FlatView #0\r\n"
" AS \"I/O\", root: io\r\n"
" Root memory region: io\r\n"
"  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan owner:{dev path=/machine/unattached/device[13]}\r\n"
"\r\n"
"FlatView #1\r\n"
" AS \"memory\", root: system\r\n"
" AS \"cpu-memory-0\", root: system\r\n"
" Root memory region: system\r\n"
"  0000000000000000-000000000009ffff (prio 0, ram): ram0 owner:{obj path=/objects/ram0} KVM\r\n"
"  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem owner:{dev path=/machine/peripheral-anon/device[0]}\r\n"
"  00000000000c0000-00000000000cbfff (prio 0, rom): ram0 @00000000000c0000 owner:{obj path=/objects/ram0} KVM\r\n"
"  00000000000cc000-0000000007ffffff (prio 0, ram): ram0 @00000000000cc000 owner:{obj path=/objects/ram0} KVM\r\n"
"  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram owner:{dev path=/machine/peripheral-anon/device[0]} KVM\r\n"
"  00000000febf0400-00000000febf041f (prio 0, i/o): vga ioports remapped\r\n"
"  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios parent:{obj path=/machine/unattached} KVM\r\n"
"\r\n"
"FlatView #2\r\n"
" AS \"KVM-SMRAM\", root: mem-container-smram\r\n"
" Root memory region: mem-container-smram\r\n"
"  0000000000000000-00000000000bffff (prio 0, ram): ram0 KVM\r\n"
"  00000000000c0000-0000000007ffffff (prio 0, ram): ram0 @00000000000c0000 KVM\r\n"
"\r\n";

static const char blocks_100[] =
"              Block Name    PSize              Offset               Used              Total                HVA  RO\r\n"
"                    ram0    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000 0x00007f2f97fff000  rw\r\n"
"   0000:00:01.0/vga.vram    4 KiB  0x0000000008080000 0x0000000001000000 0x0000000001000000 0x00007f2f96000000  rw\r\n"
"    /rom@etc/acpi/tables    4 KiB  0x00000000090c0000 0x0000000000020000 0x0000000000200000 0x00007f2f95c00000  ro\r\n"
"                 pc.bios    4 KiB  0x0000000008000000 0x0000000000040000 0x0000000000040000 0x00007f2fa4800000  ro\r\n"
"\r\n";

#define MiB	(1ull << 20)

static void test_blocks(void)
{
	struct ramblock_table t;
	struct why why;
	int i;

	ramblock_init(&t);
	tap_ok(!ramblock_parse_blocks(&t, blocks_72, &why), "7.2: blocks");
	tap_ok(t.nr == 8, "the block without a name is left out");
	i = ramblock_index(&t, "0000:00:02.0/vga.vram");
	tap_ok(i == 1 && t.blocks[i].size == 16 * MiB && !t.blocks[i].hva, "a block: size");
	i = ramblock_index(&t, "/rom@etc/acpi/tables");
	tap_ok(i == 2 && t.blocks[i].size == 0x20000 && t.blocks[i].max == 0x200000,
	       "a block that can be resized");
	tap_ok(ramblock_index(&t, "0000:00:04.0/virtio-net-pci.rom") == 5,
	       "a name longer than its column");
	ramblock_free(&t);

	tap_ok(!ramblock_parse_blocks(&t, blocks_100, &why) && t.nr == 4 &&
	       t.blocks[0].hva == 0x7f2f97fff000 && t.blocks[3].hva == 0x7f2fa4800000,
	       "10.0: blocks with addresses");
	ramblock_free(&t);
}

static void test_bad_blocks(void)
{
	static const char *const texts[] = {
		"",
		"unknown command: 'info ramblock'\r\n",
		"   Block Name    PSize   Offset  Used  Total\r\n",
		"   Block Name    PSize   Offset  Used  Total\r\n  ram0  4 KiB\r\n",
		"   Block Name    PSize   Offset  Used  Total\r\n  ram0  4 KiB 0x0 0x1001 0x1001\r\n",
		"   Block Name    PSize   Offset  Used  Total\r\n  ram0  4 KiB 0x0 0x0 0x0\r\n",
		"   Block Name\r\n  a  4 KiB 0x0 0x1000 0x1000\r\n  a  4 KiB 0x0 0x1000 0x1000\r\n",
		"   Block Name\r\n 0x0 0x1000 0x1000\r\n 0x0 0x1000 0x1000\r\n",
	};
	char cut[sizeof(blocks_100)];
	bool good = true;
	struct ramblock_table t;
	struct why why;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		ramblock_init(&t);
		tap_ok(ramblock_parse_blocks(&t, texts[i], &why) == -EPROTO, "bad text %zu", i);
		ramblock_free(&t);
	}
	for (size_t n = 0; n < sizeof(blocks_100); n++) {
		memcpy(cut, blocks_100, n);
		cut[n] = '\0';
		ramblock_init(&t);
		if (!ramblock_parse_blocks(&t, cut, &why) && (!t.nr || t.nr > 4))
			good = false;
		for (unsigned int i = 0; i < t.nr; i++)
			if (!t.blocks[i].size || t.blocks[i].size % RAMBLOCK_PAGE)
				good = false;
		ramblock_free(&t);
	}
	tap_ok(good, "cut at every byte");
}

static void test_maps(void)
{
	char cut[sizeof(mtree_72)];
	const struct mtree_map *maps;
	struct mtree tree;
	bool good = true;
	struct why why;
	unsigned int nr;

	tap_ok(!mtree_parse(&tree, mtree_72, &why) && tree.nr == 7, "mtree: RAM and ROM lines");
	maps = tree.maps;
	nr = tree.nr;
	tap_ok(nr == 7 && maps[1].start == 0xc0000 && maps[1].last == 0xcbfff &&
	       maps[1].offset == 0xc0000 && !strcmp(maps[1].name, "ram0") && !maps[1].smm,
	       "a line with an offset");
	tap_ok(nr == 7 && !strcmp(maps[3].name, "vga.vram") && !maps[3].offset &&
	       !strcmp(maps[3].owner, "dev path=/machine/peripheral-anon/device[0]"),
	       "a line with an owner");
	tap_ok(nr == 7 && !strcmp(maps[4].name, "pc.bios"), "a line with a parent");
	tap_ok(nr == 7 && maps[6].smm && !strcmp(maps[6].name, "ram0") &&
	       maps[6].offset == 0xc0000, "the view of SMM");
	mtree_free(&tree);
	tap_ok(mtree_parse(&tree, "", &why) == -EPROTO, "no text");
	tap_ok(mtree_parse(&tree, "FlatView #0\n AS \"memory\", root: system\n"
			   "  0000000000000000-xyz\n", &why) == -EPROTO, "a bad line");
	for (size_t n = 0; n < sizeof(mtree_72); n++) {
		memcpy(cut, mtree_72, n);
		cut[n] = '\0';
		if (mtree_parse(&tree, cut, &why))
			continue;
		if (!tree.nr || tree.nr > 7)
			good = false;
		mtree_free(&tree);
	}
	tap_ok(good, "cut at every byte");
}

#define RAM	0x7f0000200000ull
#define VRAM	0x7f0010000000ull
#define BIOS	0x7f0020000000ull

static const struct vmrepl_slot slots[] = {
	{ .gpa = 0, .hva = RAM, .bytes = 0xa0000 },
	{ .gpa = 0xc0000, .hva = RAM + 0xc0000, .bytes = 0xc000, .flags = VMREPL_SLOT_READONLY },
	{ .gpa = 0xcc000, .hva = RAM + 0xcc000, .bytes = 128 * MiB - 0xcc000 },
	{ .gpa = 0xfd000000, .hva = VRAM, .bytes = 16 * MiB },
	{ .gpa = 0xfffc0000, .hva = BIOS, .bytes = 0x40000, .flags = VMREPL_SLOT_READONLY },
	{ .as_id = 1, .gpa = 0, .hva = RAM, .bytes = 0xc0000 },
	{ .as_id = 1, .gpa = 0xc0000, .hva = RAM + 0xc0000, .bytes = 128 * MiB - 0xc0000 },
};

#define NR_SLOTS	(sizeof(slots) / sizeof(slots[0]))

static bool at(struct ramblock_table *t, uint64_t hva, const char *name, uint64_t page)
{
	unsigned int block;
	uint64_t is;

	return ramblock_find(t, hva, &block, &is) && is == page &&
	       !strcmp(t->blocks[block].name, name);
}

static void test_place(void)
{
	struct vmrepl_slot moved[NR_SLOTS];
	struct ramblock_table t;
	struct mtree tree;
	unsigned int block;
	struct why why;
	uint64_t page;

	ramblock_init(&t);
	if (ramblock_parse_blocks(&t, blocks_72, &why) ||
	    mtree_parse(&tree, mtree_72, &why))
		tap_die("%s", why.text);
	tap_ok(!ramblock_find(&t, RAM, &block, &page), "nothing is found before");
	tap_ok(!ramblock_place_tree(&t, &tree, slots, NR_SLOTS, &why), "place the slots");
	tap_ok(t.blocks[0].hva == RAM && t.blocks[1].hva == VRAM &&
	       t.blocks[ramblock_index(&t, "pc.bios")].hva == BIOS, "addresses of blocks");
	tap_ok(at(&t, RAM, "ram0", 0) && at(&t, RAM + 0xa0000, "ram0", 0xa0) &&
	       at(&t, RAM + 128 * MiB - 1, "ram0", 128 * 256 - 1), "look up RAM");
	tap_ok(at(&t, VRAM + 4096, "0000:00:02.0/vga.vram", 1) &&
	       at(&t, BIOS + 0x3ffff, "pc.bios", 0x3f), "look up small blocks");
	tap_ok(!ramblock_find(&t, RAM - 1, &block, &page) &&
	       !ramblock_find(&t, RAM + 128 * MiB, &block, &page) &&
	       !ramblock_find(&t, VRAM + 16 * MiB, &block, &page) &&
	       !ramblock_find(&t, 0, &block, &page) &&
	       !ramblock_find(&t, UINT64_MAX, &block, &page), "look up what is no block");
	tap_ok(!ramblock_place_tree(&t, NULL, slots, NR_SLOTS, &why),
	       "a second time nothing has to be read");

	memcpy(moved, slots, sizeof(moved));
	moved[3].hva += 32 * MiB;
	tap_ok(ramblock_place_tree(&t, &tree, moved, NR_SLOTS, &why) == -ESTALE,
	       "a block that has moved");
	memcpy(moved, slots, sizeof(moved));
	moved[3].gpa = 0xe0000000;
	moved[3].hva += 32 * MiB;
	tap_ok(ramblock_place_tree(&t, &tree, moved, NR_SLOTS, &why) == -ESTALE,
	       "a slot that mtree does not have");
	ramblock_free(&t);

	if (ramblock_parse_blocks(&t, blocks_72, &why))
		tap_die("%s", why.text);
	strcpy(tree.maps[3].name, "virtio-net-pci.rom");
	tap_ok(ramblock_place_tree(&t, &tree, slots, NR_SLOTS, &why) == -ENOENT,
	       "a region that may be two blocks");
	strcpy(tree.maps[3].name, "ram");
	tap_ok(ramblock_place_tree(&t, &tree, slots, NR_SLOTS, &why) == -ENOENT,
	       "a region that is no block");
	ramblock_free(&t);
	mtree_free(&tree);
}

static void fill(struct ramblock_table *t, uint64_t ram, uint64_t rom, uint64_t max)
{
	int i;

	ramblock_init(t);
	i = ramblock_add(t, "ram0", ram, true);
	t->blocks[i].hva = RAM;
	i = ramblock_add(t, "rom", rom, false);
	t->blocks[i].max = max;
	t->blocks[i].hva = BIOS;
}

static void test_match(void)
{
	struct ramblock_table a, b;
	struct why why;

	fill(&a, MiB, 4096, 4096);
	a.blocks[0].hva = 0;
	a.blocks[1].hva = 0;
	fill(&b, MiB, 4096, 4096);
	tap_ok(!ramblock_match(&a, &b, &why) && a.blocks[0].hva == RAM &&
	       !a.blocks[1].hva, "same blocks");
	ramblock_free(&b);
	fill(&b, 2 * MiB, 4096, 4096);
	tap_ok(ramblock_match(&a, &b, &why) == -EINVAL && strstr(why.text, "2 MiB"),
	       "other RAM size: %s", why.text);
	ramblock_free(&b);
	fill(&b, MiB, 8192, 8192);
	tap_ok(ramblock_match(&a, &b, &why) == -EINVAL, "other ROM size: %s", why.text);
	ramblock_free(&b);
	fill(&b, MiB, 8192, 16384);
	tap_ok(!ramblock_match(&a, &b, &why), "other ROM size that QEMU can change");
	ramblock_add(&b, "more", 4096, false);
	tap_ok(ramblock_match(&a, &b, &why) == -EINVAL, "one more there: %s", why.text);
	ramblock_add(&a, "more", 4096, true);
	tap_ok(ramblock_match(&a, &b, &why) == -EINVAL, "of another kind: %s", why.text);
	ramblock_free(&b);
	fill(&b, MiB, 4096, 4096);
	tap_ok(ramblock_match(&a, &b, &why) == -EINVAL, "one less there: %s", why.text);
	ramblock_free(&a);
	ramblock_free(&b);
}

static void test_add(void)
{
	char name[RAMBLOCK_NAME_LEN + 1];
	struct ramblock_table t;
	bool good = true;

	ramblock_init(&t);
	memset(name, 'x', sizeof(name));
	name[RAMBLOCK_NAME_LEN] = '\0';
	tap_ok(ramblock_add(&t, name, 4096, false) == -EINVAL, "name too long");
	name[RAMBLOCK_NAME_LEN - 1] = '\0';
	tap_ok(ramblock_add(&t, name, 4096, false) == 0, "longest name");
	tap_ok(ramblock_add(&t, "", 4096, false) == -EINVAL, "no name");
	tap_ok(ramblock_add(&t, "a", 0, false) == -EINVAL, "no size");
	tap_ok(ramblock_add(&t, "a", 4097, false) == -EINVAL, "odd size");
	tap_ok(ramblock_add(&t, "a", UINT64_MAX & ~4095ull, false) == -EINVAL, "huge size");
	for (int i = 1; i < RAMBLOCK_MAX; i++) {
		snprintf(name, sizeof(name), "b%d", i);
		if (ramblock_add(&t, name, 4096, false) != i)
			good = false;
	}
	tap_ok(good && ramblock_add(&t, "a", 4096, false) == -ENOSPC, "table full");
	tap_ok(!ramblock_alloc_copies(&t) && t.blocks[9].copy[4095] == 0, "copies are zero");
	ramblock_free(&t);
}

int main(void)
{
	printf("TAP version 13\n");
	test_blocks();
	test_bad_blocks();
	test_maps();
	test_place();
	test_match();
	test_add();
	return tap_done();
}
