#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# clean_test: ends of agents and guests that are no failure of a host: nobody is
# fenced or promoted, the guest goes on, and nothing of ours stays on it. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

standby_log=$work/standby.log
primary_log=$work/primary.log
power_log=${VMREPL_CACHE:-$HOME/.cache/vmrepl}/run/$VMREPL_LAB/power.log

nobody_switched() {
	[[ ! -s $power_log ]] || { cat "$power_log"; return 1; }
}

not_promoted() {
	! grep -E "$(event promoted)|$(event fenced)" "$standby_log" && guest_status b inmigrate
}

primary_again() {
	primary_start "$@" && protected
}

# knows FROM: that the VM has ended; what else it was told is shown.
knows() {
	wait_line "$standby_log" 'the VM ended by itself' 10 "$1" ||
		{ tail -n "+$1" "$standby_log"; tail -n 8 "$primary_log"; return 1; }
}

agent_options=(--insecure)
hosts_up
rm -f "$power_log"
must guest_start a
must guest_start b -incoming defer
must guest_up a
must client_start

note "the primary's agent is told to stop, both sides with a fence command"
must standby_start --fence-command "lab-power off a"
must primary_start --fence-command "lab-power off b"
check "the guest is protected" protected || die "not protected"
check "it serves" served 10
check "release is refused while an agent works" says_no on a "$agent" release --vm "$(guest_pid a)"
check "the agent ends" agent_signal primary TERM
check "with success" agent_ends primary 0 30
check "nothing is left on the tap" tap_clean a
check "the guest runs" guest_runs a
check "it serves, on the same connection" served 10
check "the standby's agent says that it waits" \
	wait_line "$standby_log" 'ended protection.*not taking over, waiting' 10
check "its status too" state_is b waiting
check "it cannot be promoted by hand now" says_no on b "$agent" promote --yes
check "it protects again" primary_again --fence-command "lab-power off b"

note "the standby's agent is told to stop"
check "the agent ends" agent_signal standby TERM
check "with success" agent_ends standby 0 30
check "the primary's agent says that the guest is unprotected" \
	wait_line "$primary_log" 'UNPROTECTED' 10
check "the guest serves" served 10
check "nobody was switched off" nobody_switched
from=$(lines "$primary_log")
check "the standby's agent starts again" standby_start --fence-command "lab-power off a"
check "the guest is protected by itself" protected $((from + 1))
check "it serves" served 10
check "the primary's agent ends" agent_signal primary TERM
check "with success" agent_ends primary 0 30
check "the standby's agent ends" agent_signal standby TERM
check "with success" agent_ends standby 0 30

note "the primary's agent is killed, no fence commands"
must standby_start
check "the guest is protected" primary_again || die "not protected"
must agent_kill primary
check "the standby's agent notices" wait_line "$standby_log" "$(event lost)" 30
check "the guest runs" guest_runs a
check "its output is still held" says_no tap_clean a
check "release takes away what was left" on a "$agent" release --vm "$(guest_pid a)"
check "nothing is left on the tap" tap_clean a
check "the guest serves, on the same connection" served 10
check "protection starts anew" primary_again || die "not protected"
must agent_kill primary
check "the standby's agent notices again" wait_line "$standby_log" "$(event lost)" 30
check "a new agent needs no release" primary_again || die "not protected"
check "the guest serves, on the same connection" served 10
check "the standby did not take over" not_promoted

note "the guest's QEMU is killed"
must on a sh -c 'kill -KILL "$(cat /run/guest.pid)"'
check "the agent ends" agent_ends primary 0 30
check "and says why" grep 'the VM has ended' "$primary_log"
check "the standby's agent knows" wait_line "$standby_log" 'the VM ended by itself' 10
check "it waits" state_is b waiting
check "it did not take over" not_promoted
check "nothing is left on the tap" tap_clean a

# switches_off: a new guest, while it is protected.
switches_off() {
	must guest_start a
	must guest_up a
	check "a new guest is protected" primary_again || die "not protected"
	from=$(lines "$standby_log")
	"$lab" run client --timeout 20 -- busybox nc -w 5 "$guest_ip" 9 </dev/null >/dev/null 2>&1
	check "the agent ends" agent_ends primary 0 60
	check "and says why" grep 'the VM has ended' "$primary_log"
	check "nothing has failed" says_no grep -E '^vmrepl-agent: |UNPROTECTED|starting over' "$primary_log"
	check "the standby's agent knows" knows $((from + 1))
	check "it did not take over" not_promoted
	check "nothing is left on the tap" tap_clean a
}

note "the guest switches itself off"
switches_off
note "the guest switches itself off, and its process takes its time to end"
GUEST_QEMU="env LD_PRELOAD=$build/late_end.so qemu-system-x86_64" switches_off

note "the standby's QEMU is killed"
must on b sh -c 'kill -KILL "$(cat /run/guest.pid)"'
check "its agent ends with a failure" agent_ends standby 1 30
check "and says what to do" grep 'has ended; start it again with -incoming defer' "$standby_log"

note "the primary's host dies in the first sync"
must guest_start b -incoming defer
must standby_start --timeout 5000 --fence-command "lab-power off a"
must guest_start a
must primary_start --timeout 5000 --fence-command "lab-power off b"
must wait_line "$standby_log" 'first sync from' 60
"$lab" kill a
check "the standby's agent has nothing to take over with" \
	wait_line "$standby_log" 'there was no complete checkpoint yet: waiting for the primary' 30
check "it did not take over" not_promoted
check "nobody was switched off" nobody_switched
done_testing
