// SPDX-License-Identifier: GPL-2.0
/*
 * The migration stream that small blocks are captured from, and the one that a
 * standby loads: whole, in pieces, cut at every byte, and with wrong bytes.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "devstate.h"
#include "ramstream.h"
#include "tap.h"

#define PAGE		RAMBLOCK_PAGE
#define BIG		"ram0"
#define ROM		"pc.bios"
#define VRAM		"0000:00:02.0/vga.vram"
#define BIG_PAGES	8
#define ROM_PAGES	2
#define VRAM_PAGES	4

/* A stream under construction. */
struct bytes {
	uint8_t data[256 * 1024];
	size_t len;
};

static struct bytes stream;

static void put(struct bytes *b, const void *data, size_t n)
{
	if (n > sizeof(b->data) - b->len)
		tap_die("the test's buffer is too small");
	memcpy(b->data + b->len, data, n);
	b->len += n;
}

static void put_be(struct bytes *b, uint64_t v, int n)
{
	for (int i = n - 1; i >= 0; i--) {
		uint8_t byte = (uint8_t)(v >> (8 * i));

		put(b, &byte, 1);
	}
}

static void put_name(struct bytes *b, const char *name)
{
	put_be(b, strlen(name), 1);
	put(b, name, strlen(name));
}

static void put_page(struct bytes *b, const char *name, uint64_t nr, uint8_t fill)
{
	uint8_t page[PAGE];

	put_be(b, nr * PAGE | (fill ? 0x08 : 0x02) | (name ? 0 : 0x20), 8);
	if (name)
		put_name(b, name);
	memset(page, fill, sizeof(page));
	put(b, page, fill ? PAGE : 1);
}

static void put_end(struct bytes *b, uint32_t id)
{
	put_be(b, 0x10, 8);
	put_be(b, 0x7e, 1);
	put_be(b, id, 4);
}

/* Where a stream is complete for the small blocks, and where RAM ends. */
static size_t complete, ram_end;

/* As QEMU sends it, with x-ignore-shared or with the big block's pages. */
static void make_stream(struct bytes *b, bool ignore_shared)
{
	static const uint8_t uuid[16] = { 1 };
	const uint32_t id = 2;

	b->len = 0;
	put(b, "QEVM\0\0\0\3", 8);
	put_be(b, 0x07, 1);
	put_be(b, 13, 4);
	put(b, "pc-i440fx-7.2", 13);
	if (ignore_shared) {
		put_be(b, 0x05, 1);
		put_name(b, "configuration/capabilities");
		put_be(b, 1, 4);
		put_be(b, 1, 4);
		put_name(b, "x-ignore-shared");
	}
	put_be(b, 0x05, 1);
	put_name(b, "configuration/target-page-bits");
	put_be(b, 1, 4);
	put_be(b, 12, 4);
	put_be(b, 0x05, 1);
	put_name(b, "configuration/uuid");
	put_be(b, 1, 4);
	put(b, uuid, 16);

	put_be(b, 0x01, 1);
	put_be(b, id, 4);
	put_name(b, "ram");
	put_be(b, 0, 4);
	put_be(b, 4, 4);
	put_be(b, (BIG_PAGES + ROM_PAGES + VRAM_PAGES) * PAGE | 0x04, 8);
	put_name(b, BIG);
	put_be(b, BIG_PAGES * PAGE, 8);
	if (ignore_shared)
		put_be(b, 0, 8);
	put_name(b, VRAM);
	put_be(b, VRAM_PAGES * PAGE, 8);
	if (ignore_shared)
		put_be(b, 0xfd000000, 8);
	put_name(b, ROM);
	put_be(b, ROM_PAGES * PAGE, 8);
	if (ignore_shared)
		put_be(b, 0xfffc0000, 8);
	put_end(b, id);

	put_be(b, 0x02, 1);
	put_be(b, id, 4);
	put_be(b, 0x200, 8);
	if (!ignore_shared) {
		put_page(b, BIG, 0, 0xbb);
		for (int i = 1; i < BIG_PAGES; i++)
			put_page(b, NULL, i, i % 2 ? 0 : 0xbb);
	}
	put_page(b, VRAM, 0, 0x11);
	put_page(b, NULL, 1, 0);
	put_page(b, NULL, 3, 0x13);
	put_end(b, id);
	put_be(b, 0x08, 1);		/* a command with one byte, one without */
	put_be(b, 2, 2);
	put_be(b, 1, 2);
	put_be(b, 0, 1);
	put_be(b, 0x08, 1);
	put_be(b, 12, 2);
	put_be(b, 0, 2);
	put_be(b, 0x02, 1);
	put_be(b, id, 4);
	put_page(b, ROM, 1, 0x21);
	put_page(b, VRAM, 2, 0x12);
	put_page(b, ROM, 0, 0);
	complete = b->len;
	put_end(b, id);

	put_be(b, 0x03, 1);
	put_be(b, id, 4);
	put_page(b, VRAM, 3, 0);	/* written again */
	put_page(b, NULL, 1, 0x31);
	put_end(b, id);
	ram_end = b->len;
	put_be(b, 0x04, 1);
	put(b, "whatever a device says", 22);
}

