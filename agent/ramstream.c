// SPDX-License-Identifier: GPL-2.0
/*
 * The RAM part of QEMU's migration stream. The reader is a state machine: each
 * state wants a number of bytes, and gets them whole.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

#include "ramstream.h"

/* Flags in the low bits of a page's address. */
#define RAM_ZERO		0x002u
#define RAM_MEM_SIZE		0x004u
#define RAM_PAGE		0x008u
#define RAM_EOS			0x010u
#define RAM_CONTINUE		0x020u
#define RAM_MULTIFD_FLUSH	0x200u
#define RAM_FLAGS		0xfffu

#define RAM_SECTION_VERSION	4u
/* Ours when we write; any number will do. */
#define RAM_SECTION_ID		1u

/* A machine name or a list of capabilities beyond this is not QEMU's. */
#define NAME_MAX_LEN		255u
#define CAPS_MAX		256u
#define COMMAND_MAX		RAMBLOCK_PAGE

enum state {
	S_HEAD,			/* magic and version */
	S_TYPE,			/* a section's type */
	S_CONF_LEN,
	S_CONF_NAME,
	S_SUB_LEN,		/* subsection of the configuration */
	S_SUB_NAME,
	S_SUB_BITS,
	S_SUB_UUID,
	S_CAPS_NR,
	S_CAP_LEN,
	S_CAP_NAME,
	S_START,		/* id and length of the name */
	S_START_NAME,		/* name, instance, version */
	S_SECTION,		/* id of a part or an end */
	S_RECORD,		/* address and flags */
	S_LIST_LEN,		/* list of blocks */
	S_LIST_NAME,
	S_LIST_SIZE,
	S_BLOCK_LEN,		/* a page's block */
	S_BLOCK_NAME,
	S_ZERO,
	S_PAGE,
	S_FOOTER,
	S_COMMAND,		/* number and length */
	S_COMMAND_DATA,
	S_REST,			/* behind RAM */
	S_BAD,
};

struct ramstream {
	struct ramblock_table *t;
	enum state state;
	uint8_t hold[RAMBLOCK_PAGE];
	size_t have, want;
	struct why bad;

	bool ignore_shared;
	bool configured;		/* the configuration is behind us */
	bool listed;
	uint32_t caps_left;
	uint32_t section;		/* id of "ram" */
	bool in_ram;			/* that has been started */
	uint64_t list_left;
	int block;			/* of the current page, or -1 */
	int list_block;
	uint64_t addr;
	uint32_t flags;
	uint64_t unseen;		/* pages of small blocks */
	uint8_t *seen[RAMBLOCK_MAX];	/* bitmap for each small block */
	bool in_list[RAMBLOCK_MAX];
};

static unsigned int be16(const uint8_t *p)
{
	return p[0] << 8 | p[1];
}

static uint32_t be32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static uint64_t be64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

struct ramstream *ramstream_new(struct ramblock_table *t)
{
	struct ramstream *s = calloc(1, sizeof(*s));
	uint64_t pages;

	if (!s)
		return NULL;
	s->t = t;
	s->state = S_HEAD;
	s->want = 8;
	s->block = -1;
	for (unsigned int i = 0; i < t->nr; i++) {
		if (!t->blocks[i].copy)
			continue;
		pages = t->blocks[i].size / RAMBLOCK_PAGE;
		s->seen[i] = calloc((pages + 7) / 8, 1);
		if (!s->seen[i]) {
			ramstream_free(s);
			return NULL;
		}
		s->unseen += pages;
	}
	return s;
}

void ramstream_free(struct ramstream *s)
{
	if (!s)
		return;
	for (unsigned int i = 0; i < RAMBLOCK_MAX; i++)
		free(s->seen[i]);
	free(s);
}

static void want(struct ramstream *s, enum state state, size_t n)
{
	s->state = state;
	s->want = n;
}

__attribute__((format(printf, 2, 3)))
static int bad(struct ramstream *s, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	s->state = S_BAD;
	return why_set(&s->bad, EPROTO, "QEMU's migration stream is not understood: %s", text);
}

static int find_block(struct ramstream *s, const uint8_t *name, size_t n)
{
	char text[RAMBLOCK_NAME_LEN];

	if (!n || memchr(name, '\0', n))
		return -1;
	memcpy(text, name, n);
	text[n] = '\0';
	return ramblock_index(s->t, text);
}

