# SPDX-License-Identifier: GPL-2.0
# machine: one lab host: its files, its emulator process, its end.
#
# $RUN/NAME/ holds: host.conf and links.conf (what the host's init reads), pid, console.log,
# init (the cache's directory that it was booted from), port (where its courier is reached on the loopback), qmp.sock.

CFLAGS=(-std=gnu11 -D_GNU_SOURCE -O2 -static -Wall -Wextra -Werror)
# A boot takes three to twenty; one that stalls is tried again, with more patience.
READY_SECONDS=60
POWER_OFF_MS=5000

host_dir() {
	[[ $1 =~ ^[a-z][a-z0-9-]*$ ]] || usage_error "'$1' is no name for a host (a-z, 0-9, -)"
	echo "$RUN/$1"
}

# host_pid NAME: the emulator's pid if this host runs; the command line is
# compared too, because a pid may have been given to someone else since.
host_pid() {
	local dir pid

	dir=$(host_dir "$1")
	pid=$(cat "$dir/pid" 2>/dev/null) || return 1
	grep -qzxF "lab-$LAB-$1" "/proc/$pid/cmdline" 2>/dev/null || return 1
	echo "$pid"
}

need_host() {
	host_pid "$1" >/dev/null || die "host $1 is not running; start it with 'lab up $1'"
}

