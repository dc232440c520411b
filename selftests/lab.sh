#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# lab.sh: the lab itself: hosts, commands in them, links, guests, power cuts. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=tap.sh
. "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lab=$here/../tools/lab/lab
export VMREPL_LAB=${VMREPL_LAB:-selftest-lab}
tmp=$(mktemp -d)
tap_said=$tmp/said

finish() {
	"$lab" down --all || true
	rm -rf "$tmp"
}
trap finish EXIT

exits() {
	local want=$1 code=0

	shift
	"$@" || code=$?
	[[ $code == "$want" ]] || { echo "exit code $code, not $want"; return 1; }
}

says() {
	local want=$1 said

	shift
	said=$("$@" 2>/dev/null)
	[[ $said == "$want" ]] || { echo "it said '$said', not '$want'"; return 1; }
}

streams_apart() {
	"$lab" run a -- sh -c 'echo out; echo err >&2' >"$tmp/out" 2>"$tmp/err"
	[[ $(<"$tmp/out") == out && $(<"$tmp/err") == err ]]
}

# The first line must be there while the command still runs: it ends only when its
# input does, and that is after the line was read.
streams_live() {
	local line

	coproc LIVE { "$lab" run a --timeout 30 --stdin -- sh -c 'echo first; cat >/dev/null; echo last'; }
	read -r -t 20 line <&"${LIVE[0]}" && [[ $line == first ]] || return 1
	eval "exec ${LIVE[1]}>&-"
	read -r -t 20 line <&"${LIVE[0]}" && [[ $line == last ]] || return 1
	wait "$LIVE_PID" 2>/dev/null || true
}

much_output() {
	[[ $("$lab" run a -- sh -c 'head -c 3000000 /dev/zero' | wc -c) == 3000000 ]]
}

at_once() {
	local i pids=()

	for i in 1 2 3 4; do
		exits "$i" "$lab" run a -- sh -c "exit $i" &
		pids+=($!)
	done
	for i in "${pids[@]}"; do
		wait "$i" || return 1
	done
}

# A file made on the machine after the boot, and changed again, is seen at once.
sees_changes() {
	local file=$here/../build/lab-selftest-$$ result=0

	mkdir -p "${file%/*}"
	echo one >"$file"
	says one "$lab" run a -- cat "$file" || result=1
	echo two >"$file"
	says two "$lab" run a -- cat "$file" || result=1
	! "$lab" run a -- sh -c "echo three >'$file'" || result=1
	[[ $(<"$file") == two ]] || result=1
	rm -f "$file"
	return $result
}

machine_untouched() {
	"$lab" run a -- sh -c 'echo x >/etc/vmrepl-lab-selftest && cat /etc/vmrepl-lab-selftest' &&
		[[ ! -e /etc/vmrepl-lab-selftest ]]
}

module_builds() {
	mkdir -p "$tmp/module"
	cat >"$tmp/module/lab_hello.c" <<-'SOURCE'
		#include <linux/module.h>

		static int __init hello(void)
		{
			pr_info("lab: hello\n");
			return 0;
		}
		module_init(hello);

		static void __exit bye(void)
		{
		}
		module_exit(bye);
		MODULE_LICENSE("GPL");
	SOURCE
	echo 'obj-m += lab_hello.o' >"$tmp/module/Kbuild"
	make -C "$("$lab" kernel-build-dir)" M="$tmp/module" modules || return 1
	"$lab" run a --stdin -- sh -c 'cat >/tmp/lab_hello.ko && insmod /tmp/lab_hello.ko && rmmod lab_hello' \
		<"$tmp/module/lab_hello.ko"
}

guest_builds() {
	cat >"$tmp/start" <<-'START'
		echo "guest: service"
		while :; do
			nc -l -p 7 -e cat
		done
	START
	"$lab" guest-image --out "$here/../build/lab-guest" --start "$tmp/start"
}

# start_guest HOST: leaves a guest running in HOST, its tap in the bridge.
start_guest() {
	cat >"$tmp/guest.sh" <<-'SCRIPT'
		set -eu
		image=$1
		ip tuntap add tap0 mode tap
		ip link set tap0 master br0 up
		: >/tmp/guest.log
		qemu-system-x86_64 -accel kvm -cpu host -M q35 -smp 2 -m 256M -nodefaults \
			-display none -serial file:/tmp/guest.log -daemonize -pidfile /tmp/guest.pid \
			-kernel "$image/vmlinux" -initrd "$image/initrd" \
			-append "$(cat "$image/append") ip=10.78.0.10/24" \
			-netdev tap,id=net0,ifname=tap0,script=no,downscript=no \
			-device virtio-net-pci,netdev=net0,romfile= >/tmp/qemu.log 2>&1 ||
			{ cat /tmp/qemu.log; exit 1; }
		timeout 90 grep -qm1 '^guest: up' <(exec tail -n +1 -f --pid="$(cat /tmp/guest.pid)" /tmp/guest.log)
		cat /tmp/guest.log
		echo "guest started on $(qemu-system-x86_64 --version | head -n 1)"
	SCRIPT
	"$lab" run "$1" --timeout 120 --script "$tmp/guest.sh" "$here/../build/lab-guest"
}