static int section_type(struct ramstream *s)
{
	switch (s->hold[0]) {
	case RAMSTREAM_CONFIG:
		if (s->configured)
			break;
		s->configured = true;
		want(s, S_CONF_LEN, 4);
		return 0;
	case RAMSTREAM_SUBSECTION:
		if (!s->configured || s->in_ram)
			break;
		want(s, S_SUB_LEN, 1);
		return 0;
	case RAMSTREAM_START:
		if (s->in_ram)
			break;
		want(s, S_START, 5);
		return 0;
	case RAMSTREAM_PART:
	case RAMSTREAM_END:
		if (!s->in_ram)
			break;
		want(s, S_SECTION, 4);
		return 0;
	case RAMSTREAM_COMMAND:
		want(s, S_COMMAND, 4);
		return 0;
	case RAMSTREAM_FULL:
	case RAMSTREAM_EOF:
		if (!s->in_ram)
			break;
		want(s, S_REST, 1);
		return 0;
	}
	return bad(s, "section type 0x%02x", s->hold[0]);
}

/* Name and be32 version of a subsection of the configuration. */
static int subsection(struct ramstream *s)
{
	static const char bits[] = "configuration/target-page-bits";
	static const char caps[] = "configuration/capabilities";
	static const char uuid[] = "configuration/uuid";
	size_t n = s->want - 4;

	if (n == sizeof(bits) - 1 && !memcmp(s->hold, bits, n))
		want(s, S_SUB_BITS, 4);
	else if (n == sizeof(caps) - 1 && !memcmp(s->hold, caps, n))
		want(s, S_CAPS_NR, 4);
	else if (n == sizeof(uuid) - 1 && !memcmp(s->hold, uuid, n))
		want(s, S_SUB_UUID, 16);
	else
		return bad(s, "subsection %.*s", (int)n, (const char *)s->hold);
	return 0;
}

static int section_start(struct ramstream *s)
{
	size_t n = s->want - 8;

	if (n != 3 || memcmp(s->hold, "ram", 3))
		return bad(s, "section %.*s before the end of RAM", (int)n,
			   (const char *)s->hold);
	if (be32(s->hold + 3) || be32(s->hold + 7) != RAM_SECTION_VERSION)
		return bad(s, "ram section of version %" PRIu32, be32(s->hold + 7));
	s->in_ram = true;
	want(s, S_RECORD, 8);
	return 0;
}

/* A listed block's length (and address, with ignore_shared). */
static int list_entry(struct ramstream *s)
{
	const struct ramblock *b = &s->t->blocks[s->list_block];
	uint64_t size = be64(s->hold);

	if (size != b->size)
		return bad(s, "RAM block %s has %" PRIu64 " bytes, not %" PRIu64, b->name, size,
			   b->size);
	if (s->in_list[s->list_block] || size > s->list_left)
		return bad(s, "wrong list of RAM blocks");
	s->in_list[s->list_block] = true;
	s->list_left -= size;
	want(s, s->list_left ? S_LIST_LEN : S_RECORD, s->list_left ? 1 : 8);
	return 0;
}

static void list_done(struct ramstream *s)
{
	s->listed = true;
	for (unsigned int i = 0; i < s->t->nr; i++) {
		if (!s->seen[i] || s->in_list[i])
			continue;
		s->unseen -= s->t->blocks[i].size / RAMBLOCK_PAGE;
		free(s->seen[i]);
		s->seen[i] = NULL;
		ramblock_free_copy(&s->t->blocks[i]);
	}
}

static int page_of_block(struct ramstream *s)
{
	if (s->block < 0)
		return bad(s, "a page without a block");
	if (s->addr >= s->t->blocks[s->block].size)
		return bad(s, "a page outside of RAM block %s", s->t->blocks[s->block].name);
	if (s->flags & RAM_ZERO)
		want(s, S_ZERO, 1);
	else
		want(s, S_PAGE, RAMBLOCK_PAGE);
	return 0;
}

