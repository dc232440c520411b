#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# hold_test: nothing that the guest sends is seen outside before the standby has
# acknowledged the checkpoint behind it (I1). TAP.
#
# Checkpoints are 3 s apart here. Right after one was acknowledged the standby's agent
# is frozen, so the next one is made and never acknowledged: the guest goes on and
# answers pings, and not one frame of it may arrive until the standby is thawed.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

interval=3000

protect() {
	standby_start --timeout 60000 || return 1
	primary_start --timeout 60000 --interval "$interval" && protected
}

unprotect() {
	agent_signal primary TERM && agent_ends primary 0 30 &&
		agent_signal standby TERM && agent_ends standby 0 30
}

# pending: the guest's last checkpoint is younger than the last acknowledgement. Both
# times are of host a's clock.
pending() {
	local resumed acked

	resumed=$(sed -n 's/.*"seconds": \([0-9]*\), "microseconds": \([0-9]*\)}, "event": "RESUME".*/\1 \2/p' \
		"$work/events.log" | tail -n 1)
	acked=$(sed -n "s/.*\"unix\":\([0-9.]*\),$(event epoch).*/\1/p" "$work/primary.log" | tail -n 1)
	awk -v r="$resumed" -v a="$acked" \
		'BEGIN { split(r, t, " "); exit !(t[1] + t[2] / 1000000 > a) }'
}

# hold: freezes the standby, has the guest make a checkpoint, and counts the frames
# that got out after the last acknowledged one: in $leaked. Leaves the standby frozen.
hold() {
	local acked before stops

	epochs 1 || return 1
	acked=$(grep -c "$(event epoch)" "$work/primary.log")
	agent_signal standby STOP || return 1
	# What the acknowledged epoch let go has arrived long before these ticks are over.
	guest_runs a 5 || return 1
	before=$(lines "$work/frames.log")
	# On a busy machine the checkpoint may be there already; there is only one.
	stops=$(grep -c '"RESUME"' "$work/events.log")
	pending || wait_count "$work/events.log" '"RESUME"' $((stops + 1)) 1 || return 1
	guest_runs a 20 || return 1
	leaked=$(($(lines "$work/frames.log") - before))
	[[ $(grep -c "$(event epoch)" "$work/primary.log") == "$acked" ]] ||
		{ echo "a checkpoint was acknowledged by a frozen standby"; return 1; }
}

nothing_leaked() {
	[[ $leaked == 0 ]] || { echo "$leaked frames got out"; tail -n 5 "$work/frames.log"; return 1; }
}

something_held() {
	local packets

	packets=$(agent_status a held-packets)
	((packets > 0)) || { echo "the plug holds '$packets' packets"; return 1; }
	[[ $(agent_status a output) == held ]]
}

# Pings that were sent while the standby was frozen are answered after it.
thaw() {
	local from

	from=$(lines "$work/frames.log")
	agent_signal standby CONT && wait_count "$work/frames.log" 'ICMP echo reply' 20 $((from + 1))
}

agent_options=(--insecure)
hosts_up
must guest_start a
must guest_start b -incoming defer
must guest_up a
must frames_start
# Its checkpoints are STOP and RESUME.
must watch_events a
"$lab" run client -- ping -n -i 0.1 "$guest_ip" >"$work/ping.log" 2>&1 &
followers+=($!)
must wait_line "$work/ping.log" 'bytes from' 30

check "the guest is protected" protect || die "not protected"
check "the guest answers while it is protected" epochs 2
must wait_line "$work/frames.log" 'ICMP echo reply' 30 "$(($(lines "$work/frames.log") + 1))"
check "the standby is frozen, the guest goes on and makes a checkpoint" hold || die "not held"
check "no frame of the guest gets out meanwhile" nothing_leaked
check "its answers are in the plug" something_held
check "they come when the standby goes on" thaw
check "protection goes on" epochs 2
check "both agents end" unprotect
check "the tap is as it was" tap_clean a

agent_env=(VMREPL_DEBUG_BREAK=ack-early)
check "a primary that releases early protects" protect || die "not protected"
check "the standby is frozen, the guest makes a checkpoint" hold || die "not held"
check "the frames it releases early are seen" says_no nothing_leaked
check "it goes on when the standby does" thaw
check "both agents end" unprotect
done_testing
