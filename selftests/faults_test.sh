#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# faults_test: a link that flaps, one that carries one way only, a stream that is lost, a
# standby that has no room.
# After each the guest is protected again by itself, and the standby's memory is the
# primary's. What stall_test has is not repeated here. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

primary_log=$work/primary.log
standby_log=$work/standby.log

# deaf HOST: nothing that it sends arrives; it hears everything.
deaf() {
	on "$1" tc qdisc add dev repl0 root netem loss 100%
}

heals() { # HOST
	on "$1" tc qdisc del dev repl0 root
}

mark() {
	from=$(($(lines "$primary_log") + 1))
}

# stream_lost: the kernel of a resets the last of the connections to the standby.
stream_lost() {
	local last

	last=$(on a ss -Htn state established dst "$standby_ip" dport = ":$port" |
		awk '{ print $3 }' | sort -t: -k2 -n | tail -n 1)
	[[ $last ]] || return 1
	on a ss -K src "${last%:*}" sport = ":${last##*:}" >/dev/null
}

nobody_lost() {
	! tail -n "+$from" "$primary_log" | grep -E "$(event lost)|$(event stalled)|$(event resync)"
}

# 8 MiB are written in one go, with something else than zeros.
writes_much() {
	# shellcheck disable=SC2016
	on client sh -c 'printf "SETRANGE big 8388607 x\r\nBITOP NOT inverse big\r\n" |
		busybox nc -w 5 "$0" 6379' "$guest_ip" >/dev/null
}

agent_options=(--insecure)
hosts_up
must on a modprobe sch_netem
must on b modprobe sch_netem
must guest_start a
must guest_start b -incoming defer
must guest_up a
must client_start

note "the link flaps"
must standby_start
must primary_start --max-stall 20000 --streams 3
check "the guest is protected" protected || die "not protected"
mark
for _ in 1 2 3 4; do
	"$lab" link a repl0 down
	must guest_runs a 10
	"$lab" link a repl0 up
	must guest_runs a 10
done
check "checkpoints go on" epochs 5
check "nobody was given up" nobody_lost
check "it serves" served 10
check "the standby's memory is the primary's" ram_equal

note "a stream is lost"
mark
must stream_lost
check "the primary's agent sees it" wait_line "$primary_log" "$(event resync '"why":"the streams of pages were lost')" 30 "$from"
check "it serves, on the same connection" served 10
check "it is protected again by itself" protected "$from"
check "nobody was given up for lost" says_no grep -E "$(event stalled)|$(event fenced)" "$standby_log" "$primary_log"
check "the standby's memory is the primary's" ram_equal

note "the standby is not heard"
mark
must deaf b
check "the primary's agent sees it" wait_line "$primary_log" "$(event lost)" 60 "$from"
check "without its standby it is unprotected" wait_line "$primary_log" UNPROTECTED 10 "$from"
check "it serves, on the same connection" served 10
must heals b
check "it is protected again by itself" protected "$from"
check "the standby's memory is the primary's" ram_equal

note "the primary is not heard"
mark
must deaf a
check "the standby is given up" wait_line "$primary_log" "$(event lost)|$(event stalled)" 60 "$from"
check "without its standby it is unprotected" wait_line "$primary_log" UNPROTECTED 60 "$from"
check "it serves, on the same connection" served 10
must heals a
check "it is protected again by itself" protected "$from"
check "the standby's memory is the primary's" ram_equal
must agent_signal primary TERM
check "the primary's agent ends" agent_ends primary 0 30
must agent_signal standby TERM
check "the standby's agent ends" agent_ends standby 0 30

note "the standby has no room for a checkpoint"
must standby_start --max-epoch-mib 3
must primary_start --compress never --interval 2000
check "the guest is protected" protected || die "not protected"
mark
must writes_much
check "the standby says so" wait_line "$standby_log" 'larger than 3 MiB; start the standby.s agent with a larger --max-epoch-mib' 60
check "it is protected again by itself" protected "$from"
check "it serves, on the same connection" served 3
check "the standby's memory is the primary's" ram_equal
must agent_signal primary TERM
check "the primary's agent ends" agent_ends primary 0 30
check "the client ends" client_stop
check "nothing is lost" nothing_lost
done_testing