static void make_table(struct ramblock_table *t)
{
	ramblock_init(t);
	ramblock_add(t, BIG, BIG_PAGES * PAGE, true);
	ramblock_add(t, VRAM, VRAM_PAGES * PAGE, false);
	ramblock_add(t, ROM, ROM_PAGES * PAGE, false);
	if (ramblock_alloc_copies(t))
		tap_die("no memory");
}

static bool filled(const struct ramblock_table *t, int block, int page, uint8_t fill)
{
	const uint8_t *p = t->blocks[block].copy + page * PAGE;

	for (unsigned int i = 0; i < PAGE; i++)
		if (p[i] != fill)
			return false;
	return true;
}

static bool content(const struct ramblock_table *t)
{
	return filled(t, 1, 0, 0x11) && filled(t, 1, 1, 0x31) && filled(t, 1, 2, 0x12) &&
	       filled(t, 1, 3, 0) && filled(t, 2, 0, 0) && filled(t, 2, 1, 0x21) &&
	       !t->blocks[0].copy;
}

/* Feeds in pieces of a size; what the last call returned. */
static int feed(struct ramblock_table *t, const uint8_t *data, size_t len, size_t piece)
{
	struct ramstream *s = ramstream_new(t);
	struct why why;
	int ret = 0;

	if (!s)
		tap_die("no memory");
	for (size_t at = 0; at < len && ret >= 0; at += piece)
		ret = ramstream_feed(s, data + at, len - at < piece ? len - at : piece, &why);
	ramstream_free(s);
	return ret;
}

static void test_read(bool ignore_shared)
{
	static const size_t pieces[] = { 1, 2, 7, 4095, 4096, 4097, sizeof(stream.data) };
	const char *kind = ignore_shared ? "x-ignore-shared" : "with the big block";
	struct ramblock_table t;
	bool good = true;
	size_t n;
	int ret;

	make_stream(&stream, ignore_shared);
	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		make_table(&t);
		if (feed(&t, stream.data, stream.len, pieces[i]) != 1 || !content(&t))
			good = false;
		ramblock_free(&t);
	}
	tap_ok(good, "%s: content is right in pieces of any size", kind);

	good = true;
	for (n = 0; n <= stream.len; n++) {
		make_table(&t);
		ret = feed(&t, stream.data, n, sizeof(stream.data));
		if (ret != (n >= complete))
			good = false;
		if (n >= ram_end && !content(&t))
			good = false;
		ramblock_free(&t);
		/* Inside of pages one byte is like another. */
		if (n > 600 && n + 600 < stream.len && n % 7)
			n += 6;
	}
	tap_ok(good, "%s: a cut stream is never taken for whole", kind);
}