# init_key: changes with everything that the hosts' initramfs is made of.
init_key() {
	(cd "$LAB_DIR" && echo "$KERNEL" "${CFLAGS[@]}" &&
		cat "$CACHE/kernel-$KERNEL/release" ./*.c ./*.h ./*-init lab-power machine.sh debug.config) |
		sha256sum | cut -c1-16
}

# pack DIR OUT: DIR as an initramfs.
pack() {
	(cd "$1" && find . -mindepth 1 | cpio -o -H newc --quiet) | gzip -1 >"$2"
}

# put_modules SERIES DIR MODULE...: copies modules and what they need into
# DIR/modules, and writes the order to load them in.
put_modules() {
	local root=$CACHE/kernel-$1 dir=$2 release file

	shift 2
	release=$(<"$root/release")
	mkdir -p "$dir/modules"
	modprobe -d "$root" -S "$release" --show-depends -a "$@" |
		awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
		while read -r file; do
			case $file in
			*.xz) xz -dc "$file" >"$dir/modules/$(basename "$file" .xz)" ;;
			*) cp "$file" "$dir/modules/" ;;
			esac
			basename "$file" .xz
		done >"$dir/modules/order"
}

# build_init KEY: the courier, the power cut and the hosts' initramfs.
build_init() {
	local tmp dest=$CACHE/init-$1

	tmp=$(mktemp -d "$CACHE/tmp.XXXXXX")
	mkdir -p "$tmp"/root/{bin,proc,sys,dev,lower,memory,root}
	gcc "${CFLAGS[@]}" -o "$tmp/courier" "$LAB_DIR"/courier.c "$LAB_DIR"/courier_host.c
	gcc "${CFLAGS[@]}" -o "$tmp/powercut" "$LAB_DIR"/powercut.c
	gcc "${CFLAGS[@]}" -o "$tmp/tsckhz" "$LAB_DIR"/tsckhz.c
	put_modules "$KERNEL" "$tmp/root" virtio_pci 9p 9pnet_virtio overlay
	cp "$(command -v busybox)" "$tmp/root/bin/busybox"
	cp "$tmp/courier" "$LAB_DIR/host-init" "$LAB_DIR/lab-power" "$tmp/root/"
	cp "$LAB_DIR/initramfs-init" "$tmp/root/init"
	pack "$tmp/root" "$tmp/initramfs"
	rm -rf "$tmp/root"

	mkdir -p "$tmp"/root/{bin,proc,dev}
	put_modules "$KERNEL" "$tmp/root" kvm_amd kvm_intel
	cp "$(command -v busybox)" "$tmp/root/bin/busybox"
	cp "$LAB_DIR/probe-init" "$tmp/root/init"
	chmod 755 "$tmp/root/init"
	gcc "${CFLAGS[@]}" -o "$tmp/root/kvmprobe" "$LAB_DIR"/kvmprobe.c
	pack "$tmp/root" "$tmp/probe"
	rm -rf "$tmp/root" "$dest"
	mv -T "$tmp" "$dest"
}

# topology NAME: sets LINKS (name=hardware address), NETWORK (what brings them
# up) and WIRES (netdev options) for a host.
topology() {
	LINKS=(mgmt0=52:54:00:00:00:0f)
	NETWORK=("ip addr add 10.0.2.15/24 dev mgmt0" "ip link set mgmt0 up")
	WIRES=()
	case $1 in
	a | b)
		local n=1 role=server=on
		[[ $1 == a ]] || n=2 role=server=off,reconnect-ms=200
		LINKS+=("repl0=52:54:00:77:00:0$n" "guest0=52:54:00:78:01:0$n")
		WIRES+=("repl0,$role,addr.type=unix,addr.path=$RUN/repl.sock"
			"guest0,server=off,reconnect-ms=200,addr.type=unix,addr.path=$RUN/guest-$1.sock")
		NETWORK+=("ip addr add 10.77.0.$n/24 dev repl0" "ip link set repl0 mtu 9000 up"
			"ip link add br0 type bridge stp_state 0 forward_delay 0"
			"ip link set guest0 master br0" "ip link set guest0 up" "ip link set br0 up")
		;;
	client)
		LINKS+=("a0=52:54:00:78:02:01" "b0=52:54:00:78:02:02")
		WIRES+=("a0,server=on,addr.type=unix,addr.path=$RUN/guest-a.sock"
			"b0,server=on,addr.type=unix,addr.path=$RUN/guest-b.sock")
		NETWORK+=("ip link add br0 type bridge stp_state 0 forward_delay 0"
			"ip link set a0 master br0" "ip link set b0 master br0"
			"ip link set a0 up" "ip link set b0 up"
			"ip addr add 10.78.0.1/24 dev br0" "ip link set br0 up")
		;;
	esac
}

cmd_up() {
	local name=${1:-} smp= mem= append= accel= cpu= share=$REPO dir

	[[ $name && $name != -* ]] || usage_error "up: which host?"
	shift
	while (($#)); do
		case $1 in
		--kernel) KERNEL=${2:?--kernel wants a series}; shift ;;
		--smp) smp=${2:?--smp wants a number}; shift ;;
		--mem) mem=${2:?--mem wants a size}; shift ;;
		--accel) accel=${2:?--accel wants kvm or tcg}; shift ;;
		--cpu) cpu=${2:?--cpu wants intel}; shift ;;
		--append) append=${2?--append wants kernel options}; shift ;;
		--share) share=$(realpath "${2:?--share wants a directory}"); shift ;;
		*) usage_error "up: unknown argument $1" ;;
		esac
		shift
	done
	dir=$(host_dir "$name")
	[[ "$share$CACHE" != *[[:space:],]* ]] ||
		die "the lab needs paths without blanks and commas: $share, $CACHE"
	[[ -d $share ]] || die "$share is not a directory"
	prepare
	mkdir -p "$RUN"
	exec 9>"$RUN/$name.lock"
	flock 9
	! host_pid "$name" >/dev/null || die "host $name is running already"
	case $cpu in
	'') ;;
	intel)
		[[ ! $accel ]] || usage_error "up: an Intel host is always emulated; leave --accel out"
		[[ ! $name =~ ^(a|b|client)$ ]] || usage_error "up: an Intel host has no links; give it another name than $name"
		prepare_intel
		intel_up "$name" "${smp:-2}" "${mem:-1G}" "$append" "$share"
		return
		;;
	*) usage_error "up: --cpu can be intel; without it the host has what works here, AMD if emulated" ;;
	esac
	boot "$name" "${accel:-$(choose_accelerator)}" "${smp:-$(default_smp "$name")}" \
		"${mem:-$(default_mem "$name")}" "$append" "$share"
}

default_smp() {
	[[ $1 == client ]] && echo 1 || echo 2
}

default_mem() {
	case $1 in
	client) echo 512M ;;
	a | b) echo 3G ;;
	*) echo 2G ;;
	esac
}

boot() {
	local name=$1 accel=$2 smp=$3 mem=$4 append=$5 share=$6
	local dir init began wire link how args=()

	[[ $KERNEL != debug ]] || READY_SECONDS=360
	dir=$(host_dir "$name")
	init=$CACHE/init-$INIT_KEY
	rm -rf "$dir"
	mkdir -p "$dir"
	ln -s "$init" "$dir/init"
	((${#dir} < 90)) || die "the path $dir is too long for a unix socket; set VMREPL_CACHE to a shorter one"
	topology "$name"
	printf '%s=%q\n' NAME "$name" CACHE "$CACHE" KERNEL "$KERNEL" SHARE "$share" \
		>"$dir/host.conf"
	printf '%s=(%s)\n' LINKS "$(printf '%q ' "${LINKS[@]}")" NETWORK "$(printf '%q ' "${NETWORK[@]}")" \
		>"$dir/links.conf"

	args+=(-netdev "user,id=mgmt0,restrict=on,hostfwd=tcp:127.0.0.1:0-:1,guestfwd=tcp:10.0.2.100:9-cmd:$LAB_DIR/lab power-switch $LAB")
	for wire in "${WIRES[@]}"; do
		args+=(-netdev "stream,id=$wire")
	done
	for link in "${LINKS[@]}"; do
		args+=(-device "virtio-net-pci,netdev=${link%%=*},mac=${link##*=},romfile=")
	done
	began=$EPOCHREALTIME
	# shellcheck disable=SC2046
	VMREPL_CACHE=$CACHE "${EMULATOR[@]}" -name "lab-$LAB-$name" $(accelerator_options "$accel") \
		-smp "$(accelerator_cpus "$accel" "$smp")" -m "$mem" -daemonize -pidfile "$dir/pid" \
		-serial "file:$dir/console.log" -qmp "unix:$dir/qmp.sock,server=on,wait=off" \
		-kernel "$(kernel_image)" \
		-initrd "$init/initramfs" \
		-append "console=ttyS0 loglevel=5 mitigations=off oops=panic panic=-1 lab.state=$dir $(accelerator_append "$accel" "$smp") $(debug_append) $append" \
		-fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap" \
		-device virtio-9p-pci,fsdev=root,mount_tag=root \
		-fsdev "local,id=share,path=$share,security_model=none,readonly=on,multidevs=remap" \
		-device virtio-9p-pci,fsdev=share,mount_tag=share \
		-device virtio-rng-pci "${args[@]}" >"$dir/emulator.log" 2>&1 9>&- || {
		cat "$dir/emulator.log" >&2
		die "the emulator did not start host $name"
	}
	if ! wait_ready "$name"; then
		# On a busy machine once in some eighty boots the first CPU's timer interrupt is lost
		# before the kernel has left the periodic timer: its APIC has it in service (QEMU's
		# "info lapic 0": ISR 236, LVTT periodic), the kernel has not seen it, and it is the last.
		# More seldom the kernel trips over time.
		how="was not ready within $READY_SECONDS s"
		! grep -q "$LOST_TIMER" "$dir/console.log" || how="lost its first CPU's timer"
		host_pid "$name" >/dev/null || how="ended while it booted"
		[[ ! ${7:-} ]] || die "host $name $how, for the second time; see $dir/console.log"
		say "host $name $how and is booted once more; its console: $RUN/$name.stalled.log"
		cp "$dir/console.log" "$RUN/$name.stalled.log"
		power_cut "$name" || die "host $name could not be stopped"
		READY_SECONDS=$((READY_SECONDS * 2))
		boot "${@:1:6}" again
		return
	fi
	printf 'lab: host %s is up: %s, %s, %s CPUs, %s, %.1f s\n' "$name" \
		"$accel" "$(<"$CACHE/kernel-$KERNEL/release")" "$smp" "$mem" \
		"$(minus "$EPOCHREALTIME" "$began")" >&2
}

# minus A B: seconds with a fraction.
minus() {
	awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a - b }'
}

# qmp NAME COMMAND: one command to the host's emulator; prints what it returns.
qmp() {
	printf '{"execute":"qmp_capabilities"}\n%s\n' "$2" |
		timeout 10 socat -t 5 - "UNIX-CONNECT:$(host_dir "$1")/qmp.sock" | tail -n 1
}

# The kernel without a timer on the CPU where its grace periods are made.
LOST_TIMER='rcu: .*kthread timer wakeup didn.t happen'

# wait_ready NAME: fails if it is not ready in time, or ends before.
wait_ready() {
	local name=$1 dir pid

	dir=$(host_dir "$name")
	pid=$(<"$dir/pid")
	if ! timeout "$READY_SECONDS" grep -Em1 "^lab: ready|$LOST_TIMER" \
		<(exec tail -n +1 -F --pid="$pid" "$dir/console.log" 2>/dev/null) | grep -q ready; then
		tail -n 20 "$dir/console.log" >&2
		return 1
	fi
	qmp "$name" '{"execute":"human-monitor-command","arguments":{"command-line":"info usernet"}}' |
		grep -o 'HOST_FORWARD[^\\]*' | awk '{ print $4 }' >"$dir/port"
	[[ -s $dir/port ]] || die "the emulator of $name does not say where its courier is"
}

# cmd_pair: what "up" takes goes to all three hosts.
cmd_pair() {
	local name pid pids=()

	prepare
	choose_accelerator >/dev/null
	for name in a b client; do
		host_pid "$name" >/dev/null || {
			"$LAB_DIR/lab" up "$name" "$@" &
			pids+=($!)
		}
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || die "not all hosts came up"
	done
}

cmd_down() {
	local name pid

	if [[ ${1:-} == --all ]]; then
		set --
		for name in "$RUN"/*/{pid,intel.conf}; do
			[[ ! -e $name ]] || set -- "$@" "$(basename "${name%/*}")"
		done
	elif (($# == 0)); then
		usage_error "down: which host? (or --all)"
	fi
	for name in "$@"; do
		if is_intel "$name"; then
			intel_down "$name"
			continue
		fi
		pid=$(host_pid "$name") || continue
		(cmd_run "$name" --timeout 5 -- busybox poweroff -f) >/dev/null 2>&1 || true
		"$(host_dir "$name")/init/powercut" -w "$pid" "$POWER_OFF_MS" 2>/dev/null ||
			power_cut "$name" ||
			die "host $name could not be stopped"
	done
}

