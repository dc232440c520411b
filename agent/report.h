/* SPDX-License-Identifier: GPL-2.0 */
/*
 * report: what the user sees, and its copy for programs.
 *
 * Lines for people go to stdout (report_phase, report_progress) and stderr
 * (report_warn, report_error); events as JSON lines go to the file of --json.
 */
#ifndef VMREPL_REPORT_H
#define VMREPL_REPORT_H

#include <stdint.h>

/*
 * Starts the clock. @json: file for events, or NULL; it is truncated.
 * Returns 0 or -errno.
 */
int report_open(const char *json);
void report_close(void);

/* "[  1.234] text": something was reached. */
void report_phase(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same on stderr: something is not as it should be; we go on. */
void report_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* "vmrepl-agent: text" on stderr: we end. */
void report_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * How far the first sync is, and for how long it will go on at that pace. On a terminal a
 * bar that is drawn over; else a line a second. @what: what is counted, the same string
 * each time; @done of @total pages.
 */
void report_progress(const char *what, uint64_t done, uint64_t total);
/* All @total pages are done: the full bar, in any case. */
void report_progress_done(const char *what, uint64_t total);
/* Ends the bar's line. */
void report_progress_end(void);

/**
 * report_event() - one JSON line
 * @event:  its name
 * @fields: "name:type ..." with type u (uint64_t), s (const char *), b (int, as
 *          a boolean); the values follow
 *
 * "t" (seconds since the agent started) and "unix" (seconds, wall clock) are added.
 */
void report_event(const char *event, const char *fields, ...);

#endif /* VMREPL_REPORT_H */
