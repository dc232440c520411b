#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# sanitizers.sh: run in a host with the debug kernel when a test has ended. Fails, and
# says why, if memory is lost or if lockdep has been off; what else that kernel
# complains about is in its log (lab dmesg-check).
set -euo pipefail

# kmemleak tells of nothing that is younger than 5 s, and of that in the second scan.
SCAN_SECONDS=7
leaks=/sys/kernel/debug/kmemleak
failed=0

mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug

# scan WHEN: looking through memory takes seconds, so there is nothing to wait for.
scan() {
	local end=$((SECONDS + SCAN_SECONDS)) found

	echo scan >"$leaks"
	while ((SECONDS < end)); do
		echo scan >"$leaks"
	done
	echo scan >"$leaks"
	found=$(<"$leaks")
	[[ $found ]] || return 0
	printf 'memory is lost, %s:\n%s\n' "$1" "$found"
	echo clear >"$leaks"
	failed=1
}

scan "with the module loaded"
rmmod vmrepl
# What only the module's own variables pointed to shows now.
scan "when the module is gone"
if ! grep -qE '^ *debug_locks: +1$' /proc/lockdep_stats; then
	echo "lockdep is off: it has found something, or has run out of room"
	failed=1
fi
exit "$failed"