/* Bytes that matter, one wrong at a time. */
static void test_wrong(void)
{
	struct ramblock_table t;
	unsigned int refused = 0;
	bool good = true;
	int ret;

	make_stream(&stream, true);
	for (size_t n = 0; n < stream.len; n++) {
		uint8_t old = stream.data[n];

		for (int bit = 0; bit < 8; bit++) {
			make_table(&t);
			stream.data[n] = old ^ (1u << bit);
			ret = feed(&t, stream.data, stream.len, sizeof(stream.data));
			if (ret != 0 && ret != 1 && ret != -EPROTO)
				good = false;
			if (t.blocks[0].copy)
				good = false;
			refused += ret == -EPROTO;
			ramblock_free(&t);
		}
		stream.data[n] = old;
		if (n > 300 && n % 64 > 20)
			n += 40;
	}
	tap_ok(good && refused > 1000, "every wrong bit is lived with (%u refused)", refused);
}

static bool refuses(size_t at, const void *bytes, size_t len)
{
	struct ramblock_table t;
	bool refused;

	make_stream(&stream, true);
	make_table(&t);
	memcpy(stream.data + at, bytes, len);
	refused = feed(&t, stream.data, stream.len, 100) == -EPROTO;
	ramblock_free(&t);
	return refused;
}

/* Where the first occurrence of some bytes ends. */
static size_t behind(const void *bytes, size_t len)
{
	uint8_t *p;

	make_stream(&stream, true);
	p = memmem(stream.data, stream.len, bytes, len);
	if (!p)
		tap_die("the test does not find its bytes");
	return (size_t)(p - stream.data) + len;
}

static void test_refused(void)
{
	size_t list = behind("\3ram\0\0\0\0\0\0\0\4", 12);
	size_t flush = behind("\0\0\0\0\0\0\2\0", 8);
	struct ramblock_table t;

	tap_ok(refuses(0, "QEVX", 4), "wrong magic");
	tap_ok(refuses(7, "\2", 1), "another version");
	tap_ok(refuses(9, "\377\377\377\377", 4), "a machine name of 4 GiB");
	tap_ok(refuses(list - 1, "\5", 1), "another version of the ram section");
	tap_ok(refuses(list, "\0\0\0\0\0\0\0\4", 8), "an empty list of blocks");
	tap_ok(refuses(list, "\0\0\0\0\0\0\x10\4", 8), "a list shorter than its blocks");
	tap_ok(refuses(list + 9, "XXXX", 4), "an unknown block");
	tap_ok(refuses(list + 8 + 5, "\0\0\0\0\0\1\0\0", 8), "a block of another size");
	tap_ok(refuses(flush - 8, "\0\0\0\0\0\0\0\x40", 8), "xbzrle");
	tap_ok(refuses(flush - 8, "\0\0\0\0\0\0\0\x28", 8), "a page without a block");
	tap_ok(refuses(flush, "\0\0\0\0\0\0\x40\x08", 8), "a page outside of its block");
	tap_ok(refuses(flush, "\377\377\377\377\377\377\360\x08", 8), "a page at the end of the world");

	/* QEMU has a block that it does not migrate. */
	make_stream(&stream, true);
	make_table(&t);
	ramblock_add(&t, "extra", PAGE, false);
	if (ramblock_alloc_copies(&t))
		tap_die("no memory");
	tap_ok(feed(&t, stream.data, stream.len, 100) == 1 && !t.blocks[3].copy && content(&t),
	       "a block that is not in the list loses its copy");
	ramblock_free(&t);
}

static const char state[] = "QEVM\0\0\0\3\4 state of devices";	/* ends with 0 */

