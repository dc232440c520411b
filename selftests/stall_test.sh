#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# stall_test: a link that is not cut but bad, and a standby that is not lost. What the
# guest sends does not wait for ever, nobody takes over meanwhile, and protection is back by
# itself. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

primary_log=$work/primary.log
standby_log=$work/standby.log

# bad HOST NETEM...: what the host sends over the private link, from now on.
bad() {
	local host=$1

	shift
	on "$host" tc qdisc replace dev repl0 root netem "$@"
}

good() { # HOST
	on "$1" tc qdisc del dev repl0 root
}

# left_out LINE: of the pages that are not zeros, the sync from there on sent fewer than half.
left_out() {
	local bytes same

	wait_line "$primary_log" "$(event round '"round":1,')" 10 "$1" || return 1
	read -r same bytes < <(tail -n "+$1" "$primary_log" |
		sed -nE 's/.*"event":"round".*"round":1,.*"same_pages":([0-9]+),"bytes":([0-9]+).*/\1 \2/p')
	echo "$same pages left out, $bytes bytes sent"
	((same * 4096 > bytes))
}

# no_faster N: the first round, and a MiB that may have been on its way, took N MiB a second.
no_faster() {
	grep -m 1 "$(event round '"round":1,')" "$primary_log" |
		sed -nE 's/.*"bytes":([0-9]+),"ack_us":([0-9]+).*/\1 \2/p' |
		awk -v n="$1" '{ print $1, "bytes in", $2, "us" } END { exit !($1 > 2^24 && $1 - 2^21 <= n * 2^20 * $2 / 1000000) }'
}

agent_options=(--insecure)
hosts_up
must on a modprobe sch_netem
must guest_start a
must guest_start b -incoming defer
must guest_up a
must client_start

note "loss, delay, reordering, a smaller MTU: slower, and no more"
must standby_start --timeout 60000 --fence-command "lab-power off a"
must primary_start --timeout 10000 --fence-command "lab-power off b" --sync-mib-per-s 10
check "the guest is protected" protected || die "not protected"
check "its first sync was no faster than it may be" no_faster 10
must bad a delay 10ms 5ms loss 1% reorder 25%
must on a ip link set repl0 mtu 1400
check "checkpoints go on" epochs 5
check "it serves" served 3
must on a ip link set repl0 mtu 9000
must good a
check "nobody was given up" test -z "$(grep -E '"event": *"(lost|stalled)"' "$primary_log" "$standby_log")"
check "the standby's memory is the primary's" ram_equal
must agent_signal primary TERM
check "the primary's agent ends" agent_ends primary 0 30
must agent_signal standby TERM
check "the standby's agent ends" agent_ends standby 0 30

note "the standby does not answer for a while"
must standby_start --timeout 60000 --fence-command "lab-power off a"
must primary_start --timeout 10000 --max-stall 8000 --fence-command "lab-power off b"
check "the guest is protected" protected || die "not protected"
check "it serves" served 10
from=$(lines "$primary_log")
must agent_signal standby STOP
check "the standby is given up" wait_line "$primary_log" "$(event stalled)" 60 $((from + 1))
must agent_signal standby CONT
check "the agent says so" grep -E 'held for 8000 ms \(--max-stall\): .*giving the standby up.*NOT PROTECTED' "$primary_log"
check "it has given up its right: output goes" wait_line "$primary_log" "$(event released)" 60 $((from + 1))
check "the guest serves, on the same connection" served 10
check "nobody was fenced" test -z "$(grep -E '"event": *"fenced"' "$primary_log" "$standby_log")"
check "it is protected again by itself" protected $((from + 1))
check "without what the standby holds already" left_out $((from + 1))
check "the standby's memory is the primary's" ram_equal
check "it serves" served 10

note "next to nothing comes through"
from=$(lines "$primary_log")
must bad a rate 400bit
check "the standby is given up" wait_line "$primary_log" "$(event stalled)" 60 $((from + 1))
check "it cannot be asked: fenced" wait_line "$primary_log" "$(event fenced)" 60 $((from + 1))
check "the guest serves, on the same connection" served 10
check "its status says how it is" state_is a unprotected
check "the kernel of b was content" "$lab" dmesg-check b
must good a
must host_up b
must guest_start b -incoming defer
must standby_start --timeout 60000 --fence-command "lab-power off a"
check "with b back it is protected by itself" protected $((from + 1))
check "the standby's memory is the primary's" ram_equal
check "it serves" served 10
must agent_signal primary TERM
check "the primary's agent ends" agent_ends primary 0 30
check "the client ends" client_stop
check "nothing is lost" nothing_lost
done_testing
