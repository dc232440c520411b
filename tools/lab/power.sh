# SPDX-License-Identifier: GPL-2.0
# power: cutting a host's power, from outside and from inside another host.
# The switch is this script, started by a host's emulator for each connection to
# 10.0.2.100:9 in there; it answers "off" only for a host that it has seen dead, or
# whose emulator has ended by itself (its kernel had panicked, say).
#
# $RUN/power holds how the switch behaves: ok (also when it is not there),
# refuse (it says no), silent (it never answers).

POWER_CUT_MS=5000

# power_cut NAME: SIGKILL; succeeds only when the emulator is seen dead.
power_cut() {
	local pid

	pid=$(host_pid "$1") || return 0
	"$(host_dir "$1")/init/powercut" "$pid" "$POWER_CUT_MS"
}

cmd_kill() {
	[[ $# == 1 ]] || usage_error "kill: which host?"
	need_host "$1"
	power_cut "$1" || die "host $1 could not be killed"
}

cmd_power() {
	case ${1:-} in
	ok | refuse | silent)
		mkdir -p "$RUN"
		echo "$1" >"$RUN/power"
		;;
	'') cat "$RUN/power" 2>/dev/null || echo ok ;;
	*) usage_error "power: the switch can be ok, refuse or silent" ;;
	esac
}

# cmd_link HOST LINK up|down|rdma: the cable, not the interface: nothing passes, either way;
# or an RDMA device of the kernel's own (soft-RoCE) on it.
cmd_link() {
	local up answer

	[[ $# == 3 ]] || usage_error "link: which host's link, and up, down or rdma?"
	case $3 in
	up) up=true ;;
	down) up=false ;;
	rdma) ;;
	*) usage_error "link: up, down or rdma, not '$3'" ;;
	esac
	need_host "$1"
	if [[ $3 == rdma ]]; then
		# shellcheck disable=SC2016
		(cmd_run "$1" --timeout 60 -- bash -c 'modprobe -a rdma_rxe rdma_ucm &&
			{ rdma link show "rxe_$0/1" >/dev/null 2>&1 ||
				rdma link add "rxe_$0" type rxe netdev "$0"; }' "$2") ||
			die "host $1 has no RDMA on $2"
		return
	fi
	answer=$(qmp "$1" "{\"execute\":\"set_link\",\"arguments\":{\"name\":\"$2\",\"up\":$up}}")
	[[ $answer != *'"error"'* ]] || die "host $1 has no link '$2'"
}

# cmd_power_switch LAB: answers one connection on standard input and output.
cmd_power_switch() {
	local verb name behaviour

	LAB=$1
	RUN=$CACHE/run/$LAB
	read -r -t 10 verb name || return 1
	behaviour=$(cmd_power)
	echo "$EPOCHREALTIME $behaviour: $verb $name" >>"$RUN/power.log"
	case $behaviour in
	refuse)
		echo "no, it was told to refuse"
		return 0
		;;
	silent)
		# Until the other side gives up and closes.
		exec cat >/dev/null
		;;
	esac
	if [[ $verb != off || ! $name =~ ^[a-z][a-z0-9-]*$ || ! -e $RUN/$name/host.conf ]]; then
		echo "no, there is no host '$name' to switch off"
	elif power_cut "$name" 2>>"$RUN/power.log"; then
		echo off
	else
		echo "no, host $name is still running"
	fi
}
