# SPDX-License-Identifier: GPL-2.0
# hosts: the lab's hosts a and b, a guest on each (its twin on b waits for a's
# state), agents, and the client outside. Sourced by the tests that need them.
#
# In $work:	a.guest, b.guest	the guests' consoles
#		NAME.log		what an agent said, its events among it
#		client.log, frames.log	the redis client; frames the client got
# VMREPL_KEEP=1 leaves that directory, VMREPL_KEEP_HOSTS=1 the hosts that still run, for
# the next test; it leaves them, too. Nothing here waits without a limit, and nothing waits
# for time to pass.
# shellcheck shell=bash

# shellcheck source-path=SCRIPTDIR source=tap.sh
. "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/.." && pwd)
lab=$top/tools/lab/lab
build=${VMREPL_BUILD:-$top/build}
image=$top/build/selftests-guest
agent=$build/vmrepl-agent
export VMREPL_LAB=${VMREPL_LAB:-selftest}

guest_ip=10.78.0.10
guest_mac=52:54:00:76:6d:01
standby_ip=10.77.0.2
port=7788

# Where results go, also from within a command of check or must.
exec 5>&1
work=$(mktemp -d)
tap_said=$work/said
keep_hosts=${VMREPL_KEEP_HOSTS:-}
# What all agents are started with. An emulated host spends more on TLS than on all the
# rest; what is not about the link can go without.
agent_options=()
agent_env=()
declare -A agent_host=() agent_job=()
followers=()

# ---- results ----

note() {
	echo "# $*"
}

# The test cannot go on.
die() {
	local file

	exec >&5
	note "$*"
	for file in "$work"/*.log; do
		[[ ! -s $file ]] || { note "${file##*/}:"; tail -n 15 "$file" | sed 's/^/#   /'; }
	done
	echo "Bail out! $*"
	exit 1
}

# must COMMAND...: it has to succeed for the test to go on.
must() {
	"$@" >"$work/said" 2>&1 || { sed 's/^/# /' "$work/said" >&5; die "failed: $*"; }
}

says_no() {
	! "$@"
}

finish() {
	local code=$?

	trap - EXIT
	kill "${followers[@]}" 2>/dev/null
	if [[ $keep_hosts ]]; then
		clear_host a
		clear_host b
	else
		"$lab" down --all >/dev/null 2>&1
	fi
	wait 2>/dev/null
	if [[ ${VMREPL_KEEP:-} ]]; then
		note "kept $work"
	else
		rm -rf "$work"
	fi
	exit $code
}

# The last results of every test, its plan and its exit code.
done_testing() {
	local host

	# It would be healed by a new sync, and nobody would see it.
	check "no session broke" says_no grep -s "the module's session is broken" "$work"/*.log "$work"/*.old
	for host in a b client; do
		check "the kernel of $host is content" "$lab" dmesg-check "$host"
	done
	tap_done
}

# ---- waiting ----

# lines FILE: how many it has now; "from here on" for wait_line is one more.
lines() {
	wc -l <"$1"
}

# wait_line FILE PATTERN SECONDS [FROM]: until a line of a growing file matches.
wait_line() {
	local found=0 tail_pid

	exec 3< <(exec tail -n "+${4:-1}" -F "$1" 2>/dev/null)
	tail_pid=$!
	timeout "$3" grep -q -m1 -E -- "$2" <&3 || found=1
	kill "$tail_pid" 2>/dev/null
	exec 3<&-
	((!found)) || { echo "no line '$2' in ${1##*/} within $3 s; its last but a guest's counts:"
		grep -v '^count ' "$1" | tail -n 5; }
	return $found
}

event() { # NAME [MORE]: a pattern
	echo "\"event\":\"$1\"${2:+.*$2}"
}

# ---- hosts ----

on() { # HOST COMMAND...
	local host=$1

	shift
	"$lab" run "$host" --timeout 60 -- "$@"
}

is_up() {
	"$lab" run "$1" --timeout 10 -- true >/dev/null 2>&1
}

build_image() {
	local redis

	"$lab" prepare || return 1
	redis=$("$lab" package redis-server) || return 1
	"$lab" guest-image --out "$image" --start "$here/guest/start" --root "$redis" \
		--module virtio_balloon --add "$redis/usr/bin/redis-check-rdb:/usr/bin/redis-server"
}

# VMREPL_MODULE_OPTIONS may break it on purpose.
load_module() {
	# shellcheck disable=SC2086
	must on a insmod "$top/vmrepl.ko" ${VMREPL_MODULE_OPTIONS:-}
}

