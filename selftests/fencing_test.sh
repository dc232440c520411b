#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# fencing_test: who may go on when the two sides have lost each other (I5, I1). With a
# fence command only after it has succeeded, without one never by itself. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

primary_log=$work/primary.log
standby_log=$work/standby.log
fence_a=(--timeout 5000 --fence-command "lab-power off a")
fence_b=(--timeout 5000 --fence-command "lab-power off b")

# output_held: while the guest runs on for two seconds, nothing of it arrives.
output_held() {
	local from

	from=$(lines "$work/frames.log")
	guest_runs a 20 || return 1
	[[ $(lines "$work/frames.log") == "$from" ]] ||
		{ echo "frames got out:"; tail -n +$((from + 1)) "$work/frames.log"; return 1; }
	[[ $(agent_status a output) == held ]] || { echo "status does not say held"; return 1; }
}

# refuses_unasked: no confirmation, no terminal: a sentence, and no promotion.
refuses_unasked() {
	local said

	said=$(on b "$agent" promote 2>&1 </dev/null) && { echo "it was promoted"; return 1; }
	echo "$said"
	grep -q 'runs twice' <<<"$said" && grep -q 'add --yes' <<<"$said"
}

one_is_up() {
	local up=()

	is_up a && up+=(a)
	is_up b && up+=(b)
	[[ ${#up[@]} == 1 ]] || { echo "up: ${up[*]}"; return 1; }
}

agent_options=(--insecure)
hosts_up
must guest_start a
must guest_start b -incoming defer
must guest_up a
must client_start
must frames_start

note "the standby's host dies, the power switch refuses"
must standby_start "${fence_a[@]}"
must primary_start "${fence_b[@]}"
check "the guest is protected" protected || die "not protected"
check "it serves" served 10
"$lab" power refuse
"$lab" kill b
check "the primary's agent sees it" wait_line "$primary_log" "$(event lost)" 30
check "it tries to fence, again and again" wait_count "$primary_log" "$(event fence-failed)" 2 1
check "and says so" wait_line "$primary_log" 'fence command failed with exit code .*trying again' 10
check "output stays held, the guest runs" output_held
check "its status says what it does" state_is a fencing
"$lab" power ok
check "the switch works: fenced" wait_line "$primary_log" "$(event fenced)" 30
check "the agent says that the guest is unprotected" wait_line "$primary_log" 'UNPROTECTED' 10
check "the guest serves, on the same connection" served 10
check "the kernel of b was content" "$lab" dmesg-check b
from=$(lines "$primary_log")
must host_up b
must guest_start b -incoming defer
must standby_start "${fence_a[@]}"
check "with b back it is protected by itself" protected $((from + 1))
check "it serves" served 10
must agent_signal primary TERM
check "the primary's agent ends" agent_ends primary 0 30
must agent_signal standby TERM
check "the standby's agent ends" agent_ends standby 0 30

note "no fence commands"
must standby_start --timeout 5000
must primary_start --timeout 5000
check "the guest is protected" protected || die "not protected"
must agent_kill standby
check "without its standby it is unprotected" wait_line "$primary_log" 'UNPROTECTED' 30
check "it serves" served 10
from=$(lines "$primary_log")
must standby_start --timeout 5000
check "with the agent back it is protected by itself" protected $((from + 1))
check "it serves" served 10
"$lab" kill a
check "the standby's agent sees that a is dead" wait_line "$standby_log" "$(event lost)" 30
check "it says what it waits for" wait_line "$standby_log" 'without --fence-command nobody knows' 10
check "its status says so" state_is b primary-lost
check "promote without a confirmation is refused" refuses_unasked
check "the guest does not run on b" guest_status b inmigrate
check "promote --yes" on b "$agent" promote --yes
check "the guest runs on b" guest_runs b
check "it serves, on the same connection" served 10
check "the client ends" client_stop
check "nothing is lost" nothing_lost
check "the kernel of a was content" "$lab" dmesg-check a

note "the link between them is cut"
must host_up a
must host_up b
must guest_start a
must guest_start b -incoming defer
must guest_up a
must client_start
must frames_start
must standby_start "${fence_a[@]}"
must primary_start "${fence_b[@]}"
check "the guest is protected" protected || die "not protected"
check "it serves" served 10
"$lab" power refuse
"$lab" link a repl0 down
check "the primary's agent tries to fence" wait_line "$primary_log" "$(event fence-failed)" 60
check "the standby's agent tries to fence" wait_line "$standby_log" "$(event fence-failed)" 60
check "output stays held" output_held
check "the guest does not run on b" guest_status b inmigrate
"$lab" power ok
check "the guest serves, on the same connection" served 10
check "one of them has fenced the other" grep -h "$(event fenced)" "$primary_log" "$standby_log"
check "one host is off, the other one is not" one_is_up
check "the client ends" client_stop
check "nothing is lost" nothing_lost
done_testing
