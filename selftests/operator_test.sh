#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# operator_test: what an operator does to a guest that is protected: stops it and lets it
# run, plugs a device in, plugs memory in. Protection goes on, or says why it does not;
# the guest stands or runs as the operator has it, also on the survivor. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

primary_log=$work/primary.log

# guest HOST [OPTIONS...]: with room to plug something in; what comes is used at once.
guest() {
	local host=$1

	shift
	guest_start "$host" -m 128M,slots=2,maxmem=512M -device pcie-root-port,id=port1,chassis=1,slot=1 \
		-append "$(<"$image/append") ip=$guest_ip/24 memhp_default_state=online swiotlb=1024" "$@"
}

# done_by HOST COMMAND [ARGUMENTS]: QEMU does it.
done_by() {
	local said

	said=$(qmp "$1" "{\"execute\":\"$2\",\"arguments\":{${3:-}}}")
	[[ $said == *'"return"'* ]] || { echo "$said"; return 1; }
}

# A second NIC, on a tap of its own, always in the same place.
plug_nic() { # HOST TAP
	must on "$1" sh -c 'ip tuntap add "$0" mode tap && ip link set "$0" up' "$2"
	done_by "$1" netdev_add \
		"\"type\":\"tap\",\"id\":\"n1\",\"ifname\":\"$2\",\"script\":\"no\",\"downscript\":\"no\"" &&
		done_by "$1" device_add \
			'"driver":"virtio-net-pci","id":"net1","netdev":"n1","bus":"port1","mac":"52:54:00:76:6d:03"'
}

# The guest has to let go of it.
unplug_nic() { # HOST
	local from

	from=$(($(lines "$work/events.log") + 1))
	done_by "$1" device_del '"id":"net1"' &&
		wait_line "$work/events.log" '"DEVICE_DELETED".*\bnet1\b' 60 "$from" &&
		done_by "$1" netdev_del '"id":"n1"'
}

plug_memory() { # HOST
	done_by "$1" object-add '"qom-type":"memory-backend-ram","id":"mem1","size":134217728' &&
		done_by "$1" device_add '"driver":"pc-dimm","id":"dimm1","memdev":"mem1"'
}

# The guest has filled what was plugged in: on to the next thing it does with that.
poke() {
	# How it ends tells nothing: the guest just goes on.
	"$lab" run client --timeout 20 -- busybox nc -w 5 "$guest_ip" 10 </dev/null || :
}

# From line $from of the primary's log on.
primary_says() {
	wait_line "$primary_log" "$1" 120 "$from"
}

mark() {
	from=$(($(lines "$primary_log") + 1))
}

# All of it is sent anew; a busy machine takes its time for that.
protected_again() {
	wait_line "$primary_log" "$(event protected)" 240 "$from"
}

stands_still() {
	local at

	at=$(grep -c '^count' "$work/a.guest")
	epochs 5 && guest_status a paused && [[ $(grep -c '^count' "$work/a.guest") == "$at" ]]
}

agent_options=(--insecure)
hosts_up
must guest a
must guest b -incoming defer
must guest_up a
must watch_events a
must client_start

must standby_start --fence-command "lab-power off a"
must primary_start --fence-command "lab-power off b"
check "the guest is protected" protected || die "not protected"
check "it serves meanwhile" served 10

note "stop and cont"
mark
check "the operator stops the guest" done_by a stop
check "the agent says so" primary_says "the guest was stopped, not by us"
check "checkpoints go on, and do not start it" stands_still
check "its status says so" test "$(agent_status a guest)" = stands
mark
check "the operator lets it run" done_by a cont
check "the agent says so" primary_says "let run again"
check "it runs" guest_runs a
check "it serves as before" served 10
check "without a new sync" says_no grep -E "$(event resync)|$(event lost)" "$primary_log"

note "a device"
mark
check "a NIC is plugged in" plug_nic a guestb
check "the agent sees it" primary_says "$(event resync 'net1 at port1:00.0 was plugged into the guest')"
check "the standby has no such device: the guest is not protected, and that is said" \
	primary_says "still unprotected: .*only the primary's QEMU has a device virtio-net-pci net1 at port1:00.0"
check "its output flows" served 10
check "the standby cannot be promoted" says_no on b "$agent" promote --yes
mark
check "the same is plugged into the standby" plug_nic b guestb
check "it is protected again" protected_again
check "the new tap's output is held, too" primary_says 'output of guestb goes through'
check "it serves meanwhile" served 10

# Without the standby's answer there is no next checkpoint meanwhile.
note "the same device, with another tap"
must epochs 1
must agent_signal standby STOP
mark
check "the NIC is taken out between two checkpoints" unplug_nic a
check "the same comes on another tap" plug_nic a guestc
must agent_signal standby CONT
check "the agent sees it" primary_says "$(event resync 'the guest has another tap')"
check "that tap's output is held" primary_says 'output of guestc goes through'
check "it is protected again" protected_again
check "it serves meanwhile" served 10

note "memory"
mark
check "memory is plugged in" plug_memory a
check "the agent sees it" primary_says "$(event resync 'mem1|dimm1')"
check "the standby has no such memory: the guest is not protected, and that is said" \
	primary_says "still unprotected: .*only the primary's QEMU has a device pc-dimm dimm1 at 0x"
check "its output flows" served 10
check "the guest fills it" wait_line "$work/a.guest" '^guest: filled' 120
mark
check "the same is plugged into the standby" plug_memory b
check "it is protected again" protected_again
poke >/dev/null 2>&1
check "the guest writes to it while it is protected" wait_line "$work/a.guest" '^guest: written anew' 120
check "it serves meanwhile" served 10
check "checkpoints are made" epochs 5

note "a guest that stands when its host dies"
mark
check "the operator stops the guest" done_by a stop
check "the agent says so" primary_says "the guest was stopped, not by us"
check "checkpoints go on" stands_still
"$lab" kill a
check "b takes over" wait_line "$work/standby.log" "$(event promoted '"stands":true')" 120
check "it says that the guest stands" wait_line "$work/standby.log" 'so it stands here too' 10
check "it stands" guest_status b paused
check "the operator lets it run" done_by b cont
check "it runs" guest_runs b
check "it serves its client" served 20
poke >/dev/null 2>&1
check "the plugged memory holds what the guest had put there" wait_line "$work/b.guest" '^guest: still filled' 60
check "the client ends" client_stop
check "nothing acknowledged is lost, the connection is kept" nothing_lost
done_testing
