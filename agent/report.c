// SPDX-License-Identifier: GPL-2.0
/*
 * report: lines for people, lines for programs.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "loop.h"
#include "report.h"

#define REPORT_BAR	32

static struct report {
	uint64_t start;
	int json;
	bool tty;
	bool bar;		/* the cursor is behind a bar */
	uint64_t last_bar;
} report = { .json = -1 };

int report_open(const char *json)
{
	report.start = loop_now();
	report.tty = isatty(STDOUT_FILENO);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!json)
		return 0;
	report.json = open(json, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	return report.json < 0 ? -errno : 0;
}

void report_close(void)
{
	report_progress_end();
	if (report.json >= 0)
		close(report.json);
	report.json = -1;
}

static double report_time(void)
{
	return (double)(loop_now() - report.start) / (double)NSEC_PER_SEC;
}

static void report_line(FILE *to, const char *fmt, va_list ap)
{
	report_progress_end();
	fprintf(to, "[%7.3f] ", report_time());
	vfprintf(to, fmt, ap);
	fputc('\n', to);
}

void report_phase(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report_line(stdout, fmt, ap);
	va_end(ap);
}

void report_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report_line(stderr, fmt, ap);
	va_end(ap);
}

void report_error(const char *fmt, ...)
{
	va_list ap;

	report_progress_end();
	fputs("vmrepl-agent: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static void report_draw(const char *what, uint64_t done, uint64_t total)
{
	unsigned int percent = total ? (unsigned int)(done * 100 / total) : 100;
	char bar[REPORT_BAR + 1];
	unsigned int i;

	if (percent > 100)
		percent = 100;
	for (i = 0; i < REPORT_BAR; i++)
		bar[i] = i * 100 < percent * REPORT_BAR ? '#' : '.';
	bar[REPORT_BAR] = '\0';
	/* Pages are 4 KiB: 256 of them are a MiB. */
	printf("%s[%7.3f] %s [%s] %3u%%  %" PRIu64 " of %" PRIu64 " MiB%s",
	       report.tty ? "\r" : "", report_time(), what, bar, percent, done >> 8, total >> 8,
	       report.tty ? " " : "\n");
	report.bar = report.tty;
	fflush(stdout);
}

void report_progress(const char *what, uint64_t done, uint64_t total)
{
	uint64_t now = loop_now();

	if (now - report.last_bar < (report.tty ? NSEC_PER_SEC / 10 : NSEC_PER_SEC))
		return;
	report.last_bar = now;
	report_draw(what, done, total);
}

void report_progress_done(const char *what, uint64_t total)
{
	report_draw(what, total, total);
	report_progress_end();
}

void report_progress_end(void)
{
	if (report.bar)
		fputc('\n', stdout);
	report.bar = false;
}

void report_event(const char *event, const char *fields, ...)
{
	struct json_object *o;
	struct timespec wall;
	const char *line, *p;
	char buf[2048], name[64];
	size_t len;
	va_list ap;

	if (report.json < 0)
		return;
	o = json_object_new_object();
	if (!o)
		return;
	clock_gettime(CLOCK_REALTIME, &wall);
	json_object_object_add(o, "t", json_object_new_double(report_time()));
	json_object_object_add(o, "unix",
			       json_object_new_double((double)wall.tv_sec +
						      (double)wall.tv_nsec / 1e9));
	json_object_object_add(o, "event", json_object_new_string(event));
	va_start(ap, fields);
	for (p = fields; *p; ) {
		size_t n = strcspn(p, ":");

		snprintf(name, sizeof(name), "%.*s", (int)n, p);
		p += n;
		if (*p)
			p++;
		switch (*p) {
		case 'u':
			json_object_object_add(o, name, json_object_new_uint64(va_arg(ap, uint64_t)));
			break;
		case 's':
			json_object_object_add(o, name, json_object_new_string(va_arg(ap, const char *)));
			break;
		case 'b':
			json_object_object_add(o, name, json_object_new_boolean(va_arg(ap, int)));
			break;
		}
		p += strcspn(p, " ");
		p += strspn(p, " ");
	}
	va_end(ap);
	line = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &len);
	/* One write a line: whoever follows the file sees whole lines. */
	if (line && len < sizeof(buf)) {
		memcpy(buf, line, len);
		buf[len] = '\n';
		if (write(report.json, buf, len + 1) < 0) {
			close(report.json);
			report.json = -1;
			report_warn("cannot write the event file, no more events: %s",
				    strerror(errno));
		}
	}
	json_object_put(o);
}