static int record(struct ramstream *s)
{
	uint64_t v = be64(s->hold);

	s->flags = v & RAM_FLAGS;
	s->addr = v & ~(uint64_t)RAM_FLAGS;
	switch (s->flags & ~RAM_CONTINUE) {
	case RAM_MEM_SIZE:
		if (s->listed || !s->addr)
			return bad(s, "wrong list of RAM blocks");
		s->list_left = s->addr;
		want(s, S_LIST_LEN, 1);
		return 0;
	case RAM_EOS:
		want(s, S_FOOTER, 5);
		return 0;
	case RAM_MULTIFD_FLUSH:
		want(s, S_RECORD, 8);
		return 0;
	case RAM_ZERO:
	case RAM_PAGE:
		if (!s->listed)
			return bad(s, "a page before the list of RAM blocks");
		if (s->flags & RAM_CONTINUE)
			return page_of_block(s);
		want(s, S_BLOCK_LEN, 1);
		return 0;
	}
	return bad(s, "RAM record with flags 0x%03x", s->flags);
}

/* The page is whole: hold has its content, unless it is a page of zeros. */
static int page(struct ramstream *s)
{
	struct ramblock *b = &s->t->blocks[s->block];
	uint8_t *seen = s->seen[s->block];
	uint64_t nr = s->addr / RAMBLOCK_PAGE;
	bool again;

	want(s, S_RECORD, 8);
	if (!seen)
		return 0;
	again = seen[nr / 8] & (1u << nr % 8);
	if (!again) {
		seen[nr / 8] |= 1u << nr % 8;
		s->unseen--;
	}
	if (!(s->flags & RAM_ZERO))
		memcpy(b->copy + s->addr, s->hold, RAMBLOCK_PAGE);
	else if (s->hold[0])
		return bad(s, "a page filled with 0x%02x", s->hold[0]);
	else if (again)
		memset(b->copy + s->addr, 0, RAMBLOCK_PAGE);
	return 0;
}

/* hold has want bytes: use them. */
static int step(struct ramstream *s)
{
	const uint8_t *h = s->hold;

	switch (s->state) {
	case S_HEAD:
		if (be32(h) != RAMSTREAM_MAGIC || be32(h + 4) != RAMSTREAM_VERSION)
			return bad(s, "wrong head");
		want(s, S_TYPE, 1);
		return 0;
	case S_TYPE:
		return section_type(s);
	case S_CONF_LEN:
		if (!be32(h) || be32(h) > NAME_MAX_LEN)
			return bad(s, "machine name of %" PRIu32 " bytes", be32(h));
		want(s, S_CONF_NAME, be32(h));
		return 0;
	case S_CONF_NAME:
	case S_SUB_BITS:
	case S_SUB_UUID:
		want(s, S_TYPE, 1);
		return 0;
	case S_SUB_LEN:
		want(s, S_SUB_NAME, h[0] + 4u);
		return 0;
	case S_SUB_NAME:
		return subsection(s);
	case S_CAPS_NR:
		s->caps_left = be32(h);
		if (s->caps_left > CAPS_MAX)
			return bad(s, "%" PRIu32 " capabilities", s->caps_left);
		want(s, s->caps_left ? S_CAP_LEN : S_TYPE, 1);
		return 0;
	case S_CAP_LEN:
		if (!h[0])
			return bad(s, "capability without a name");
		want(s, S_CAP_NAME, h[0]);
		return 0;
	case S_CAP_NAME:
		if (s->want == 15 && !memcmp(h, "x-ignore-shared", 15))
			s->ignore_shared = true;
		want(s, --s->caps_left ? S_CAP_LEN : S_TYPE, 1);
		return 0;
	case S_START:
		s->section = be32(h);
		want(s, S_START_NAME, h[4] + 8u);
		return 0;
	case S_START_NAME:
		return section_start(s);
	case S_SECTION:
		if (be32(h) != s->section)
			return bad(s, "section %" PRIu32 " before the end of RAM", be32(h));
		want(s, S_RECORD, 8);
		return 0;
	case S_RECORD:
		return record(s);
	case S_LIST_LEN:
		if (!h[0])
			return bad(s, "wrong list of RAM blocks");
		want(s, S_LIST_NAME, h[0]);
		return 0;
	case S_LIST_NAME:
		s->list_block = find_block(s, h, s->want);
		if (s->list_block < 0)
			return bad(s, "unknown RAM block %.*s", (int)s->want, (const char *)h);
		want(s, S_LIST_SIZE, s->ignore_shared ? 16 : 8);
		return 0;
	case S_LIST_SIZE:
		if (list_entry(s))
			return -EPROTO;
		if (!s->list_left)
			list_done(s);
		return 0;
	case S_BLOCK_LEN:
		if (!h[0])
			return bad(s, "RAM block without a name");
		want(s, S_BLOCK_NAME, h[0]);
		return 0;
	case S_BLOCK_NAME:
		s->block = find_block(s, h, s->want);
		return page_of_block(s);
	case S_ZERO:
	case S_PAGE:
		return page(s);
	case S_FOOTER:
		if (h[0] != RAMSTREAM_FOOTER || be32(h + 1) != s->section)
			return bad(s, "wrong end of a RAM section");
		want(s, S_TYPE, 1);
		return 0;
	case S_COMMAND:
		/* To the receiver, e.g. that the last part begins. */
		if (be16(h + 2) > COMMAND_MAX)
			return bad(s, "command of %u bytes", be16(h + 2));
		want(s, be16(h + 2) ? S_COMMAND_DATA : S_TYPE, be16(h + 2) ? be16(h + 2) : 1);
		return 0;
	case S_COMMAND_DATA:
		want(s, S_TYPE, 1);
		return 0;
	case S_REST:
	case S_BAD:
		break;
	}
	return 0;
}

