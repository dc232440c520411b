/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints: perf and bpftrace see an epoch, /sys/kernel/tracing/events/vmrepl.
 * @vm is the VMM's process id in all of them; times are nanoseconds.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vmrepl

#if !defined(_VMREPL_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _VMREPL_TRACE_H

#include <linux/tracepoint.h>

#include "vmrepl.h"

/* The set of an epoch is fixed: @pages of them; @scan: a log was full. */
TRACE_EVENT(vmrepl_freeze,
	TP_PROTO(pid_t vm, const struct vmrepl_freeze *f, bool scan),
	TP_ARGS(vm, f, scan),

	TP_STRUCT__entry(
		__field(pid_t, vm)
		__field(u64, epoch)
		__field(u64, pages)
		__field(u64, ns)
		__field(bool, live)
		__field(bool, scan)
	),

	TP_fast_assign(
		__entry->vm = vm;
		__entry->epoch = f->epoch;
		__entry->pages = f->pages;
		__entry->ns = f->ns;
		__entry->live = f->flags & VMREPL_FREEZE_LIVE;
		__entry->scan = scan;
	),

	TP_printk("vm=%d epoch=%llu pages=%llu ns=%llu live=%d scan=%d",
		  __entry->vm, __entry->epoch, __entry->pages, __entry->ns,
		  __entry->live, __entry->scan)
);

/*
 * A worker has done its part: @given pages are in ring @log, @zero of them without
 * content, @same were left out. Where it is not @whole the session is over.
 */
TRACE_EVENT(vmrepl_copied,
	TP_PROTO(pid_t vm, u64 epoch, unsigned int log, u64 given, u64 zero,
		 u64 same, u64 ns, bool whole),
	TP_ARGS(vm, epoch, log, given, zero, same, ns, whole),

	TP_STRUCT__entry(
		__field(pid_t, vm)
		__field(u64, epoch)
		__field(unsigned int, log)
		__field(u64, given)
		__field(u64, zero)
		__field(u64, same)
		__field(u64, ns)
		__field(bool, whole)
	),

	TP_fast_assign(
		__entry->vm = vm;
		__entry->epoch = epoch;
		__entry->log = log;
		__entry->given = given;
		__entry->zero = zero;
		__entry->same = same;
		__entry->ns = ns;
		__entry->whole = whole;
	),

	TP_printk("vm=%d epoch=%llu log=%u given=%llu zero=%llu same=%llu ns=%llu whole=%d",
		  __entry->vm, __entry->epoch, __entry->log, __entry->given,
		  __entry->zero, __entry->same, __entry->ns, __entry->whole)
);

#endif /* _VMREPL_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
