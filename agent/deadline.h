/* SPDX-License-Identifier: GPL-2.0 */
/* deadline: a moment of the monotonic clock until which something is waited for. */
#ifndef AGENT_DEADLINE_H
#define AGENT_DEADLINE_H

#include <stdint.h>
#include <time.h>

/* Now, milliseconds. */
static inline int64_t deadline_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The moment that many milliseconds from now. */
static inline int64_t deadline_in(unsigned int ms)
{
	return deadline_now() + ms;
}

/* Milliseconds left, as poll() takes them; 0 when it has passed. */
static inline int deadline_left(int64_t deadline)
{
	int64_t left = deadline - deadline_now();

	if (left < 0)
		return 0;
	return left > INT32_MAX ? INT32_MAX : (int)left;
}

#endif /* AGENT_DEADLINE_H */