service_answers() {
	says hello "$lab" run client --timeout 20 -- sh -c \
		'exec 3>&1; echo hello | busybox nc -w 10 10.78.0.10 7 | head -n 1'
}

host_dead() {
	exits 1 "$lab" run "$1" -- true
}

echo "TAP version 13"
echo "1..36"
check "hosts come up" "$lab" pair
check "a second start is refused" exits 1 "$lab" up a
check "the exit code passes" exits 7 "$lab" run a -- sh -c 'exit 7'
check "a command that is not there: 127" exits 127 "$lab" run a -- no-such-command
check "a command that does not end: 124" exits 124 "$lab" run a --timeout 1 -- cat /dev/zero
check "output and errors arrive apart" streams_apart
check "output arrives while the command runs" streams_live
check "much output arrives whole" much_output
check "input arrives" says fed "$lab" run a --stdin -- cat <<<fed
check "several commands at once" at_once
check "a script with arguments" says "two words" "$lab" run a --script <(echo 'echo "$1"') "two words"
check "the directory is the caller's" says "$PWD" "$lab" run a -- pwd
check "/dev/kvm is there" "$lab" run a -- sh -c 'test -c /dev/kvm && lsmod | grep -q "^kvm_"'
check "two CPUs for programs, without an emulated host's first" "$lab" run a -- sh -c \
	'test "$(nproc)" = 2 && { ! grep -q tsc=reliable /proc/cmdline || grep -q "^Cpus_allowed_list:.1-2$" /proc/self/status; }'
check "a file changed on the machine is seen" sees_changes
check "what a host writes stays in the host" machine_untouched
check "a module builds and loads" module_builds
check "a to b on the private link" "$lab" run a -- ping -c 2 -w 20 10.77.0.2
check "the private link is private" exits 2 "$lab" run client -- ping -c 1 -w 5 10.77.0.1
check "the link is cut" \
	sh -c "'$lab' link a repl0 down && ! '$lab' run a -- ping -c 1 -w 2 10.77.0.2"
check "the link is plugged in again" \
	sh -c "'$lab' link a repl0 up && '$lab' run a --timeout 20 -- sh -c 'until ping -c 1 -w 1 10.77.0.2; do :; done'"
check "RDMA on the link" \
	sh -c "'$lab' link a repl0 rdma && '$lab' run a -- rdma link show rxe_repl0/1"
check "a link that is not there" exits 1 "$lab" link a nothing0 down
check "a guest image is built" guest_builds
check "a guest boots in a" start_guest a
check "the client reaches the guest" service_answers
check "the kernels of a, b and client are content" \
	sh -c "'$lab' dmesg-check a && '$lab' dmesg-check b && '$lab' dmesg-check client"
check "a complaint of a kernel is found" \
	sh -c "'$lab' run client -- sh -c 'echo \"<4>WARNING: not meant\" >/dev/kmsg' && ! '$lab' dmesg-check client"
check "a program that wanted what it had given up is found" \
	sh -c "'$lab' run b -- sh -c 'echo \"<5>audit: type=1326 audit(1.2:3): pid=1 sig=0 syscall=41 compat=0\" >/dev/kmsg' && ! '$lab' dmesg-check b"

"$lab" power refuse
check "a switch that refuses: failure, and a lives" \
	sh -c "! '$lab' run b -- lab-power off a && '$lab' run a -- true"
"$lab" power silent
check "a switch that is silent: failure, and a lives" \
	sh -c "! '$lab' run b --env LAB_POWER_TIMEOUT=3 -- lab-power off a && '$lab' run a -- true"
"$lab" power ok
check "an unknown host cannot be switched off" exits 1 "$lab" run b -- lab-power off nobody
check "b cuts the power of a" "$lab" run b -- lab-power off a
check "a is dead" host_dead a
check "a host that is off is off" "$lab" run b -- lab-power off a
check "a comes back and finds its link" \
	sh -c "'$lab' up a && '$lab' run b --timeout 20 -- sh -c 'until ping -c 1 -w 1 10.77.0.1; do :; done'"
exit $((tap_failed > 0))
