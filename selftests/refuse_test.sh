#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# refuse_test: what cannot be protected, and what comes to the standby's port that is no
# primary: a sentence that says what is wrong and what to do, a failure, and a guest
# that nobody has touched. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

standby_log=$work/standby.log
nobody=$standby_ip:7799

# vm HOST NAME QEMU_OPTIONS...: a VM that runs its firmware. Its tap is guestNAME, its
# QMP sockets are NAME.qmp and, for the tests, NAME-test.qmp.
vm() {
	local host=$1 name=$2

	shift 2
	# shellcheck disable=SC2016
	must on "$host" bash -c 'name=$0
		ip tuntap add "guest$name" mode tap && ip link set "guest$name" up &&
		exec qemu-system-x86_64 -name "$name" -cpu host -nodefaults -no-user-config \
			-display none -daemonize -pidfile "/run/guest$name.pid" "$@"' "$name" "$@"
}

vm_qmp() { # NAME: options
	echo "-qmp unix:/run/$1.qmp,server=on,wait=off -qmp unix:/run/$1-test.qmp,server=on,wait=off"
}

vm_net() { # NAME: options
	echo "-netdev tap,id=n0,ifname=guest$1,script=no,downscript=no -device virtio-net-pci,netdev=n0"
}

vm_pid() { # HOST NAME
	on "$1" cat "/run/guest$2.pid"
}

vm_end() { # HOST NAME
	# shellcheck disable=SC2016
	on "$1" bash -c 'pid=$(cat "/run/guest$0.pid") && kill -KILL "$pid" &&
		timeout 20 tail -s 0.1 -f --pid="$pid" /dev/null; ip link del "guest$0"' "$2"
}

