/* SPDX-License-Identifier: GPL-2.0 */
/* fuzz: what all targets need. Each is one libFuzzer program, see fuzz/README.md. */
#ifndef VMREPL_FUZZ_H
#define VMREPL_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold whatever comes in; else libFuzzer keeps the input and tells. */
#define MUST(cond) do {								\
	if (!(cond)) {								\
		fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond); \
		abort();							\
	}									\
} while (0)

/* A copy of its own, so that the sanitizer sees one byte too far; with NUL behind. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	MUST(text);
	memcpy(text, data, size);
	text[size] = '\0';
	return text;
}

/* What is run is where a fuzzer starts: it must be what it should be. */
static inline bool fuzz_seed(void)
{
	return getenv("VMREPL_FUZZ_SEED");
}

#endif /* VMREPL_FUZZ_H */
