// SPDX-License-Identifier: GPL-2.0
#include <string.h>
#include <sys/mman.h>

#include "sink.h"
#include "tap.h"
#include "vmm.h"

#define GFN_ZERO	(1ULL << 63)

void sink_open(struct sink *s, uint64_t pages)
{
	s->room = pages;
	s->data = mmap(NULL, pages * (VMM_PAGE + 8), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (s->data == MAP_FAILED)
		tap_die("no memory for %lu pages", pages);
	s->gfn = (uint64_t *)(s->data + pages * VMM_PAGE);
	s->pages = 0;
}

void sink_close(struct sink *s)
{
	munmap(s->data, s->room * (VMM_PAGE + 8));
}

/* As QEMU does: few pages need more than a look or two. */
static bool is_zero(const uint64_t *p)
{
	if (p[0] || p[255] || p[511])
		return false;
	return !memcmp(p, p + 1, VMM_PAGE - 8);
}

void sink_page(struct sink *s, uint64_t gfn, const void *page)
{
	if (s->pages == s->room)
		tap_die("more than %lu pages", s->room);
	if (is_zero(page)) {
		s->gfn[s->pages++] = gfn | GFN_ZERO;
		return;
	}
	memcpy(s->data + s->pages * VMM_PAGE, page, VMM_PAGE);
	s->gfn[s->pages++] = gfn;
}
