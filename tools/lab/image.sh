# SPDX-License-Identifier: GPL-2.0
# image: guests that run inside the hosts: a kernel and an initramfs with busybox,
# what the caller puts in, and guest-init.

LIBRARIES=lib/x86_64-linux-gnu

cmd_package() {
	local name=${1:-} dest

	[[ $# == 1 && $name =~ ^[a-z0-9][a-z0-9+.-]*$ ]] || usage_error "package: which one?"
	mkdir -p "$CACHE"
	dest=$CACHE/package/$name
	locked "package-$name" fetch_package "$name" "$dest"
	echo "$dest"
}

fetch_package() {
	local list

	mapfile -t list < <(with_missing_libraries bookworm "$1")
	# It is not listed when it is installed here; its files are wanted all the same.
	[[ " ${list[*]}" == *" $1="* ]] || list+=("$1")
	unpack_packages bookworm "$2" "${list[@]}"
}

# find_program NAME ROOT...: a path as it is; a name in the roots, then on this machine.
find_program() {
	local name=$1 dir

	shift
	if [[ $name == */* ]]; then
		echo "$name"
		return
	fi
	for dir in "${@/%//usr/bin}" "${@/%//usr/sbin}" "${@/%//bin}" "${@/%//sbin}"; do
		[[ ! -x $dir/$name ]] || { echo "$dir/$name"; return; }
	done
	command -v "$name" || die "there is no program '$name'"
}

# put_file SRC DEST: DEST is made with its directories, and keeps SRC's mode.
put_file() {
	[[ -r $1 ]] || die "$1 cannot be read"
	mkdir -p "${2%/*}"
	cp -L "$1" "$2"
}

# put_program PROGRAM TREE DEST LIBRARY_PATH: a program and its libraries.
put_program() {
	local said name path

	[[ -x $1 ]] || die "$1 is not a program"
	put_file "$1" "$2/$3"
	# No libraries: a static program, or a script.
	said=$(LD_LIBRARY_PATH=$4 ldd "$1" 2>/dev/null) || return 0
	while read -r name path; do
		case $path in
		*"not found"*) die "$1 needs $name, which is nowhere; unpack its package with 'lab package' and name it with --root" ;;
		"=> "/*)
			path=${path#=> }
			put_file "${path% (*}" "$2/$LIBRARIES/$name"
			;;
		*) [[ $name != /* ]] || put_file "$name" "$2/$name" ;;
		esac
	done <<<"$said"
}

cmd_guest_image() {
	local out= start= release tree spec source path
	local add=() files=() roots=() modules=(virtio_pci virtio_net virtio_blk virtio_rng)

	while (($#)); do
		[[ $# -ge 2 ]] || usage_error "guest-image: $1 wants a value"
		case $1 in
		--out) out=$2 ;;
		--start) start=$2 ;;
		--add) add+=("$2") ;;
		--file) files+=("$2") ;;
		--root) roots+=("$2") ;;
		--module) modules+=("$2") ;;
		--kernel) KERNEL=$2 ;;
		*) usage_error "guest-image: unknown argument $1" ;;
		esac
		shift 2
	done
	[[ $out && $start ]] || usage_error "guest-image: --out and --start are needed"
	prepare
	release=$(<"$CACHE/kernel-$KERNEL/release")
	path=$(IFS=:; echo "${roots[*]/%//usr/$LIBRARIES}:${roots[*]/%//$LIBRARIES}")
	tree=$(mktemp -d "$CACHE/tmp.XXXXXX")
	# shellcheck disable=SC2064
	trap "rm -rf '$tree'" EXIT

	mkdir -p "$tree"/{bin,sbin,usr/bin,usr/sbin,proc,sys,dev,tmp,run,root,etc,lib64}
	put_file "$(command -v busybox)" "$tree/bin/busybox"
	put_modules "$KERNEL" "$tree" "${modules[@]}"
	put_file "$LAB_DIR/guest-init" "$tree/init"
	put_file "$start" "$tree/start"
	for spec in "${add[@]}"; do
		source=$(find_program "${spec%%:*}" "${roots[@]}")
		[[ $spec == *:* ]] || spec=:/bin/${source##*/}
		put_program "$source" "$tree" "${spec#*:}" "$path"
	done
	for spec in "${files[@]}"; do
		[[ $spec == *:/* ]] || usage_error "guest-image: --file wants SRC:/DEST, not $spec"
		put_file "${spec%%:*}" "$tree/${spec#*:}"
	done
	chmod 755 "$tree" "$tree/init" "$tree/start"

	mkdir -p "$out"
	(cd "$tree" && find . -mindepth 1 | cpio -o -H newc --quiet) >"$out/initrd.new"
	mv "$out/initrd.new" "$out/initrd"
	ln -sf "$CACHE/kernel-$KERNEL/boot/vmlinux-$release" "$out/vmlinux"
	ln -sf "$CACHE/kernel-$KERNEL/boot/vmlinuz-$release" "$out/vmlinuz"
	echo "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable" >"$out/append"
}