int ramstream_feed(struct ramstream *s, const void *buf, size_t len, struct why *why)
{
	const uint8_t *p = buf;
	size_t n;

	while (len && s->state != S_BAD && s->state != S_REST) {
		n = s->want - s->have;
		if (n > len)
			n = len;
		memcpy(s->hold + s->have, p, n);
		s->have += n;
		p += n;
		len -= n;
		if (s->have == s->want) {
			s->have = 0;
			step(s);
		}
	}
	if (s->state == S_BAD) {
		if (why)
			*why = s->bad;
		return -EPROTO;
	}
	return s->listed && !s->unseen;
}

static void put8(FILE *f, uint8_t v)
{
	putc(v, f);
}

static void put32(FILE *f, uint32_t v)
{
	v = htobe32(v);
	fwrite(&v, sizeof(v), 1, f);
}

static void put64(FILE *f, uint64_t v)
{
	v = htobe64(v);
	fwrite(&v, sizeof(v), 1, f);
}

static void put_name(FILE *f, const char *name)
{
	size_t n = strlen(name);

	put8(f, (uint8_t)n);
	fwrite(name, n, 1, f);
}

static void put_section_end(FILE *f)
{
	put64(f, RAM_EOS);
	put8(f, RAMSTREAM_FOOTER);
	put32(f, RAM_SECTION_ID);
}

static void put_block(FILE *f, const struct ramblock *b)
{
	const uint8_t *data;
	uint64_t off, flags;

	for (off = 0; off < b->size; off += RAMBLOCK_PAGE) {
		data = b->copy + off;
		flags = ramblock_page_is_zero(data) ? RAM_ZERO : RAM_PAGE;
		if (off)
			flags |= RAM_CONTINUE;
		put64(f, off | flags);
		if (!off)
			put_name(f, b->name);
		if (flags & RAM_ZERO)
			put8(f, 0);
		else
			fwrite(data, RAMBLOCK_PAGE, 1, f);
	}
}

void ramstream_write(FILE *f, const struct ramblock_table *t)
{
	uint64_t total = 0;
	unsigned int i;

	for (i = 0; i < t->nr; i++)
		if (t->blocks[i].copy)
			total += t->blocks[i].size;
	if (!total)
		return;

	put8(f, RAMSTREAM_START);
	put32(f, RAM_SECTION_ID);
	put_name(f, "ram");
	put32(f, 0);
	put32(f, RAM_SECTION_VERSION);
	put64(f, total | RAM_MEM_SIZE);
	for (i = 0; i < t->nr; i++) {
		if (!t->blocks[i].copy)
			continue;
		put_name(f, t->blocks[i].name);
		put64(f, t->blocks[i].size);
	}
	put_section_end(f);

	put8(f, RAMSTREAM_END);
	put32(f, RAM_SECTION_ID);
	for (i = 0; i < t->nr; i++)
		if (t->blocks[i].copy)
			put_block(f, &t->blocks[i]);
	put_section_end(f);
}
