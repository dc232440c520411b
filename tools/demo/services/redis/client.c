// SPDX-License-Identifier: GPL-2.0
/*
 * The demo's client for redis: numbered records over one connection, each
 * counted only when redis has acknowledged it. See ../../README.md for what a
 * client has to do and to print.
 */
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PORT		6379
#define BATCH		256
/* Longer than any failover; a connection silent for so long counts as lost. */
#define SILENCE_S	120
#define PATIENCE_S	80

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* The guest may still be starting: tried again until it answers. */
static redisContext *connect_to(const char *host, int seconds)
{
	struct timeval silence = { .tv_sec = SILENCE_S };
	struct timeval wait = { .tv_sec = 2 };
	struct timespec pause = { .tv_nsec = 200000000 };
	double until = now_ms() + seconds * 1e3;

	do {
		redisContext *c = redisConnectWithTimeout(host, PORT, wait);

		if (c && !c->err && !redisSetTimeout(c, silence))
			return c;
		if (c)
			redisFree(c);
		nanosleep(&pause, NULL);
	} while (now_ms() < until);
	return NULL;
}

static bool write_record(redisContext *c, unsigned long n)
{
	redisReply *r = redisCommand(c, "SET record:%lu value-of-%lu", n, n);
	bool ok = r && r->type == REDIS_REPLY_STATUS && !strcmp(r->str, "OK");

	if (r)
		freeReplyObject(r);
	return ok;
}

static bool reply_holds(redisContext *c, unsigned long n)
{
	char expect[64];
	redisReply *r;
	bool ok;

	if (redisGetReply(c, (void **)&r) != REDIS_OK)
		return false;
	snprintf(expect, sizeof(expect), "value-of-%lu", n);
	ok = r->type == REDIS_REPLY_STRING && !strcmp(r->str, expect);
	freeReplyObject(r);
	return ok;
}

static unsigned long count_held(redisContext *c, unsigned long acknowledged)
{
	unsigned long held = 0, first, last, n;

	for (first = 1; first <= acknowledged; first = last) {
		last = first + BATCH;
		if (last > acknowledged + 1)
			last = acknowledged + 1;
		for (n = first; n < last; n++)
			redisAppendCommand(c, "GET record:%lu", n);
		for (n = first; n < last; n++)
			held += reply_holds(c, n);
	}
	return held;
}

/* SIGTERM is blocked, and looked for between two records. */
static bool told_to_stop(sigset_t *stop)
{
	struct timespec no_wait = {};

	return sigtimedwait(stop, NULL, &no_wait) == SIGTERM;
}

int main(int argc, char **argv)
{
	unsigned long acknowledged = 0, held;
	double longest = 0;
	bool kept = true;
	redisContext *c;
	sigset_t stop;

	if (argc != 2) {
		fprintf(stderr, "usage: client ADDRESS\n");
		return 2;
	}
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);

	c = connect_to(argv[1], PATIENCE_S);
	if (!c) {
		fprintf(stderr, "client: no redis at %s:%d\n", argv[1], PORT);
		return 1;
	}
	printf("connected\n");

	while (!told_to_stop(&stop)) {
		double start = now_ms(), took;

		if (!write_record(c, acknowledged + 1)) {
			fprintf(stderr, "client: connection lost: %s\n",
				c->errstr);
			kept = false;
			break;
		}
		took = now_ms() - start;
		if (took > longest)
			longest = took;
		printf("ack %lu %.0f\n", ++acknowledged, took);
	}

	if (!kept) {
		redisFree(c);
		c = connect_to(argv[1], PATIENCE_S);
	}
	held = c ? count_held(c, acknowledged) : 0;
	printf("result acknowledged=%lu held=%lu lost=%lu connection=%s wait_ms=%.0f\n",
	       acknowledged, held, acknowledged - held, kept ? "kept" : "lost",
	       longest);
	return 0;
}
