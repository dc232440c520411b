/* SPDX-License-Identifier: GPL-2.0 */
/*
 * options: the command line.
 */
#ifndef VMREPL_OPTIONS_H
#define VMREPL_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cpulist.h"
#include "encoder.h"
#include "link.h"
#include "why.h"

#define AGENT_VERSION	"0.1"

enum options_verb {
	OPTIONS_PRIMARY,
	OPTIONS_STANDBY,
	OPTIONS_STATUS,
	OPTIONS_PROMOTE,
	OPTIONS_RELEASE,
	OPTIONS_KEYGEN,
	OPTIONS_HELP,
	OPTIONS_VERSION,
};

/* VMREPL_DEBUG_BREAK: breaks an invariant on purpose, for tests. */
enum options_break {
	OPTIONS_BREAK_NONE,
	OPTIONS_BREAK_ACK_EARLY,	/* I1: output goes before the ack */
	OPTIONS_BREAK_APPLY_EARLY,	/* I2: pages are applied as they come */
	OPTIONS_BREAK_GIVE_EARLY,	/* I3: slots are given back while the kernel reads them */
};

/**
 * struct options - what the user asked for
 * @verb:          what to do
 * @vm:            pid of the VMM; 0 where not given (status and promote only)
 * @ops, @addr:    --to or --listen; the key of @addr is not looked for here
 * @key:           file of the key, or NULL: KEY_FILE_DEFAULT; for keygen, too
 * @insecure:      without a key
 * @interval_ns:   from the start of one epoch to the start of the next, at least;
 *                 more after a pause longer than half of it
 * @timeout_ns:    silence that counts as a loss
 * @max_stall_ns:  output that is held for longer: the standby is given up; more than
 *                 @interval_ns
 * @fence_command: run by /bin/sh, or NULL
 * @fence_delay_ns: standby: from the loss to the fence command
 * @qmp:           path of the QMP socket, or NULL: found by pid
 * @ring_slots:    for the module; 0: its default
 * @worker_cpus:   for the module's workers; without @text: wherever they like
 * @attach_flags:  for the module, VMREPL_ATTACH_*
 * @freeze_flags:  for its checkpoints, VMREPL_FREEZE_*
 * @compress:      which pages go in fewer bytes
 * @delta_cache:   bytes of pages kept, to send what differs from them; 0: none
 * @sync_rate:     primary: most that a first sync takes of the link, bytes a second; 0: all
 * @streams:       primary: connections that pages go by
 * @max_epoch:     standby: largest epoch, bytes; 0: from the RAM size
 * @json:          file for events, or NULL
 * @yes:           promote without asking
 * @debug_break:   from the environment
 */
struct options {
	enum options_verb verb;
	pid_t vm;
	const struct link_ops *ops;
	struct link_addr addr;
	const char *key;
	bool insecure;
	uint64_t interval_ns;
	uint64_t timeout_ns;
	uint64_t max_stall_ns;
	const char *fence_command;
	uint64_t fence_delay_ns;
	const char *qmp;
	uint32_t ring_slots;
	struct cpulist worker_cpus;
	uint32_t attach_flags;
	uint32_t freeze_flags;
	enum encoder_mode compress;
	uint64_t delta_cache;
	uint64_t sync_rate;
	unsigned int streams;
	uint64_t max_epoch;
	const char *json;
	bool yes;
	enum options_break debug_break;
};

/* The usage text, for --help. */
extern const char options_usage[];

/* Reads the command line and the environment. Returns 0, or -EINVAL and @why. */
int options_parse(struct options *options, int argc, char **argv, struct why *why);

#endif /* VMREPL_OPTIONS_H */