# give_key HOST [FILE [KEY]]: the cluster's key for its agents, or another one.
give_key() {
	local key=${3:-$work/key}

	[[ -e $key ]] || must "$agent" keygen "$key"
	# shellcheck disable=SC2016
	must "$lab" run "$1" --timeout 30 --stdin -- sh -c \
		'umask 077; mkdir -p "${0%/*}" && cat >"$0"' "${2:-/etc/vmrepl/key}" <"$key"
}

# Boots what is not there, a host again after its power was cut.
host_up() {
	if is_up "$1"; then
		clear_host "$1"
	else
		must "$lab" up "$1"
	fi
	give_key "$1"
	[[ $1 != a ]] || load_module
}

hosts_up() {
	local host old=()

	echo "TAP version 13"
	trap finish EXIT
	trap 'exit 130' INT TERM
	must build_image
	for host in a b client; do
		if is_up "$host"; then
			old+=("$host")
		else
			"$lab" kill "$host" 2>/dev/null
		fi
	done
	[[ ! ${old[*]} ]] || keep_hosts=1
	must "$lab" pair
	for host in "${old[@]}"; do
		[[ $host == client ]] || clear_host "$host"
	done
	# An emulator that has ended meanwhile is none of the test's.
	for host in a b client; do
		is_up "$host" || { note "host $host is gone; it is booted once more"; "$lab" kill "$host" 2>/dev/null; }
	done
	must "$lab" pair
	give_key a
	give_key b
	load_module
	"$lab" power ok
}

