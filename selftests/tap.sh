# SPDX-License-Identifier: GPL-2.0
# tap: test results as TAP, for tests that are scripts; tap.h is the same in C.
#
#	tap_said		where what the command of a check says is kept: whoever sources
#				this sets it to a file of its own, before the first check
#	check NAME COMMAND...	one result: ok if the command succeeds; if not, what it said is
#				shown. Returns whether it did: under set -e that would be the end
#	tap_failed		how many did not
#	tap_done		the plan; ends the script, with 1 if any failed
# shellcheck shell=bash

tap_count=0
tap_failed=0
tap_said=

check() {
	local name=$1

	shift
	tap_count=$((tap_count + 1))
	# Not in a subshell: a command may set variables, and start jobs.
	if "$@" >"$tap_said" 2>&1; then
		echo "ok $tap_count - $name"
		return 0
	fi
	echo "not ok $tap_count - $name"
	sed 's/^/# /' "$tap_said"
	tap_failed=$((tap_failed + 1))
	return 1
}

tap_done() {
	echo "1..$tap_count"
	exit $((tap_failed > 0))
}
