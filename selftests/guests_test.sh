#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# guests_test: two guests of two kinds on one host, protected at once by an agent each:
# one in a memfd, with a balloon, whose holes take no memory on the standby either and
# give it back; one with 16 vCPUs on hugetlbfs. Both survive their host. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

two_mib=128
two_port=$((port + 1))

# The first one, hosts.sh's: QEMU's own way to memory that it can give back.
one() { # HOST [OPTIONS...]
	local host=$1

	shift
	guest_start "$host" -m 192M -object memory-backend-memfd,id=mem,size=192M,share=on \
		-machine memory-backend=mem -device virtio-balloon-pci "$@"
}

# The second one: /run/guesttwo.pid, .log, .qmp and, for the tests, guesttwo-test.qmp.
two() { # HOST [OPTIONS...]
	local host=$1

	shift
	# shellcheck disable=SC2016
	on "$host" bash -c 'image=$0 mib=$1
		shift
		echo $((mib / 2 + 8)) >/proc/sys/vm/nr_hugepages
		mkdir -p /dev/hugepages
		mountpoint -q /dev/hugepages || mount -t hugetlbfs hugetlbfs /dev/hugepages
		ip tuntap add guesttwo mode tap && ip link set guesttwo master br0 up
		exec qemu-system-x86_64 -name two -machine q35,memory-backend=huge -accel kvm \
			-cpu host -smp 16 -m "${mib}M" -object \
			"memory-backend-file,id=huge,size=${mib}M,mem-path=/dev/hugepages,share=on" \
			-nodefaults -no-user-config -display none -serial file:/run/guesttwo.log \
			-qmp unix:/run/guesttwo.qmp,server=on,wait=off \
			-qmp unix:/run/guesttwo-test.qmp,server=on,wait=off \
			-netdev tap,id=n0,ifname=guesttwo,script=no,downscript=no \
			-device virtio-net-pci,netdev=n0,mac=52:54:00:76:6d:02 \
			-kernel "$image/vmlinux" -initrd "$image/initrd" \
			-append "$(<"$image/append") ip=10.78.0.11/24" \
			-daemonize -pidfile /run/guesttwo.pid "$@"' "$image" "$two_mib" "$@" || return 1
	: >"$work/two.$host.guest"
	# shellcheck disable=SC2016
	"$lab" run "$host" -- sh -c 'tail -n +1 -f --pid="$(cat /run/guesttwo.pid)" /run/guesttwo.log' \
		>"$work/two.$host.guest" 2>/dev/null &
	followers+=($!)
}

two_pid() { # HOST
	on "$1" cat /run/guesttwo.pid
}

# KiB of memory that the first guest's memfd takes on a host.
memfd_kib() { # HOST
	# shellcheck disable=SC2016
	on "$1" bash -c 'for fd in /proc/$(cat /run/guest.pid)/fd/*; do
			[[ $(readlink "$fd") != /memfd:*backend* ]] ||
				echo $(($(stat -L -c %b "$fd") / 2))
		done' | sort -n | tail -n 1
}

# holes_equal KIB: the standby's takes at most so much more than the primary's.
holes_equal() {
	local a b try

	for try in 1 2 3 4 5 6 7 8 9 10; do
		a=$(memfd_kib a) b=$(memfd_kib b)
		((b > a + $1)) || break
		epochs 2 || return 1
	done
	echo "a: $a KiB, b: $b KiB"
	((a > 0 && b > 0 && b <= a + $1))
}

# shrinks KIB KIB_A KIB_B: each takes so much less than it did, after some checkpoints.
shrinks() {
	local a b try

	for try in $(seq 30); do
		a=$(memfd_kib a) b=$(memfd_kib b)
		((a > $2 - $1 || b > $3 - $1)) || break
		epochs 2 || return 1
	done
	echo "a: $a KiB, b: $b KiB"
	((a > 0 && b > 0 && a <= $2 - $1 && b <= $3 - $1))
}

two_epochs() { # N
	wait_count "$work/primary2.log" "$(event epoch)" "$1" $(($(lines "$work/primary2.log") + 1))
}

two_runs() { # HOST
	wait_line "$work/two.$1.guest" "^count [0-9]+" 60 $(($(lines "$work/two.$1.guest") + 3))
}

two_equal() {
	local both

	both=$(join <(hashes primary2) <(hashes standby2))
	(($(wc -l <<<"$both") >= 5)) && ! awk '$2 != $3' <<<"$both" | grep .
}

agent_options=(--insecure)
hosts_up
# One after the other: that many vCPUs want all of an emulated host to boot.
must one a
must wait_line "$work/a.guest" '^guest: serves' 240
must two a
must wait_line "$work/two.a.guest" '^guest: serves' 400
must one b -incoming defer
must two b -incoming defer
must client_start

fence=(--fence-command "lab-power off")
must standby_start --timeout 12000 "${fence[@]} a"
agent_env=(VMREPL_DEBUG_HASH=1)
agent_start standby2 b --standby --listen "$standby_ip:$two_port" --vm "$(two_pid b)" \
	--timeout 12000 "${agent_options[@]}" "${fence[@]} a"
must wait_line "$work/standby2.log" 'listening on' 30
agent_env=()
must primary_start --timeout 12000 "${fence[@]} b"
agent_env=(VMREPL_DEBUG_HASH=1)
agent_start primary2 a --vm "$(two_pid a)" --to "$standby_ip:$two_port" --timeout 12000 --max-stall 120000 \
	"${agent_options[@]}" "${fence[@]} b"
check "the first guest is protected" wait_line "$work/primary.log" "$(event protected)" 240 ||
	die "not protected"
check "the second is, at the same time" wait_line "$work/primary2.log" "$(event protected)" 240 ||
	die "not protected"
check "it is the one with 16 vCPUs" grep -E "$(event attached '"vcpus":16')" "$work/primary2.log"
check "the first serves" served 10
check "checkpoints of both are made" epochs 5
check "of the second, too" two_epochs 5

note "holes"
check "what the guest never touched takes no memory on the standby either" holes_equal 2048
note "$(cat "$work/said")"
balloon() { # MIB that stay the guest's
	local said

	said=$(qmp a "{\"execute\":\"balloon\",\"arguments\":{\"value\":$(($1 << 20))}}")
	[[ $said == *'"return"'* ]] || { echo "$said"; return 1; }
}
before=("$(memfd_kib a)" "$(memfd_kib b)")
check "its balloon is blown up" balloon 120
check "the memory is given back, on the standby too" shrinks 4096 "${before[@]}"
note "$(cat "$work/said")"
check "it serves meanwhile" served 10

note "the host dies"
"$lab" kill a
check "b runs the first" wait_line "$work/standby.log" "$(event promoted)" 120
check "b runs the second" wait_line "$work/standby2.log" "$(event promoted)" 120
check "the first runs" guest_runs b
check "the second runs" two_runs b
check "the second's memory was the primary's at every checkpoint" two_equal
check "the first serves its client" served 20
check "the client ends" client_stop
check "nothing acknowledged is lost, the connection is kept" nothing_lost
done_testing