# Ends agents and guest, takes away what they and tests leave, and the module.
clear_host() {
	is_up "$1" || return 0
	"$lab" link "$1" repl0 up
	# shellcheck disable=SC2016
	on "$1" bash -c '
		for file in /run/primary*.pid /run/standby*.pid /run/guest*.pid; do
			pid=$(cat "$file" 2>/dev/null) || continue
			case $(cat "/proc/$pid/comm" 2>/dev/null) in
			vmrepl-agent | qemu-system*) ;;
			*) continue ;;
			esac
			kill -CONT "$pid"
			kill -KILL "$pid"
			timeout 20 tail -s 0.1 -f --pid="$pid" /dev/null
		done
		rm -f /run/*.pid
		for link in $(ip -o link | grep -o " \(vmr[0-9]*\|guest[a-z]*\):" | tr -d ":"); do
			ip link del "$link"
		done
		tc qdisc del dev repl0 root
		tc qdisc del dev repl0 clsact
		rdma link del rxe_repl0
		echo 0 >/proc/sys/vm/nr_hugepages
		lsmod | grep -q "^vmrepl " && rmmod vmrepl
		true' >/dev/null 2>&1
}

# ---- the guest ----

# guest_start HOST [QEMU OPTIONS...]: -incoming defer on b makes it the twin. Two more
# QMP sockets are there for the tests; the agent takes the first of the three. VHOST and
# GUEST_QEMU in the environment are for guest-vm.
guest_start() {
	local host=$1 pid

	shift
	guest_end "$host"
	on "$host" env VHOST="${VHOST:-off}" ${GUEST_QEMU:+GUEST_QEMU="$GUEST_QEMU"} \
		"$top/tools/demo/guest-vm" "$image" guest -m 128M \
		-qmp "unix:/run/test.qmp,server=on,wait=off" \
		-qmp "unix:/run/events.qmp,server=on,wait=off" "$@" || return 1
	pid=$(guest_pid "$host")
	rm -f "$work/$host.guest"
	: >"$work/$host.guest"
	"$lab" run "$host" -- tail -n +1 -f --pid="$pid" /run/guest.log \
		>"$work/$host.guest" 2>/dev/null &
	followers+=($!)
}

# guest_end HOST: kills it, if there is one, and takes its tap away.
guest_end() {
	# shellcheck disable=SC2016
	on "$1" bash -c 'pid=$(cat /run/guest.pid) && kill -KILL "$pid" &&
		timeout 20 tail -s 0.1 -f --pid="$pid" /dev/null
		rm -f /run/guest.pid /run/guest.log
		! ip link show guest || ip link del guest' >/dev/null 2>&1
}

guest_up() { # HOST
	wait_line "$work/$1.guest" '^guest: serves' 90
}

guest_pid() {
	on "$1" cat /run/guest.pid
}

# guest_runs HOST [TICKS]: its counter goes on; 10 ticks are about a second.
guest_runs() {
	local from

	from=$(lines "$work/$1.guest")
	wait_line "$work/$1.guest" "^count [0-9]+" 30 $((from + ${2:-3}))
}

# qmp HOST COMMAND [NAME]: the answer's last line, on the tests' own socket.
qmp() {
	# shellcheck disable=SC2016
	on "$1" bash -c 'printf "%s\n" "{\"execute\":\"qmp_capabilities\"}" "$0" |
		timeout 10 socat -t 5 - "UNIX-CONNECT:/run/$1.qmp"' "$2" "${3:-test}" | tail -n 1
}

# What its QEMU tells by itself goes to $work/events.log, a line each.
watch_events() { # HOST
	: >"$work/events.log"
	# shellcheck disable=SC2016
	"$lab" run "$1" -- bash -c 'echo "{\"execute\":\"qmp_capabilities\"}" |
		socat -,ignoreeof UNIX-CONNECT:/run/events.qmp' >>"$work/events.log" 2>/dev/null &
	followers+=($!)
	wait_line "$work/events.log" '"return"' 30
}

guest_status() { # HOST STATUS [NAME]
	local said

	said=$(qmp "$1" '{"execute":"query-status"}' "${3:-test}")
	[[ $said == *"\"status\": \"$2\""* ]] || { echo "$said"; return 1; }
}

# Nothing of ours is on the host's taps.
tap_clean() {
	local said

	said=$(on "$1" sh -c 'ip -br link show type ifb
		tc qdisc show | grep -E "clsact|ingress|plug"
		tc filter show dev guest ingress') && [[ ! $said ]] && return
	[[ ! $said ]] || { echo "left on host $1: $said"; return 1; }
}

# ---- agents ----

# agent_start NAME HOST OPTIONS...: in the background; NAME begins with primary or standby.
agent_start() {
	local name=$1 host=$2 env=() item

	shift 2
	for item in "${agent_env[@]}"; do
		env+=(--env "$item")
	done
	[[ ! -e $work/$name.log ]] || cat "$work/$name.log" >>"$work/$name.old"
	: >"$work/$name.log"
	# shellcheck disable=SC2016
	"$lab" run "$host" "${env[@]}" -- bash -o pipefail -c \
		'(echo $BASHPID >"/run/$0.pid"; exec "$@" --json /dev/stderr) 2>&1 | cat' \
		"$name" "$agent" "$@" >>"$work/$name.log" 2>&1 </dev/null &
	agent_job[$name]=$!
	agent_host[$name]=$host
}

agent_signal() { # NAME SIGNAL
	# shellcheck disable=SC2016
	on "${agent_host[$1]}" bash -c 'pid=$(cat "/run/$0.pid"); kill -s "$1" "$pid" || exit
		[[ $1 != STOP ]] || timeout 10 grep -q "^State:.T" <(
			until grep "^State:.T" "/proc/$pid/status"; do :; done)' "$1" "$2"
}

# agent_kill NAME: SIGKILL; returns when the process is gone.
agent_kill() {
	agent_signal "$1" KILL && agent_ends "$1" 137 30
}

# agent_ends NAME CODE SECONDS: within that time, with that exit code.
agent_ends() {
	local code=0

	timeout "$3" tail -s 0.1 -f --pid="${agent_job[$1]}" /dev/null ||
		{ echo "agent $1 still runs after $3 s"; return 1; }
	wait "${agent_job[$1]}" || code=$?
	[[ $code == "$2" ]] || { echo "agent $1 ended with $code, not $2"; return 1; }
}

# Silence is a loss only after 10 s, and output may be held for two minutes, unless the
# test says otherwise: a busy machine must not look like a dead one, or a stalled link.
standby_start() { # OPTIONS...
	agent_start standby b --standby --listen "$standby_ip:$port" --vm "$(guest_pid b)" \
		--timeout 10000 "${agent_options[@]}" "$@"
	wait_line "$work/standby.log" 'listening on' 30
}

primary_start() { # OPTIONS...
	agent_start primary a --vm "$(guest_pid a)" --to "$standby_ip:$port" \
		--timeout 10000 --max-stall 120000 "${agent_options[@]}" "$@"
}

protected() { # [FROM]
	wait_line "$work/primary.log" "$(event protected)" 90 "${1:-1}"
}

# epochs N: N more checkpoints were acknowledged.
epochs() {
	local from

	from=$(lines "$work/primary.log")
	wait_count "$work/primary.log" "$(event epoch)" "$1" $((from + 1))
}

# wait_count FILE PATTERN N FROM: until N lines match.
wait_count() {
	local tail_pid found=0

	exec 3< <(exec tail -n "+$4" -F "$1" 2>/dev/null)
	tail_pid=$!
	[[ $(timeout 60 grep -m "$3" -E -c -- "$2" <&3) == "$3" ]] || found=1
	kill "$tail_pid" 2>/dev/null
	exec 3<&-
	((!found)) || echo "no $3 lines '$2' in ${1##*/} within 60 s"
	return $found
}