static void test_build(void)
{
	static uint8_t whole[256 * 1024];
	struct ramblock_table a, b;
	struct why why;
	ssize_t n;
	int fd;

	make_table(&a);
	memset(a.blocks[1].copy + PAGE, 0x5a, PAGE);
	memset(a.blocks[2].copy, 0xa5, 2 * PAGE);
	fd = devstate_build("pc-q35-7.2", &a, state, sizeof(state), &why);
	tap_ok(fd >= 0, "a stream for the standby");
	n = read(fd, whole, sizeof(whole));
	close(fd);
	tap_ok(n > 0 && !memcmp(whole, "QEVM\0\0\0\3\7\0\0\0\12pc-q35-7.2\1", 24),
	       "it begins with the machine's name");
	tap_ok(n > 5 && !memcmp(whole + n - 5, "\6\0\0\0\0", 5) &&
	       !memcmp(whole + n - 5 - (sizeof(state) - 8), state + 8, sizeof(state) - 8),
	       "it ends with the state and an empty description");
	make_table(&b);
	tap_ok(n > 0 && feed(&b, whole, (size_t)n, 1000) == 1 &&
	       !memcmp(b.blocks[1].copy, a.blocks[1].copy, VRAM_PAGES * PAGE) &&
	       !memcmp(b.blocks[2].copy, a.blocks[2].copy, ROM_PAGES * PAGE),
	       "what was written is what is read");
	ramblock_free(&b);

	ramblock_free_copies(&a);
	fd = devstate_build("pc-q35-7.2", &a, state, sizeof(state), &why);
	n = read(fd, whole, sizeof(whole));
	close(fd);
	tap_ok(n == (ssize_t)(8 + 15 + sizeof(state) - 8 + 5), "without small blocks: no ram section");
	tap_ok(devstate_build("pc", &a, state, 8, &why) == -EPROTO, "a state cut short: %s", why.text);
	tap_ok(devstate_build("pc", &a, state, sizeof(state) - 1, &why) == -EPROTO,
	       "a state without its end");
	tap_ok(devstate_build("pc", &a, "xxxxxxxxxxx", 12, &why) == -EPROTO, "no state at all");
	ramblock_free(&a);
}

static void put_section(struct bytes *b, uint32_t id, const char *name, uint32_t instance,
			const void *data, size_t n)
{
	put_be(b, RAMSTREAM_FULL, 1);
	put_be(b, id, 4);
	put_name(b, name);
	put_be(b, instance, 4);
	put_be(b, 1, 4);
	put(b, data, n);
	put_be(b, RAMSTREAM_FOOTER, 1);
	put_be(b, id, 4);
}

/* Of a machine with these devices; the data of one looks like a footer, and more. */
static uint64_t sections(const char *net, uint32_t id, uint8_t fill, bool rng)
{
	struct bytes *b = &stream;
	uint8_t data[64];

	memset(data, fill, sizeof(data));
	b->len = 0;
	put_be(b, RAMSTREAM_MAGIC, 4);
	put_be(b, RAMSTREAM_VERSION, 4);
	put_section(b, 2, "timer", 0, data, 3);
	memcpy(data + 7, "\x7e\x00\x00\x00\x03\x04\x00\x00\x00\x04\x03" "a\x07" "c", 14);
	put_section(b, 3, "cpu", 1, data, sizeof(data));
	put_section(b, id, net, 0, data, fill);
	if (rng)
		put_section(b, id + 1, "0000:00:04.0/virtio-rng", 0, data, sizeof(data));
	put_be(b, RAMSTREAM_EOF, 1);
	return devstate_sections(b->data, b->len);
}

static void test_sections(void)
{
	uint64_t want = sections("0000:00:03.0/virtio-net", 4, 1, true);
	size_t n, known = 0;

	tap_ok(want, "the sections of a state are found");
	tap_ok(sections("0000:00:03.0/virtio-net", 4, 60, true) == want,
	       "they are the same whatever the devices' state is");
	tap_ok(sections("0000:00:03.0/virtio-net", 4, 1, false) != want, "a device is gone");
	tap_ok(sections("0000:00:05.0/virtio-net", 4, 1, true) != want, "one is elsewhere");
	tap_ok(sections("0000:00:03.0/virtio-net", 9, 1, true) != want,
	       "one was taken out and put in again");
	sections("0000:00:03.0/virtio-net", 4, 1, true);
	for (n = 0; n < stream.len; n++)
		known += devstate_sections(stream.data, n) == want;
	tap_ok(!known, "cut at each of %zu bytes it is not understood, or another", stream.len);
}

int main(void)
{
	printf("TAP version 13\n");
	test_read(true);
	test_read(false);
	test_wrong();
	test_refused();
	test_build();
	test_sections();
	return tap_done();
}
