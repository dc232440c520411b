# SPDX-License-Identifier: GPL-2.0
# intel: hosts with an Intel processor (up --cpu intel). Bochs gives them VMX, EPT and
# PML, but neither a network nor 9p: a host is booted for each command, from a CD with
# the kernel, the host's few programs, the shared directory and the command; the serial
# ports are files, the command's output among them.
#
# $RUN/NAME/ holds: host.conf (what up was told), cd/ and boot.iso, bochsrc, console.log
# (all boots), serial.1 to .3 and pid (the boot under way).

# The TSC of the emulated processor counts its instructions; the kernel must know.
INTEL_IPS=100000000
INTEL_MODULES=(kvm_intel brd)
INTEL_PROGRAMS=(bash)
# A share is unpacked into the host's memory, through an emulated CD.
INTEL_SHARE_MB=64

is_intel() {
	[[ -e $(host_dir "$1")/intel.conf ]]
}

# intel_up NAME CPUS MEMORY APPEND SHARE: nothing runs yet.
intel_up() {
	local name=$1 dir

	dir=$(host_dir "$name")
	rm -rf "$dir"
	mkdir -p "$dir"
	printf '%s=%q\n' NAME "$name" KERNEL "$KERNEL" CPUS "$2" MEMORY "$3" APPEND "$4" SHARE "$5" \
		>"$dir/intel.conf"
	ln -s "$CACHE/init-$INIT_KEY" "$dir/init"
	say "host $name is an Intel one (Bochs): $(<"$CACHE/kernel-$KERNEL/release"), $2 CPUs, $3; it is booted anew for each command"
}

intel_down() {
	power_cut "$1" || die "host $1 could not be stopped"
	rm -f "$(host_dir "$1")/intel.conf"
}

megabytes() {
	case $1 in
	*[gG]) echo $((${1%?} * 1024)) ;;
	*[mM]) echo "${1%?}" ;;
	*) usage_error "'$1' is no size of memory; 1G, say" ;;
	esac
}

# intel_base: prints where the part of the initramfs is that all runs have.
intel_base() {
	local key

	key=$(cd "$LAB_DIR" && {
		echo "$KERNEL" "${INTEL_MODULES[@]}" "${INTEL_PROGRAMS[@]}"
		cat "$CACHE/kernel-$KERNEL/release" intel-init intel.sh
	} | sha256sum | cut -c1-16)
	locked "intel-$key" build_intel_base "$CACHE/intel-$key"
	echo "$CACHE/intel-$key"
}

# build_intel_base DIR
build_intel_base() {
	local tmp release file to program

	release=$(<"$CACHE/kernel-$KERNEL/release")
	tmp=$(mktemp -d "$CACHE/tmp.XXXXXX")
	mkdir -p "$tmp"/root/{bin,sbin,usr/bin,usr/sbin,proc,sys,dev,tmp,run,root,lib64,lab}
	put_file "$(command -v busybox)" "$tmp/root/bin/busybox"
	for program in "${INTEL_PROGRAMS[@]}"; do
		put_program "$(find_program "$program")" "$tmp/root" "bin/$program" ""
	done
	while read -r file; do
		to=$tmp/root/lib/modules/$release/${file#*/"$release"/}
		mkdir -p "${to%/*}"
		case $file in
		*.xz) xz -dc "$file" >"${to%.xz}" ;;
		*) cp "$file" "$to" ;;
		esac
	done < <(modprobe -d "$CACHE/kernel-$KERNEL" -S "$release" --show-depends -a "${INTEL_MODULES[@]}" |
		awk '$1 == "insmod" && !seen[$2]++ { print $2 }')
	cp "$CACHE/kernel-$KERNEL/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} \
		"$tmp/root/lib/modules/$release/"
	depmod -b "$tmp/root" "$release"
	cp "$LAB_DIR/intel-init" "$tmp/root/init"
	chmod 755 "$tmp/root/init"
	pack "$tmp/root" "$tmp/initramfs"
	rm -rf "$tmp/root"
	mkdir -p "${1%/*}"
	rm -rf "$1"
	mv -T "$tmp" "$1"
}

# intel_share SHARE: as an initramfs on standard output, without what no host needs,
# modules for other kernels among it.
intel_share() {
	local list kilobytes

	list=$(cd "$1" && find . \( -name .git -o -name asan -o -name fuzz -o \
		-name 'module-*' ! -name "module-$KERNEL" \) -prune -o \
		\( -type f -o -type l \) ! -name '*.o' ! -name '*.cmd' -size -8193k -print)
	kilobytes=$(cd "$1" && tr '\n' '\0' <<<"$list" | du -ck --files0-from=- 2>/dev/null | tail -n 1 | cut -f1)
	((kilobytes <= INTEL_SHARE_MB * 1024)) ||
		die "$1 has $((kilobytes / 1024)) MB; an Intel host takes $INTEL_SHARE_MB: name a smaller directory with 'up --share'"
	# Before each file the directories that it is in.
	(cd / && sed "s|^\.|${1#/}|" <<<"$list" | awk -F/ '{
			path = $1
			for (i = 2; i <= NF; i++) {
				if (!(path in seen)) print path
				seen[path]
				path = path "/" $i
			}
			print path
		}' | cpio -o -H newc --quiet) | gzip -1
}

