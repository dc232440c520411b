#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# failover_test: a host loses its power under load; the guest goes on from the other
# host with nothing lost, its memory is the primary's at the last checkpoint to the
# byte, and it can be rebooted there. With VMREPL_MODULE_OPTIONS=debug_break=1024 every
# fourth checkpoint is torn on the way. TAP.
#
#	failover_test.sh [--insecure] [OPTION...]
#
# --insecure is for both agents, other options are the primary's.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

promoted_epoch() {
	sed -n 's/.*"event":"promoted","epoch":\([0-9]*\),.*/\1/p' "$work/standby.log"
}

# The memory changes from one checkpoint to the next, or equality would mean little.
memory_changes() {
	(($(hashes primary | cut -d' ' -f2 | sort -u | wc -l) >= 10))
}

promoted_is_compared() {
	local epoch

	epoch=$(promoted_epoch)
	[[ $epoch ]] && join <(hashes primary) <(hashes standby) | grep -q "^$epoch "
}

# Acknowledged is only what was taken again.
torn_on_the_way() {
	grep -q "$(event torn)" "$work/primary.log"
}

copied_on_write() {
	grep -q '"event":"epoch".*"cow":true' "$work/primary.log"
}

went() { # FIELD of the status: so many pages went so
	local pages

	pages=$(agent_status a "$1")
	echo "$1: $pages"
	((pages > 100))
}

# Its first line may come behind one that the reset has cut off.
reboots() {
	local from

	from=$(lines "$work/b.guest")
	qmp b '{"execute":"system_reset"}' &&
		wait_line "$work/b.guest" 'guest: up' 120 $((from + 1)) &&
		wait_line "$work/b.guest" '^guest: serves' 60 $((from + 1))
}

primary_options=("$@")
if [[ ${1:-} == --insecure ]]; then
	agent_options=(--insecure)
	primary_options=("${@:2}")
fi
hosts_up
must guest_start a
must guest_start b -incoming defer
must guest_up a
must client_start

agent_env=(VMREPL_DEBUG_HASH=1)
must standby_start --timeout 5000 --fence-command "lab-power off a"
must primary_start --timeout 5000 --fence-command "lab-power off b" "${primary_options[@]}"
check "the guest is protected" protected || die "not protected"
check "the primary's agent has given up what it does not need" confined a
check "the standby's, too" confined b
check "checkpoints are made" epochs 12
check "it serves meanwhile" served 5
if [[ ${VMREPL_MODULE_OPTIONS:-} == *debug_break=1024* ]]; then
	check "checkpoints are torn, and taken again" torn_on_the_way
else
	check "the guest goes on while they are copied" copied_on_write
fi
if [[ " ${primary_options[*]} " == *" --compress always "* ]]; then
	check "pages go as what differs" went delta-pages
	check "and compressed" went lz4-pages
	note "$(agent_status a bytes-of-page) bytes for a page"
fi
check "the twin on b waits" guest_status b inmigrate

"$lab" kill a
check "b's agent sees it" wait_line "$work/standby.log" "$(event lost)" 30
check "it switches a off" wait_line "$work/standby.log" "$(event fenced)" 30
check "it runs the guest" wait_line "$work/standby.log" "$(event promoted)" 60
check "the guest runs on b" guest_runs b
check "it serves its client" served 50
check "the client ends" client_stop
check "nothing acknowledged is lost, the connection is kept" nothing_lost
note "$(grep '^result' "$work/client.log")"
check "the standby's memory is the primary's at every checkpoint" memory_equal
note "$(join <(hashes primary) <(hashes standby) | wc -l) checkpoints compared"
check "also at the one that runs now" promoted_is_compared
check "the memory is another at each checkpoint" memory_changes
check "the guest reboots on b" reboots
check "it serves again" client_start
check "and goes on" served 20
check "b's agent ends" agent_signal standby TERM
check "with success" agent_ends standby 0 30
check "the guest stays" guest_runs b
done_testing
