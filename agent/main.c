// SPDX-License-Identifier: GPL-2.0
/*
 * vmrepl-agent: protects a running QEMU/KVM guest, or stands by for one.
 */
#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "confine.h"
#include "control.h"
#include "fencer.h"
#include "key.h"
#include "loop.h"
#include "options.h"
#include "plug.h"
#include "primary.h"
#include "procvm.h"
#include "report.h"
#include "standby.h"
#include "tls.h"

static int main_fail(const struct why *why)
{
	report_error("%s", why->text);
	return 1;
}

static int main_reply(struct json_object *reply)
{
	struct json_object *error;
	int code = 0;

	if (json_object_object_get_ex(reply, "error", &error)) {
		report_error("%s", json_object_get_string(error));
		json_object_put(reply);
		return 1;
	}
	json_object_object_foreach(reply, name, value)
		printf("%-16s %s\n", name, json_object_get_string(value));
	json_object_put(reply);
	return code;
}

static int main_status(const struct options *options)
{
	struct json_object *reply;
	struct why why;

	if (control_ask(options->vm, "status", &reply, &why))
		return main_fail(&why);
	return main_reply(reply);
}

static int main_promote(const struct options *options)
{
	struct json_object *reply;
	struct why why;
	char line[16];

	if (!options->yes) {
		fputs("Promotion by hand runs the guest here from its last complete checkpoint.\n"
		      "If it still runs on the primary it then runs twice, and what it has done\n"
		      "there since that checkpoint is lost. Make sure that the primary host, or\n"
		      "its QEMU, is off.\n", stderr);
		if (!isatty(STDIN_FILENO)) {
			report_error("not promoting without a confirmation; add --yes");
			return 1;
		}
		fputs("Promote? (yes/no) ", stderr);
		if (!fgets(line, sizeof(line), stdin) || strcmp(line, "yes\n")) {
			report_error("not promoted");
			return 1;
		}
	}
	if (control_ask(options->vm, "promote", &reply, &why))
		return main_fail(&why);
	return main_reply(reply);
}

/* What an agent that was killed has left on the taps of a VM. */
static int main_release(const struct options *options)
{
	struct procvm vm;
	struct why why;
	unsigned int i;
	int removed = 0, err;

	if (control_served(options->vm)) {
		report_error("a vmrepl-agent serves the VM of process %d; stop that one instead",
			     options->vm);
		return 1;
	}
	err = procvm_open(&vm, options->vm, &why);
	if (!err) {
		for (i = 0; i < vm.nr_taps; i++) {
			err = plug_cleanup(vm.taps[i].ifname, &why);
			if (err < 0)
				break;
			removed += err;
		}
		procvm_close(&vm);
	} else if (err == -ESRCH) {
		err = plug_cleanup(NULL, &why);
		removed = err;
	}
	if (err < 0)
		return main_fail(&why);
	puts(removed ? "removed what a killed agent had left; held output was dropped" :
	     "nothing was left");
	return 0;
}

static int main_keygen(const struct options *options)
{
	const char *path = options->key ? options->key : KEY_FILE_DEFAULT;
	struct key key;
	struct why why;

	if (key_make(&key, path, &why))
		return main_fail(&why);
	printf("%s has key %s now: copy it to the other hosts, as root's and for nobody else\n",
	       path, key.id);
	return 0;
}

/*
 * The key of the connection, where it has one: only on this host it may have none
 * without being told so.
 */
static int main_secure(struct options *options, struct key *key, struct why *why)
{
	const char *path = options->key ? options->key : KEY_FILE_DEFAULT;
	int err;

	if (options->insecure)
		return 0;
	err = key_load(key, path, why);
	if (err == -ENOENT && !options->key) {
		if (options->ops->loopback(&options->addr))
			return 0;
		return why_set(why, ENOKEY, "there is no key %s: 'vmrepl-agent keygen' makes it; copy it to both hosts. Or --insecure, on a network that is only theirs",
			       path);
	}
	if (!err)
		err = tls_available(why);
	if (!err)
		options->addr.key = key;
	return err;
}

/*
 * A host that is short of memory or time must not make us look dead to the other
 * side. Where that is not allowed we go on without.
 */
static void main_insist(void)
{
	mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
	setpriority(PRIO_PROCESS, 0, -20);
}

static void main_warn(const struct options *options)
{
	static const char *const broken[] = {
		[OPTIONS_BREAK_ACK_EARLY] = "output is released before the standby has acknowledged it",
		[OPTIONS_BREAK_APPLY_EARLY] = "the standby applies epochs before they are whole",
		[OPTIONS_BREAK_GIVE_EARLY] = "pages are overwritten while they are sent",
	};

	if (options->debug_break)
		report_warn("VMREPL_DEBUG_BREAK IS SET: %s. THIS AGENT LOSES DATA ON PURPOSE, FOR TESTS",
			    broken[options->debug_break]);
	if (options->insecure)
		report_warn("--insecure: who can reach the network between the hosts can read the guest's memory, and can pass for either of them");
	else if (!options->addr.key)
		report_phase("no key: what stays on this host is not encrypted, and any of its users can pass for the other side");
}

/* What needs all rights, then without them. */
static int main_run(const struct options *options, struct fencer *fencer)
{
	struct loop *loop;
	struct why why;

	main_insist();
	main_warn(options);
	loop = loop_new();
	if (!loop) {
		report_error("cannot make an io_uring: %s; see the sysctl kernel.io_uring_disabled",
			     strerror(errno));
		return 1;
	}
	if (confine(&why))
		report_warn("this agent keeps more rights than it needs: %s", why.text);
	return options->verb == OPTIONS_STANDBY ? standby_run(options, loop, fencer) :
						  primary_run(options, loop, fencer);
}

static int main_serve(struct options *options)
{
	struct fencer *fencer = NULL;
	struct key key = { 0 };
	struct why why;
	int err;

	if (options->fence_command) {
		fencer = fencer_new(options->fence_command,
				    options->verb == OPTIONS_STANDBY ? "standby" : "primary",
				    options->vm, &why);
		if (!fencer)
			return main_fail(&why);
	}
	/* Sockets say it with EPIPE. */
	signal(SIGPIPE, SIG_IGN);
	err = main_secure(options, &key, &why);
	if (err) {
		err = main_fail(&why);
		goto out;
	}
	err = report_open(options->json);
	if (err) {
		report_error("cannot write %s: %s", options->json, strerror(-err));
		err = 1;
		goto out;
	}
	err = main_run(options, fencer);
	report_close();
out:
	explicit_bzero(&key, sizeof(key));
	fencer_free(fencer);
	return err;
}

int main(int argc, char **argv)
{
	struct options options;
	struct why why;

	if (options_parse(&options, argc, argv, &why)) {
		main_fail(&why);
		return 2;
	}
	switch (options.verb) {
	case OPTIONS_PRIMARY:
	case OPTIONS_STANDBY:
		return main_serve(&options);
	case OPTIONS_STATUS:
		return main_status(&options);
	case OPTIONS_PROMOTE:
		return main_promote(&options);
	case OPTIONS_RELEASE:
		return main_release(&options);
	case OPTIONS_KEYGEN:
		return main_keygen(&options);
	case OPTIONS_HELP:
		fputs(options_usage, stdout);
		return 0;
	case OPTIONS_VERSION:
		puts("vmrepl-agent " AGENT_VERSION);
		return 0;
	}
	return 2;
}