# intel_disc DIR: the boot CD of one run, of what DIR/cd holds by now.
intel_disc() {
	local dir=$1 loader=/usr/lib/ISOLINUX/isolinux.bin
	local module=/usr/lib/syslinux/modules/bios/ldlinux.c32

	cp "$loader" "$module" "$dir/cd/"
	ln -f "$CACHE/kernel-$KERNEL/boot/vmlinuz-$(<"$CACHE/kernel-$KERNEL/release")" "$dir/cd/vmlinuz"
	cat >"$dir/cd/isolinux.cfg" <<-END
		DEFAULT host
		PROMPT 0
		LABEL host
		KERNEL /vmlinuz
		INITRD /base,/share,/run
		APPEND console=ttyS0,115200 loglevel=5 mitigations=off cryptomgr.notests oops=panic panic=-1 reboot=t tsc_early_khz=$((INTEL_IPS / 1000)) $APPEND
	END
	xorriso -as mkisofs -quiet -o "$dir/boot.iso" -b isolinux.bin -c boot.cat -no-emul-boot \
		-boot-load-size 4 -boot-info-table "$dir/cd" 2>"$dir/xorriso.log" || {
		cat "$dir/xorriso.log" >&2
		die "the boot CD of an Intel host could not be made"
	}
}

# intel_bochsrc DIR: the machine.
intel_bochsrc() {
	local megabytes quantum=

	megabytes=$(megabytes "$MEMORY")
	((CPUS == 1)) || quantum=", quantum=32"
	cat <<-END
		display_library: nogui
		memory: guest=$megabytes, host=$megabytes
		romimage: file=$CACHE/bochs/bios
		vgaromimage: file=$CACHE/bochs/vgabios
		cpu: model=corei7_skylake_x, count=$CPUS, ips=$INTEL_IPS, reset_on_triple_fault=0, ignore_bad_msrs=1$quantum
		clock: sync=none, time0=$EPOCHSECONDS
		pci: enabled=1, chipset=i440fx
		ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
		ata0-master: type=cdrom, path=$1/boot.iso, status=inserted
		boot: cdrom
		com1: enabled=1, mode=file, dev=$1/serial.1
		com2: enabled=1, mode=file, dev=$1/serial.2
		com3: enabled=1, mode=file, dev=$1/serial.3
		log: $1/bochs.log
		panic: action=fatal
		error: action=ignore
		info: action=ignore
		debug: action=ignore
	END
}

# follow PID FILE: what is written to FILE until process PID has ended.
follow() {
	tail -q -c +1 -s 0.1 -F --pid="$1" "$2" 2>/dev/null
}

# intel_run NAME OPTIONS -- COMMAND...: boots the host for one command; the options are
# those of run. Return: the command's exit code, 124 or 125.
intel_run() {
	local name=$1 seconds= input=/dev/null dir env=() pid code followers=() late=0

	shift
	while [[ $1 != -- ]]; do
		case $1 in
		--timeout) seconds=$2; shift ;;
		--env) env+=("$2"); shift ;;
		--stdin) input=/dev/stdin ;;
		*) usage_error "run: an Intel host takes no $1; it has no way in once it runs" ;;
		esac
		shift
	done
	shift
	dir=$(host_dir "$name")
	# shellcheck source=/dev/null
	. "$dir/intel.conf"
	prepare
	prepare_intel
	exec 9>"$RUN/$name.lock"
	flock 9

	rm -rf "$dir"/{cd,tree} "$dir"/serial.*
	mkdir -p "$dir"/cd "$dir"/tree/lab
	ln "$(intel_base)/initramfs" "$dir/cd/base"
	intel_share "$SHARE" >"$dir/cd/share"
	printf '%s=%q\n' NAME "$name" DIR "$PWD" >"$dir/tree/lab/host.conf"
	{
		((!${#env[@]})) || printf 'export %q\n' "${env[@]}"
		printf 'exec '
		printf '%q ' "$@"
		echo
	} >"$dir/tree/lab/command"
	cat "$input" >"$dir/tree/lab/input"
	pack "$dir/tree" "$dir/cd/run"
	intel_disc "$dir"
	intel_bochsrc "$dir" >"$dir/bochsrc"

	touch "$dir"/serial.{1,2,3}
	(exec -a "lab-$LAB-$name" "$CACHE/bochs/bochs" -q -f "$dir/bochsrc" \
		>"$dir/emulator.log" 2>&1 </dev/null 9>&-) &
	pid=$!
	# shellcheck disable=SC2064
	trap "kill -KILL $pid" EXIT
	echo "$pid" >"$dir/pid"
	follow "$pid" "$dir/serial.1" >>"$dir/console.log" 9>&- &
	followers+=($!)
	follow "$pid" "$dir/serial.2" 9>&- &
	followers+=($!)
	follow "$pid" "$dir/serial.3" >&2 9>&- &
	followers+=($!)
	timeout "${seconds:-infinity}" tail -f /dev/null --pid="$pid" || late=1
	((!late)) || kill -KILL "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	trap - EXIT
	rm -f "$dir/pid"
	wait "${followers[@]}" || true
	code=$(sed -n 's/.*lab: exit \([0-9]*\).*/\1/p' "$dir/serial.1" | tail -n 1)
	((!late)) || code=124
	[[ $code ]] || {
		say "host $name ended before the command did; see 'lab log $name'"
		code=125
	}
	return "$code"
}
