// SPDX-License-Identifier: GPL-2.0
/*
 * native: copying pages, and copying and hashing them, on the processor that this
 * runs on, as a program. No emulation, and no module: it is what the worker's inner
 * loop (copy, then hash the copy by xxh64) costs on real hardware. XXH64 of
 * libxxhash is the algorithm of the kernel's lib/xxhash.c. XXH3 beside it shows what a
 * hash that uses vectors (AVX2) would cost.
 *
 * cold: the pages were last touched long ago, as a guest's pages were; the copies go to
 * a ring of 16 MiB. warm: source and copy fit into the last
 * level of cache.
 */
#include <stdio.h>
#include <stdlib.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* Compiled here, for this processor: the library keeps to what every one has. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#define PAGE		4096UL
#define RAM		(1UL << 18)	/* pages: 1 GiB */
#define RING		4096UL
#define ROUND		8192UL		/* pages copied in a round */
#define ROUNDS		63

static uint8_t *ram, *ring;
static uint32_t *order;
static volatile uint64_t sums[RAM];	/* lest nobody computes them */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* As the kernel copies on processors of today. */
static void copy_page(void *to, const void *from)
{
	unsigned long n = PAGE;

	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

enum hash {
	NONE,
	XXH64_KERNEL,		/* the kernel has it */
	XXH3_VECTORS,		/* the kernel has not */
	NR_HASHES,
};

/* Return: nanoseconds a page. */
static double one_round(unsigned long first, unsigned long pages, enum hash hash)
{
	uint64_t start = now_ns();

	for (unsigned long i = 0; i < ROUND; i++) {
		uint32_t page = order[(first + i % pages) % RAM];
		uint8_t *to = ring + i % (pages < RING ? pages : RING) * PAGE;

		copy_page(to, ram + page * PAGE);
		if (hash == XXH64_KERNEL)
			sums[page] = XXH64(to, PAGE, 1);
		else if (hash == XXH3_VECTORS)
			sums[page] = XXH3_64bits(to, PAGE);
	}
	return (double)(now_ns() - start) / ROUND;
}

/* The best round of each: whatever else the machine does only adds to it. */
static void measure(const char *name, unsigned long pages)
{
	double best[NR_HASHES], took;
	unsigned long first = 0;

	for (int i = 0; i < ROUNDS; i++) {
		for (int hash = NONE; hash < NR_HASHES; hash++) {
			took = one_round(first, pages, hash);
			if (!i || took < best[hash])
				best[hash] = took;
			first += ROUND;
		}
	}
	printf("%s,%.0f,%.0f,%.0f\n", name, best[NONE], best[XXH64_KERNEL],
	       best[XXH3_VECTORS]);
}

int main(void)
{
	if (!__builtin_cpu_supports("avx2")) {
		fprintf(stderr, "native: this processor has no AVX2\n");
		return 1;
	}
	ram = mmap(NULL, RAM * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ring = mmap(NULL, RING * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	order = malloc(RAM * sizeof(*order));
	if (ram == MAP_FAILED || ring == MAP_FAILED || !order) {
		perror("native");
		return 1;
	}
	for (unsigned long i = 0; i < RAM * PAGE / 8; i++)
		((uint64_t *)ram)[i] = i * 0x9e3779b97f4a7c15UL;
	for (unsigned long i = 0; i < RAM; i++)
		order[i] = i;
	for (unsigned long i = RAM - 1; i; i--) {
		unsigned long k = random() % (i + 1);
		uint32_t page = order[i];

		order[i] = order[k];
		order[k] = page;
	}
	measure("cold", RAM);
	measure("warm", 1024);
	return 0;
}
