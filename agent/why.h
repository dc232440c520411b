/* SPDX-License-Identifier: GPL-2.0 */
/*
 * why: the sentence that goes with an error.
 *
 * A call that can fail for a reason the operator must know takes a struct why
 * and fills it where it returns a negative errno. The sentence says what is
 * wrong and what to do; it has no newline and no full stop at its end. Outer
 * layers may add what they know in front with why_prefix().
 */
#ifndef AGENT_WHY_H
#define AGENT_WHY_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WHY_LEN		768

/**
 * struct why - one sentence
 * @text:	ends with NUL; longer ones are cut
 */
struct why {
	char text[WHY_LEN];
};

/**
 * why_set - fill @why (which may be NULL) and return -@err
 *
 * Meant for "return why_set(why, ENOENT, "no such process: %d", pid);".
 */
__attribute__((format(printf, 3, 4)))
static inline int why_set(struct why *why, int err, const char *fmt, ...)
{
	va_list ap;

	if (why) {
		va_start(ap, fmt);
		vsnprintf(why->text, sizeof(why->text), fmt, ap);
		va_end(ap);
	}
	return -err;
}

/**
 * why_prefix - put words in front of a sentence that is there already
 */
__attribute__((format(printf, 2, 3)))
static inline void why_prefix(struct why *why, const char *fmt, ...)
{
	char old[WHY_LEN];
	va_list ap;
	size_t n;

	if (!why)
		return;
	memcpy(old, why->text, sizeof(old));
	va_start(ap, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, ap);
	va_end(ap);
	n = strlen(why->text);
	snprintf(why->text + n, sizeof(why->text) - n, "%s", old);
}

/**
 * why_first - of several errors on the way out the first one is told
 * @first:	error so far, or 0
 * @err:	the next one, or 0
 * @why:	of @first
 * @later:	of @err
 *
 * Returns the first error of the two.
 */
static inline int why_first(int first, int err, struct why *why, const struct why *later)
{
	if (first || !err)
		return first;
	if (why)
		*why = *later;
	return err;
}

#endif /* AGENT_WHY_H */