# untouched HOST NAME: it runs (where its tests' socket can tell), nothing is on any
# tap, the module has no session.
untouched() {
	local said

	[[ $2 == - ]] || guest_status "$1" running "$2-test" || return 1
	# shellcheck disable=SC2016
	said=$(on "$1" sh -c 'ip -br link show type ifb; tc qdisc show | grep -E "clsact|plug"
		lsmod | grep "^vmrepl " | grep -v " 0$"')
	[[ ! $said ]] || { echo "left: $said"; return 1; }
}

# refused PATTERN HOST NAME AGENT_OPTIONS...
refused() {
	local pattern=$1 host=$2 name=$3 code=0

	shift 3
	on "$host" timeout 30 "$agent" "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
	cat "$work/err"
	((code == 1 || code == 2)) || { echo "exit code $code"; return 1; }
	[[ $(lines "$work/err") == 1 ]] || { echo "this is not one sentence"; return 1; }
	grep -qE "^vmrepl-agent: .*$pattern" "$work/err" || { echo "not '$pattern'"; return 1; }
	untouched "$host" "$name"
}

# refused_vm PATTERN NAME: the VM NAME on a, to a standby that is not needed.
refused_vm() {
	refused "$1" a "$2" --vm "$(vm_pid a "$2")" --to "$nobody"
}

standby_sees() { # PATTERN FROM
	wait_line "$standby_log" "$1" 20 "$2"
}

# to_port BYTES: a connection to the standby's port that sends these, then ends.
to_port() {
	# shellcheck disable=SC2016
	on a bash -c 'printf "%b" "$0" >"/dev/tcp/$1/$2"' "$1" "$standby_ip" "$port"
}

garbage() {
	# shellcheck disable=SC2016
	on a bash -c 'head -c 100000 /dev/urandom >"/dev/tcp/$0/$1"; true' "$standby_ip" "$port"
}

# A connection that says nothing is closed by the standby.
silent() {
	# shellcheck disable=SC2016
	on a bash -c 'exec 3<>"/dev/tcp/$0/$1"; timeout 30 cat <&3 >/dev/null; (($? != 124))' \
		"$standby_ip" "$port"
}

# Connections that say nothing, more than there are places, as long as they are let.
flood() {
	# shellcheck disable=SC2016
	on a timeout 20 bash -c 'for i in {1..20}; do
			exec {fd}<>"/dev/tcp/$0/$1" || exit
			all+=("$fd")
		done
		for fd in "${all[@]}"; do cat <&"$fd"; done' "$standby_ip" "$port" >/dev/null
}

# mismatch PATTERN QEMU_OPTIONS...: the twin on b is another machine than m.
mismatch() {
	local pattern=$1 from

	shift
	# shellcheck disable=SC2046
	vm b w "$@" -incoming defer $(vm_qmp w) $(vm_net w)
	agent_start standby b --standby --listen "$standby_ip:$port" --vm "$(vm_pid b w)"
	wait_line "$standby_log" 'listening on' 30 || return 1
	refused "$pattern" a m --vm "$(vm_pid a m)" --to "$standby_ip:$port" || return 1
	standby_sees "refused the primary at .*$pattern" 1 || return 1
	agent_signal standby TERM && agent_ends standby 0 20 && vm_end b w
}

q35=(-machine q35 -accel kvm -m 64M)
hosts_up

note "command line"
check "no --vm" refused "--vm PID is missing" a - --to "$nobody"
check "no --to" refused "--to ADDR.* is missing" a - --vm 1
check "no --listen" refused "--listen ADDR.* is missing" b - --standby --vm 1
check "an unknown option" refused "no option '--wm'" a - --wm 1
check "no limit of a sync at all" refused "--sync-mib-per-s wants a number" a - --vm 1 --to "$nobody" --sync-mib-per-s 0
check "a number out of range" refused "--timeout wants a number" a - --vm 1 --to "$nobody" --timeout 1
check "a stall shorter than the interval" refused "--max-stall must be longer" a - --vm 1 --to "$nobody" \
	--interval 500 --max-stall 400
check "CPUs that are no list" refused "--worker-cpus wants CPUs and ranges" a - --vm 1 --to "$nobody" \
	--worker-cpus 3-2
check "compression that there is not" refused "--compress can be auto, always or never" a - --vm 1 \
	--to "$nobody" --compress maybe
check "a port that is none" refused "is no port" a - --vm 1 --to "$standby_ip:notaport"
check "an address that is none" refused "cannot resolve" a - --vm 1 --to 10.77.0.2.3

note "processes"
on a sh -c 'tail -f /dev/null >/dev/null 2>&1 & echo $! >/run/guestnone.pid'
nobodys() { # PATTERN COMMANDS
	on a sh -c "rm -f /run/bad.key; $2"
	refused "$1" a - --vm 1 --to "$nobody" --key /run/bad.key
}
check "a key that is not there" nobodys "cannot read the key /run/bad.key" true
check "a key that others can read" nobodys "others can read.*keygen" "cp /etc/vmrepl/key /run/bad.key; chmod 644 /run/bad.key"
check "a key of somebody else's" nobodys "belongs to user 65534" "cp /etc/vmrepl/key /run/bad.key; chown 65534 /run/bad.key"
check "a key that is none" nobodys "is no key" "umask 077; echo 12 >/run/bad.key"
check "a key that is a directory" nobodys "is no file" "mkdir -m 700 /run/bad.key"
check "a key, and none" refused "contradict each other" a - --vm 1 --to "$nobody" --insecure --key /run/bad.key
on a mv /etc/vmrepl/key /run/good.key
check "no key" refused "there is no key /etc/vmrepl/key: .*keygen" a - --vm 1 --to "$nobody"
on a mv /run/good.key /etc/vmrepl/key
kept() {
	on a sh -c "cp -a /etc/vmrepl/key /run/kept; ! $agent keygen && cmp /etc/vmrepl/key /run/kept" &&
		on a sh -c "! $agent keygen /proc/none/key 2>&1 | tee /dev/stderr | grep -v 'cannot make'"
}
check "keygen does not replace a key" kept

check "a pid that is not there" refused "there is no process 999999" a - --vm 999999 --to "$nobody"
check "a process without a VM" refused "no KVM virtual machine; give the pid of a QEMU" \
	a - --vm "$(vm_pid a none)" --to "$nobody"
on a sh -c 'kill "$(cat /run/guestnone.pid)"'
# shellcheck disable=SC2046
vm a t -machine q35 -accel tcg -cpu max -m 64M $(vm_qmp t) $(vm_net t)
check "an emulated VM" refused_vm "no KVM" t
vm_end a t

note "QMP"
# shellcheck disable=SC2046
vm a q "${q35[@]}" $(vm_net q)
check "no QMP socket" refused "listens on no unix socket.*-qmp" a - --vm "$(vm_pid a q)" --to "$nobody"
vm_end a q
# shellcheck disable=SC2046
vm a q "${q35[@]}" -qmp unix:/run/q.qmp,server=on,wait=off $(vm_net q)
"$lab" run a -- socat -u UNIX-CONNECT:/run/q.qmp - >"$work/hold.log" 2>/dev/null &
followers+=($!)
must wait_line "$work/hold.log" QMP 20
check "a QMP socket that another client holds" refused "another client may hold it" \
	a - --vm "$(vm_pid a q)" --to "$nobody"
check "that VM is still there" on a sh -c 'kill -0 "$(cat /run/guestq.pid)"'
vm_end a q

note "guests"
# shellcheck disable=SC2046
vm a u "${q35[@]}" $(vm_qmp u) -netdev user,id=n0 -device virtio-net-pci,netdev=n0
check "user-mode networking" refused_vm "user-mode networking.*use a tap" u
vm_end a u
must on a sh -c 'truncate -s 4M /run/disk'
# shellcheck disable=SC2046
vm a d "${q35[@]}" $(vm_qmp d) -drive file=/run/disk,format=raw,if=virtio
check "a writable disk" refused_vm "is writable.*readonly=on" d
vm_end a d
# shellcheck disable=SC2046
vm a d "${q35[@]}" $(vm_qmp d) -fsdev local,id=f,path=/run,security_model=none \
	-device virtio-9p-pci,fsdev=f,mount_tag=f
check "a shared folder" refused_vm "virtio-9p-pci.*remove it" d
vm_end a d

# shellcheck disable=SC2046
vm a m "${q35[@]}" $(vm_qmp m) $(vm_net m)
m=$(vm_pid a m)
qmp a '{"execute":"stop"}' m-test >/dev/null
paused() {
	refused "does not run .*cont" a - --vm "$m" --to "$nobody" && guest_status a paused m-test
}
check "a paused guest" paused
qmp a '{"execute":"cont"}' m-test >/dev/null

note "the host"
unprivileged() {
	on a setpriv --reuid=65534 --clear-groups "$agent" --vm "$m" --to "$nobody" 2>"$work/err" && return 1
	cat "$work/err"
	grep -q "^vmrepl-agent: .*run as root" "$work/err" && untouched a m
}
check "the agent is not root's" unprivileged
must on a rmmod vmrepl
check "the module is not loaded" refused "module is not loaded.*insmod" a m --vm "$m" --to "$nobody"
must on a insmod "$top/vmrepl.ko"

note "the standby"
check "nobody listens there" refused "standby .*is the standby's agent running there" \
	a m --vm "$m" --to "$nobody"
# shellcheck disable=SC2046
vm b r "${q35[@]}" $(vm_qmp r) $(vm_net r)
check "a standby that does not wait" refused "does not wait for a guest.*-incoming defer" \
	b r --standby --listen "$standby_ip:$port" --vm "$(vm_pid b r)"
vm_end b r
check "another machine type" mismatch "machine types differ.*-machine pc-q35" -machine pc -accel kvm -m 64M
check "another RAM size" mismatch "RAM sizes differ.*same -m" -machine q35 -accel kvm -m 96M
check "another name" mismatch "these are two VMs: .*same -name" "${q35[@]}"
check "another UUID" mismatch "these are two VMs: .*same -uuid" "${q35[@]}" -uuid 01234567-89ab-cdef-0123-456789abcdef
check "other vCPUs" mismatch "vCPU counts differ.*same -smp" "${q35[@]}" -smp 2

# shellcheck disable=SC2046
vm b m "${q35[@]}" -incoming defer $(vm_qmp m) $(vm_net m)
agent_start standby b --standby --listen "$standby_ip:$port" --vm "$(vm_pid b m)" --timeout 10000
must wait_line "$standby_log" 'listening on' 30
check "a fence command on one side only" refused "only the primary has a --fence-command" \
	a m --vm "$m" --to "$standby_ip:$port" --fence-command true
check "a CPU that is not there" refused "--worker-cpus 1,63 names a CPU that is not online" \
	a m --vm "$m" --to "$standby_ip:$port" --worker-cpus 1,63
must on a sh -c 'tc qdisc add dev guestm clsact && tc filter add dev guestm ingress matchall action pass'
filtered() {
	refused "ingress filters of its own" a - --vm "$m" --to "$standby_ip:$port" >"$work/filtered"
	grep "ingress filters of its own" "$work/filtered" && guest_status a running m-test &&
		on a sh -c 'tc filter show dev guestm ingress | grep -q matchall'
}
check "a tap with filters of its own" filtered
must on a tc qdisc del dev guestm clsact

note "the standby's port"
from=$(lines "$standby_log")
check "garbage comes" garbage
check "it is closed and said" standby_sees "closed a connection from 10.77.0.1:.*does not speak TLS" $((from + 1))
from=$(lines "$standby_log")
must "$agent" keygen "$work/other.key"
give_key a /run/other.key "$work/other.key"
check "a primary with another key" refused "does not take our key.*copy one file" \
	a m --vm "$m" --to "$standby_ip:$port" --key /run/other.key
check "it is closed and said" standby_sees "closed a connection from 10.77.0.1:.*has another key" $((from + 1))
from=$(lines "$standby_log")
insecure() {
	on a timeout 30 "$agent" --vm "$m" --to "$standby_ip:$port" --insecure >"$work/out" 2>"$work/err" && return 1
	cat "$work/err"
	grep "^vmrepl-agent: .*does it want a --key" "$work/err" && untouched a m
}
check "a primary without a key" insecure
check "it is closed and said" standby_sees "closed a connection from 10.77.0.1:.*--insecure" $((from + 1))
check "one that says nothing is closed" silent
must agent_signal standby TERM
must agent_ends standby 0 20

note "the port of a standby that has no key"
agent_start standby b --standby --listen "$standby_ip:$port" --vm "$(vm_pid b m)" --timeout 10000 --insecure
must wait_line "$standby_log" 'listening on' 30
check "it says what that means" wait_line "$standby_log" 'insecure: .*can read the guest' 10
from=$(lines "$standby_log")
check "a primary with a key" refused "it closed the connection: .*not --insecure" \
	a m --vm "$m" --to "$standby_ip:$port"
check "it is closed and said" standby_sees "closed a connection from .*no vmrepl frame" $((from + 1))
from=$(lines "$standby_log")
check "garbage comes" garbage
check "it is closed and said" standby_sees "closed a connection from .*no vmrepl frame" $((from + 1))
from=$(lines "$standby_log")
check "a stream that is cut comes" to_port '\x56\x4d\x50\x4c\x02\x00\x01\x00\x10'
check "it is closed and said" standby_sees "closed a connection from .*it closed the connection" $((from + 1))
from=$(lines "$standby_log")
check "another protocol version comes" to_port "\\x56\\x4d\\x50\\x4c\\x63\\x00\\x01\\x00$(printf '\\0%.0s' {1..32})"
check "it is closed and said" \
	standby_sees "another protocol version; install the same vmrepl-agent" $((from + 1))
check "one that says nothing is closed" silent

note "a guest with a read-only disk, two agents, two primaries"
vm_end a m
vm_end b m
check "the standby's agent ends with its VM" agent_ends standby 1 20
must on b sh -c 'truncate -s 4M /run/disk'
disk=(-drive "file=/run/disk,format=raw,if=virtio,readonly=on")
# shellcheck disable=SC2046
vm a m "${q35[@]}" $(vm_qmp m) $(vm_net m) "${disk[@]}"
# shellcheck disable=SC2046
vm b m "${q35[@]}" -incoming defer $(vm_qmp m) $(vm_net m) "${disk[@]}"
m=$(vm_pid a m)
agent_start standby b --standby --listen "$standby_ip:$port" --vm "$(vm_pid b m)" --timeout 10000
must wait_line "$standby_log" 'listening on' 30
from=$(lines "$standby_log")
flood &
check "connections that say nothing take all places" standby_sees "too many connections wait" $((from + 1))
agent_start primary a --vm "$m" --to "$standby_ip:$port" --timeout 10000 --worker-cpus 1-2
check "its primary has one all the same" wait_line "$work/primary.log" "agrees: QEMU" 30
check "a read-only disk is fine: protected" protected || die "not protected"
check "its workers are where they should be" test "$(agent_status a worker-cpus)" = 1-2
second() { # PATTERN HOST ARGUMENTS
	local pattern=$1 host=$2

	shift 2
	on "$host" timeout 30 "$agent" "$@" >"$work/out" 2>"$work/err" </dev/null && return 1
	cat "$work/err"
	[[ $(lines "$work/err") == 1 ]] && grep -qE "^vmrepl-agent: .*$pattern" "$work/err"
}
check "a second agent for it" second "serves the VM of process $m already" \
	a --vm "$m" --to "$nobody" --qmp /run/m-test.qmp
check "a second standby for its twin" second "serves the VM of process .* already" \
	b --standby --listen "$standby_ip:7790" --vm "$(vm_pid b m)" --qmp /run/m-test.qmp
# shellcheck disable=SC2046
vm a n "${q35[@]}" $(vm_qmp n) $(vm_net n) "${disk[@]}"
check "a second primary for the standby" second "serves another primary already" \
	a --vm "$(vm_pid a n)" --to "$standby_ip:$port"
check "garbage while it is protected" garbage
check "protection goes on meanwhile" epochs 5
check "its agent ends" agent_signal primary TERM
check "with success" agent_ends primary 0 20
check "the guest is as it was" untouched a m
agent_signal standby TERM
check "the standby's agent ends" agent_ends standby 0 20
done_testing
