#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# rdma_test: --link rdma over soft-RoCE: where the standby has no device pages go by TCP and
# the agent says why; where it has one they go by RDMA; when the fabric breaks
# checkpoints go on by TCP; a host loses its power, and the guest goes on from
# the other one with nothing lost and the primary's memory. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

# says FROM PATTERN: the primary's agent, from that line on.
says() {
	wait_line "$work/primary.log" "$2" 90 "$1"
}

link_is() { # KIND [REASON]
	local kind why

	kind=$(agent_status a link)
	why=$(agent_status a link-why)
	echo "link $kind, because: $why"
	[[ $kind == "$1" && $why == *"${2:-}"* ]]
}

rdma_bytes() {
	agent_status a rdma-bytes
}

# More is written by RDMA with each checkpoint.
goes_by_rdma() {
	local before after

	before=$(rdma_bytes)
	epochs 5 || return 1
	after=$(rdma_bytes)
	echo "$before bytes by RDMA, then $after"
	((before > 100000 && after > before))
}

# What RDMA devices send gets lost on the way (not where it is sent: rdma_rxe would send it
# again and again); the connection stays.
fabric_cut() {
	local host

	for host in a b; do
		on "$host" bash -c 'tc qdisc add dev repl0 clsact &&
			tc filter add dev repl0 ingress protocol ip u32 match ip protocol 17 0xff \
				match ip dport 4791 0xffff action drop' || return 1
	done
}

fabric_mended() {
	on a tc qdisc del dev repl0 clsact && on b tc qdisc del dev repl0 clsact
}

nobody_lost() { # FROM
	! tail -n "+$1" "$work/primary.log" | grep -E "$(event lost)|$(event stalled)|$(event resync)"
}

agents_end() {
	agent_signal primary TERM && agent_ends primary 0 60 &&
		agent_signal standby TERM && agent_ends standby 0 30
}

agent_options=(--insecure --link rdma)
hosts_up
must "$lab" link a repl0 rdma
must guest_start a
must guest_start b -incoming defer
must guest_up a
must client_start

note "no device on b"
must standby_start --timeout 5000
must primary_start --timeout 5000
check "the guest is protected" protected || die "not protected"
check "the primary says why pages go by TCP" says 1 'pages go by TCP: the standby has it not: .*no RDMA device'
check "the standby, too" wait_line "$work/standby.log" 'pages come by TCP: there is no RDMA device' 10
check "and so does its status" link_is tcp "no RDMA device"
check "checkpoints are made" epochs 5
check "it serves" served 5
check "the agents end in order" agents_end

note "devices on both"
must "$lab" link b repl0 rdma
must standby_start --timeout 5000
must primary_start --timeout 5000
check "the guest is protected" protected || die "not protected"
check "pages go by RDMA" link_is rdma
check "and come so" wait_line "$work/standby.log" "$(event rdma-joined)" 10
check "more with each checkpoint" goes_by_rdma
check "it serves" served 5

from=$(($(lines "$work/primary.log") + 1))
must fabric_cut
check "the fabric is cut: pages go by TCP, and why is told" \
	says "$from" 'pages go by TCP from here on: .*RDMA'
check "checkpoints go on" epochs 5
check "nobody was given up" nobody_lost "$from"
check "its status says so, too" link_is tcp "RDMA"
check "it serves" served 5
must fabric_mended
check "the agents end in order" agents_end

note "a loses its power"
agent_env=(VMREPL_DEBUG_HASH=1)
must standby_start --timeout 5000 --fence-command "lab-power off a"
must primary_start --timeout 5000 --fence-command "lab-power off b"
check "the guest is protected" protected || die "not protected"
check "pages go by RDMA" link_is rdma
check "checkpoints are made" epochs 12
check "it serves meanwhile" served 5
note "$(rdma_bytes) bytes by RDMA"
"$lab" kill a
check "b's agent sees it" wait_line "$work/standby.log" "$(event lost)" 30
check "it runs the guest" wait_line "$work/standby.log" "$(event promoted)" 60
check "the guest runs on b" guest_runs b
check "it serves its client" served 30
check "the client ends" client_stop
check "nothing acknowledged is lost, the connection is kept" nothing_lost
note "$(grep '^result' "$work/client.log")"
check "the standby's memory is the primary's at every checkpoint" memory_equal
note "$(join <(hashes primary) <(hashes standby) | wc -l) checkpoints compared"
check "b's agent ends" agent_signal standby TERM
check "with success" agent_ends standby 0 30
check "the guest stays" guest_runs b
done_testing
