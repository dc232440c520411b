// SPDX-License-Identifier: GPL-2.0
/*
 * options: every value is checked here, so that nobody has to later.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "vmrepl.h"

#define OPTIONS_MAX_STALL_NS	(10 * NSEC_PER_SEC)

const char options_usage[] =
"usage: vmrepl-agent --vm PID --to ADDR[:PORT] [options]           protect a running VM\n"
"       vmrepl-agent --standby --listen ADDR[:PORT] --vm PID [options]  be its standby\n"
"       vmrepl-agent status [--vm PID]                             how is it?\n"
"       vmrepl-agent promote [--vm PID] [--yes]                    run the guest here, by hand\n"
"       vmrepl-agent release --vm PID                              clean up after a killed agent\n"
"       vmrepl-agent keygen [FILE]                                 make a key for your hosts\n"
"\n"
"  --vm PID             the QEMU process\n"
"  --to ADDR[:PORT]     the standby's agent (port 7788)\n"
"  --standby            be the standby; the VM waits with -incoming defer\n"
"  --listen ADDR[:PORT] where the standby waits for the primary (port 7788)\n"
"  --key FILE           the key that both hosts have, see keygen (" KEY_FILE_DEFAULT ")\n"
"  --link HOW           'tcp'; or 'rdma': pages by RDMA, not encrypted, the rest as with\n"
"                       tcp. Both sides; where one cannot, pages go by TCP (tcp)\n"
"  --streams N          TCP connections that pages go by, 1 to 8 (1)\n"
"  --insecure           without a key: nothing is encrypted, and anybody can be the other side\n"
"  --interval MS        a checkpoint at most this often (100)\n"
"  --timeout MS         silence of the other side that counts as its loss (2000)\n"
"  --max-stall MS       primary: give the standby up when output has been held for so\n"
"                       long, and sync it again (10000, or four intervals)\n"
"  --fence-command CMD  switches the other host off; exit 0 means that it is off.\n"
"                       On both sides or on neither. Without it the standby never\n"
"                       takes over by itself\n"
"  --fence-delay MS     standby: wait so long before fencing, so that after a mere\n"
"                       cut of the link the primary wins (500)\n"
"  --qmp PATH           QEMU's QMP socket (found from the pid)\n"
"  --ring-slots N       pages in each of the module's rings (4096)\n"
"  --worker-cpus LIST   the CPUs that the module copies on, as 2-3,8 (any)\n"
"  --copy=HOW           'cow': the guest goes on while its pages are copied, each before\n"
"                       it is written; or 'pause': it stands meanwhile (cow)\n"
"  --same-pages HOW     pages that were written with what they held before: found by\n"
"                       'hash', found 'exact'ly (takes as much memory as the guest\n"
"                       has), or 'send' them (hash)\n"
"  --compress WHEN      pages in fewer bytes, by what differs and by LZ4: 'auto' where that\n"
"                       takes less time than the link would, 'always' or 'never' (auto)\n"
"  --delta-cache-mib N  what to keep of the pages sent last, to compare with; 0: nothing (64)\n"
"  --sync-mib-per-s N   the most that a first sync takes of the link (all that it carries)\n"
"  --max-epoch-mib N    standby: largest checkpoint accepted (a little over RAM size)\n"
"  --json FILE          write events there, a JSON object a line\n"
"  --help, --version\n"
"\n"
"vmrepl-agent(8) has the rest.\n";

enum {
	OPT_VM = 1,
	OPT_TO,
	OPT_STANDBY,
	OPT_LISTEN,
	OPT_KEY,
	OPT_LINK,
	OPT_INSECURE,
	OPT_INTERVAL,
	OPT_TIMEOUT,
	OPT_MAX_STALL,
	OPT_FENCE_COMMAND,
	OPT_FENCE_DELAY,
	OPT_QMP,
	OPT_RING_SLOTS,
	OPT_WORKER_CPUS,
	OPT_COPY,
	OPT_SAME_PAGES,
	OPT_COMPRESS,
	OPT_DELTA_CACHE,
	OPT_SYNC_RATE,
	OPT_STREAMS,
	OPT_MAX_EPOCH,
	OPT_JSON,
	OPT_YES,
	OPT_HELP,
	OPT_VERSION,
};

static const struct option long_options[] = {
	{ "vm",			required_argument,	NULL, OPT_VM },
	{ "to",			required_argument,	NULL, OPT_TO },
	{ "standby",		no_argument,		NULL, OPT_STANDBY },
	{ "listen",		required_argument,	NULL, OPT_LISTEN },
	{ "key",		required_argument,	NULL, OPT_KEY },
	{ "link",		required_argument,	NULL, OPT_LINK },
	{ "insecure",		no_argument,		NULL, OPT_INSECURE },
	{ "interval",		required_argument,	NULL, OPT_INTERVAL },
	{ "timeout",		required_argument,	NULL, OPT_TIMEOUT },
	{ "max-stall",		required_argument,	NULL, OPT_MAX_STALL },
	{ "fence-command",	required_argument,	NULL, OPT_FENCE_COMMAND },
	{ "fence-delay",	required_argument,	NULL, OPT_FENCE_DELAY },
	{ "qmp",		required_argument,	NULL, OPT_QMP },
	{ "ring-slots",		required_argument,	NULL, OPT_RING_SLOTS },
	{ "worker-cpus",	required_argument,	NULL, OPT_WORKER_CPUS },
	{ "copy",		required_argument,	NULL, OPT_COPY },
	{ "same-pages",		required_argument,	NULL, OPT_SAME_PAGES },
	{ "compress",		required_argument,	NULL, OPT_COMPRESS },
	{ "delta-cache-mib",	required_argument,	NULL, OPT_DELTA_CACHE },
	{ "sync-mib-per-s",	required_argument,	NULL, OPT_SYNC_RATE },
	{ "streams",		required_argument,	NULL, OPT_STREAMS },
	{ "max-epoch-mib",	required_argument,	NULL, OPT_MAX_EPOCH },
	{ "json",		required_argument,	NULL, OPT_JSON },
	{ "yes",		no_argument,		NULL, OPT_YES },
	{ "help",		no_argument,		NULL, OPT_HELP },
	{ "version",		no_argument,		NULL, OPT_VERSION },
	{ NULL,			0,			NULL, 0 },
};

static int options_number(const char *name, const char *text, uint64_t min, uint64_t max,
			  uint64_t *value, struct why *why)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || *value < min || *value > max)
		return why_set(why, EINVAL, "--%s wants a number from %llu to %llu, not '%s'", name,
			       (unsigned long long)min, (unsigned long long)max, text);
	return 0;
}

static int options_same(struct options *options, const char *text, struct why *why)
{
	if (!strcmp(text, "hash"))
		options->attach_flags = VMREPL_ATTACH_HASH;
	else if (!strcmp(text, "exact"))
		options->attach_flags = VMREPL_ATTACH_EXACT;
	else if (!strcmp(text, "send"))
		options->attach_flags = 0;
	else
		return why_set(why, EINVAL, "--same-pages can be hash, exact or send, not '%s'", text);
	return 0;
}

static int options_copy(struct options *options, const char *text, struct why *why)
{
	if (!strcmp(text, "cow"))
		options->freeze_flags = VMREPL_FREEZE_COW;
	else if (!strcmp(text, "pause"))
		options->freeze_flags = 0;
	else
		return why_set(why, EINVAL, "--copy can be cow or pause, not '%s'", text);
	return 0;
}

static int options_compress(struct options *options, const char *text, struct why *why)
{
	static const char *const modes[] = {
		[ENCODER_AUTO] = "auto", [ENCODER_ALWAYS] = "always", [ENCODER_NEVER] = "never",
	};
	unsigned int i;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (!strcmp(text, modes[i])) {
			options->compress = (enum encoder_mode)i;
			return 0;
		}
	}
	return why_set(why, EINVAL, "--compress can be auto, always or never, not '%s'", text);
}

static int options_break(struct options *options, struct why *why)
{
	const char *text = getenv("VMREPL_DEBUG_BREAK");

	if (!text || !*text)
		return 0;
	if (!strcmp(text, "ack-early"))
		options->debug_break = OPTIONS_BREAK_ACK_EARLY;
	else if (!strcmp(text, "apply-early"))
		options->debug_break = OPTIONS_BREAK_APPLY_EARLY;
	else if (!strcmp(text, "give-early"))
		options->debug_break = OPTIONS_BREAK_GIVE_EARLY;
	else
		return why_set(why, EINVAL,
			       "VMREPL_DEBUG_BREAK is '%s'; it can be ack-early, apply-early or give-early", text);
	return 0;
}

/* Which options go with which verb. */
static int options_check(const struct options *options, const char *to, const char *listen,
			 uint64_t seen, struct why *why)
{
	static const uint64_t common = 1u << OPT_VM;
	static const uint64_t serving = 1u << OPT_TIMEOUT | 1u << OPT_FENCE_COMMAND |
					1u << OPT_QMP | 1u << OPT_JSON |
					1u << OPT_KEY | 1u << OPT_LINK | 1u << OPT_INSECURE;
	uint64_t allowed = common;
	unsigned int i;

	switch (options->verb) {
	case OPTIONS_PRIMARY:
		allowed |= serving | 1u << OPT_TO | 1u << OPT_INTERVAL | 1u << OPT_MAX_STALL | 1u << OPT_RING_SLOTS |
			   1u << OPT_WORKER_CPUS | 1u << OPT_COPY | 1u << OPT_SAME_PAGES |
			   1u << OPT_COMPRESS | 1u << OPT_DELTA_CACHE |
			   1u << OPT_SYNC_RATE | 1u << OPT_STREAMS;
		break;
	case OPTIONS_STANDBY:
		allowed |= serving | 1u << OPT_STANDBY | 1u << OPT_LISTEN |
			   1u << OPT_FENCE_DELAY | 1u << OPT_MAX_EPOCH;
		break;
	case OPTIONS_PROMOTE:
		allowed |= 1u << OPT_YES;
		break;
	case OPTIONS_KEYGEN:
		allowed = 0;
		break;
	default:
		break;
	}
	for (i = 0; long_options[i].name; i++)
		if (seen & ~allowed & 1u << long_options[i].val)
			return why_set(why, EINVAL, "--%s has no meaning here; see vmrepl-agent --help",
				       long_options[i].name);
	if (options->verb == OPTIONS_PRIMARY && !to)
		return why_set(why, EINVAL,
			       "--to ADDR[:PORT] is missing: where the standby's agent listens");
	if (options->verb == OPTIONS_STANDBY && !listen)
		return why_set(why, EINVAL,
			       "--listen ADDR[:PORT] is missing: where to wait for the primary");
	if (seen & 1u << OPT_STREAMS && options->ops != &link_tcp)
		return why_set(why, EINVAL, "--streams goes with --link tcp");
	if (options->key && options->insecure)
		return why_set(why, EINVAL, "--key and --insecure contradict each other");
	if (!options->vm && options->verb != OPTIONS_STATUS && options->verb != OPTIONS_PROMOTE &&
	    options->verb != OPTIONS_KEYGEN)
		return why_set(why, EINVAL, "--vm PID is missing: the process id of the QEMU");
	return 0;
}