agent_status() { # HOST FIELD: its value
	on "$1" "$agent" status | sed -n "s/^$2  *//p"
}

# Its agent has given up what it does not need.
confined() { # HOST
	[[ $(agent_status "$1" confined) == true ]]
}

state_is() { # HOST STATE
	local state

	state=$(agent_status "$1" state)
	[[ $state == "$2" ]] || { echo "it is '$state'"; return 1; }
}

# ---- the client ----

# client_start: a new one, with a new connection.
client_start() { # [RECORDS that are acknowledged then]
	# shellcheck disable=SC2016
	on client sh -c 'kill -KILL "$(cat /run/client.pid)" 2>/dev/null; true' || return 1
	: >"$work/client.log"
	# shellcheck disable=SC2016
	"$lab" run client -- sh -c 'echo $$ >/run/client.pid; exec "$@"' client \
		"$build/services/redis/client" "$guest_ip" >>"$work/client.log" 2>&1 &
	followers+=($!)
	wait_line "$work/client.log" "^ack ${1:-10} " 90
}

# served N: N more records were acknowledged.
served() {
	local acks

	acks=$(grep -c '^ack' "$work/client.log")
	wait_line "$work/client.log" "^ack $((acks + $1)) " 120
}

client_stop() {
	# shellcheck disable=SC2016
	on client sh -c 'kill -TERM "$(cat /run/client.pid)"' &&
		wait_line "$work/client.log" '^result ' 60
}

# nothing_lost: of what was acknowledged to the client, which has ended.
nothing_lost() {
	grep '^result .* lost=0 connection=kept ' "$work/client.log" ||
		{ tail -n 3 "$work/client.log"; return 1; }
}

# frames_start: the guest's frames as they arrive from host a, a line each.
frames_start() {
	"$lab" run client -- tcpdump -i a0 -l -n --immediate-mode ether src "$guest_mac" \
		>"$work/frames.log" 2>"$work/frames.err" &
	followers+=($!)
	wait_line "$work/frames.err" 'listening on' 30
}

# ---- the guest's memory on both sides, read from outside ----

# guest_ram HOST: a checksum of the first 128 MiB of its RAM, which are in one piece.
guest_ram() {
	local said hva

	said=$(qmp "$1" '{"execute":"human-monitor-command","arguments":{"command-line":"gpa2hva 0x100000"}}')
	hva=$(grep -oE 'is 0x[0-9a-f]+' <<<"$said") || { echo "$said"; return 1; }
	# shellcheck disable=SC2016
	on "$1" bash -o pipefail -c 'dd if="/proc/$0/mem" bs=1M iflag=skip_bytes skip="$1" \
		count=128 status=none | xxhsum -H1' \
		"$(guest_pid "$1")" $((${hva#is } - 0x100000))
}

# ram_equal: as both stand. The guest runs again then.
ram_equal() {
	local from applied a b=

	from=$(($(lines "$work/primary.log") + 1))
	[[ $(qmp a '{"execute":"stop"}') == *'"return"'* ]] || return 1
	wait_line "$work/primary.log" "$(event guest '"stands":true')" 60 "$from" &&
		epochs 2 && applied=$(($(lines "$work/standby.log") + 1)) &&
		wait_count "$work/standby.log" "$(event applied)" 2 "$applied" || return 1
	"$top/tools/need-packages" xxhash || return 1
	guest_ram b >"$work/b.ram" &
	a=$(guest_ram a)
	wait $! && b=$(<"$work/b.ram")
	echo "a: $a, b: $b"
	[[ $a && $a == "$b" && $(qmp a '{"execute":"cont"}') == *'"return"'* ]]
}

# ---- the guest's memory on both sides, with VMREPL_DEBUG_HASH=1 in agent_env ----

# hashes NAME: "EPOCH HASH" for each checkpoint, sorted for join.
hashes() {
	sed -n 's/.*"event":"ram","epoch":\([0-9]*\),"hash":"\([0-9a-f]*\)".*/\1 \2/p' \
		"$work/$1.log" | sort -k1,1
}

# memory_equal: at every checkpoint that both sides have told of, ten at least.
memory_equal() {
	local both differ

	both=$(join <(hashes primary) <(hashes standby))
	differ=$(awk '$2 != $3' <<<"$both")
	[[ ! $differ ]] || { echo "epoch, primary's, standby's:"; echo "$differ"; return 1; }
	(($(wc -l <<<"$both") >= 10)) || { echo "too few checkpoints: $both"; return 1; }
}
