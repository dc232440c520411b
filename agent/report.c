// SPDX-License-Identifier: GPL-2.0
/*
 * report: lines for people, lines for programs.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "loop.h"
#include "report.h"

#define REPORT_BAR	32
/* Less than what a pipe takes in one piece. */
#define REPORT_LINE	2048

static struct report {
	uint64_t start;
	int json;
	bool tty;
	bool bar;		/* the cursor is behind a bar */
	uint64_t last_bar;
	const char *what;	/* is drawn, since @began, from @from pages on */
	uint64_t began;
	uint64_t from;
	uint64_t total;
} report = { .json = -1 };

int report_open(const char *json)
{
	report.start = loop_now();
	report.tty = isatty(STDOUT_FILENO);
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

/*
 * Whoever reads our output may be slow or stopped; a guest must not wait for that.
 * poll() says that there is room for a line of this size.
 */
static void report_write(int fd, const char *text, size_t len)
{
	struct pollfd room = { .fd = fd, .events = POLLOUT };

	if (poll(&room, 1, 0) == 1 && (room.revents & POLLOUT) && write(fd, text, len) < 0)
		return;
}

static void report_line(int fd, const char *fmt, va_list ap)
{
	char text[REPORT_LINE];
	size_t n;

	report_progress_end();
	n = (size_t)snprintf(text, sizeof(text), "[%7.3f] ", report_time());
	vsnprintf(text + n, sizeof(text) - n - 1, fmt, ap);
	n = strlen(text);
	text[n++] = '\n';
	report_write(fd, text, n);
}

void report_phase(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report_line(STDOUT_FILENO, fmt, ap);
	va_end(ap);
}

void report_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report_line(STDERR_FILENO, fmt, ap);
	va_end(ap);
}

void report_error(const char *fmt, ...)
{
	char text[REPORT_LINE];
	va_list ap;
	size_t n;

	report_progress_end();
	n = (size_t)snprintf(text, sizeof(text), "vmrepl-agent: ");
	va_start(ap, fmt);
	vsnprintf(text + n, sizeof(text) - n - 1, fmt, ap);
	va_end(ap);
	n = strlen(text);
	text[n++] = '\n';
	report_write(STDERR_FILENO, text, n);
}

static void report_draw(const char *what, uint64_t done, uint64_t total, const char *left)
{
	unsigned int percent = total ? (unsigned int)(done * 100 / total) : 100;
	char bar[REPORT_BAR + 1], text[REPORT_LINE];
	unsigned int i;
	int n;

	if (percent > 100)
		percent = 100;
	for (i = 0; i < REPORT_BAR; i++)
		bar[i] = i * 100 < percent * REPORT_BAR ? '#' : '.';
	bar[REPORT_BAR] = '\0';
	/* Pages are 4 KiB: 256 of them are a MiB. */
	n = snprintf(text, sizeof(text), "%s[%7.3f] %s [%s] %3u%%  %" PRIu64 " of %" PRIu64 " MiB%s%s",
		     report.tty ? "\r" : "", report_time(), what, bar, percent, done >> 8,
		     total >> 8, left, report.tty ? "  " : "\n");
	report_write(STDOUT_FILENO, text, (size_t)n);
	report.bar = report.tty;
}

/* From how long it took so far; not before there is a second to tell from. */
static void report_left(const char *what, uint64_t done, uint64_t total, char *text, size_t len)
{
	uint64_t now = loop_now(), seconds;

	*text = '\0';
	if (report.what != what || report.total != total || done < report.from) {
		report.what = what;
		report.total = total;
		report.began = now;
		report.from = done;
	}
	if (done == report.from || now - report.began < NSEC_PER_SEC)
		return;
	seconds = (uint64_t)((double)(total - done) / (double)(done - report.from) *
			     (double)(now - report.began) / (double)NSEC_PER_SEC) + 1;
	snprintf(text, len, ", %" PRIu64 " s left", seconds);
}

void report_progress(const char *what, uint64_t done, uint64_t total)
{
	uint64_t now = loop_now();
	char left[32];

	if (now - report.last_bar < (report.tty ? NSEC_PER_SEC / 10 : NSEC_PER_SEC))
		return;
	report.last_bar = now;
	done = done < total ? done : total;
	report_left(what, done, total, left, sizeof(left));
	report_draw(what, done, total, left);
}

void report_progress_done(const char *what, uint64_t total)
{
	report_draw(what, total, total, "");
	report.what = NULL;
	report_progress_end();
}

void report_progress_end(void)
{
	if (report.bar)
		report_write(STDOUT_FILENO, "\n", 1);
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