int options_parse(struct options *options, int argc, char **argv, struct why *why)
{
	const char *to = NULL, *listen = NULL;
	uint64_t seen = 0, v;
	int opt, err;

	*options = (struct options) {
		.verb = OPTIONS_PRIMARY,
		.ops = &link_tcp,
		.interval_ns = 100 * NSEC_PER_MSEC,
		.attach_flags = VMREPL_ATTACH_HASH,
		.freeze_flags = VMREPL_FREEZE_COW,
		.delta_cache = 64u << 20,
		.streams = 1,
		.timeout_ns = 2000 * NSEC_PER_MSEC,
		.fence_delay_ns = 500 * NSEC_PER_MSEC,
	};
	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		if (opt == '?')
			return why_set(why, EINVAL, "there is no option '%s'; see vmrepl-agent --help",
				       argv[optind - 1]);
		if (opt == ':')
			return why_set(why, EINVAL, "%s wants a value; see vmrepl-agent --help",
				       argv[optind - 1]);
		seen |= 1u << opt;
		err = 0;
		switch (opt) {
		case OPT_VM:
			err = options_number("vm", optarg, 1, INT32_MAX, &v, why);
			options->vm = (pid_t)v;
			break;
		case OPT_TO:
			to = optarg;
			break;
		case OPT_STANDBY:
			options->verb = OPTIONS_STANDBY;
			break;
		case OPT_LISTEN:
			listen = optarg;
			break;
		case OPT_KEY:
			options->key = optarg;
			break;
		case OPT_LINK:
			options->ops = link_named(optarg);
			if (!options->ops)
				err = why_set(why, EINVAL, "--link can be tcp or rdma, not '%s'", optarg);
			break;
		case OPT_INSECURE:
			options->insecure = true;
			break;
		case OPT_INTERVAL:
			err = options_number("interval", optarg, 1, 60000, &v, why);
			options->interval_ns = v * NSEC_PER_MSEC;
			break;
		case OPT_TIMEOUT:
			err = options_number("timeout", optarg, 100, 600000, &v, why);
			options->timeout_ns = v * NSEC_PER_MSEC;
			break;
		case OPT_MAX_STALL:
			err = options_number("max-stall", optarg, 100, 3600000, &v, why);
			options->max_stall_ns = v * NSEC_PER_MSEC;
			break;
		case OPT_FENCE_COMMAND:
			if (!*optarg)
				err = why_set(why, EINVAL, "--fence-command is empty");
			options->fence_command = optarg;
			break;
		case OPT_FENCE_DELAY:
			err = options_number("fence-delay", optarg, 0, 600000, &v, why);
			options->fence_delay_ns = v * NSEC_PER_MSEC;
			break;
		case OPT_QMP:
			options->qmp = optarg;
			break;
		case OPT_RING_SLOTS:
			err = options_number("ring-slots", optarg, VMREPL_RING_MIN, VMREPL_RING_MAX,
					     &v, why);
			if (!err && (v & (v - 1)))
				err = why_set(why, EINVAL, "--ring-slots wants a power of two, not %s",
					      optarg);
			options->ring_slots = (uint32_t)v;
			break;
		case OPT_WORKER_CPUS:
			if (!cpulist_parse(&options->worker_cpus, optarg))
				err = why_set(why, EINVAL,
					      "--worker-cpus wants CPUs and ranges of them, as in 2-3,8, not '%s'",
					      optarg);
			break;
		case OPT_COPY:
			err = options_copy(options, optarg, why);
			break;
		case OPT_SAME_PAGES:
			err = options_same(options, optarg, why);
			break;
		case OPT_COMPRESS:
			err = options_compress(options, optarg, why);
			break;
		case OPT_DELTA_CACHE:
			err = options_number("delta-cache-mib", optarg, 0, 1u << 20, &v, why);
			options->delta_cache = v << 20;
			break;
		case OPT_SYNC_RATE:
			err = options_number("sync-mib-per-s", optarg, 1, 1u << 20, &v, why);
			options->sync_rate = v << 20;
			break;
		case OPT_STREAMS:
			err = options_number("streams", optarg, 1, LINK_LANES_MAX, &v, why);
			options->streams = (unsigned int)v;
			break;
		case OPT_MAX_EPOCH:
			err = options_number("max-epoch-mib", optarg, 1, 1u << 24, &v, why);
			options->max_epoch = v << 20;
			break;
		case OPT_JSON:
			options->json = optarg;
			break;
		case OPT_YES:
			options->yes = true;
			break;
		case OPT_HELP:
			options->verb = OPTIONS_HELP;
			return 0;
		case OPT_VERSION:
			options->verb = OPTIONS_VERSION;
			return 0;
		}
		if (err)
			return err;
	}
	if (optind < argc) {
		const char *verb = argv[optind];

		if (!strcmp(verb, "status"))
			options->verb = OPTIONS_STATUS;
		else if (!strcmp(verb, "promote"))
			options->verb = OPTIONS_PROMOTE;
		else if (!strcmp(verb, "release"))
			options->verb = OPTIONS_RELEASE;
		else if (!strcmp(verb, "keygen"))
			options->verb = OPTIONS_KEYGEN;
		else
			return why_set(why, EINVAL, "what is '%s'? See vmrepl-agent --help", verb);
		optind++;
	}
	if (options->verb == OPTIONS_KEYGEN && optind < argc)
		options->key = argv[optind++];
	if (optind < argc)
		return why_set(why, EINVAL, "what is '%s'? See vmrepl-agent --help", argv[optind]);
	err = options_check(options, to, listen, seen, why);
	if (err)
		return err;
	if (!options->max_stall_ns)
		options->max_stall_ns = options->interval_ns > OPTIONS_MAX_STALL_NS / 4 ?
					options->interval_ns * 4 : OPTIONS_MAX_STALL_NS;
	if (options->max_stall_ns <= options->interval_ns)
		return why_set(why, EINVAL, "--max-stall must be longer than --interval: output waits that long anyway");
	if ((to || listen) && !options->ops->resolve(to ? to : listen, &options->addr, why))
		return -EINVAL;
	return options_break(options, why);
}
