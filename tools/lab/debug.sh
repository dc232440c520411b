# SPDX-License-Identifier: GPL-2.0
# debug: a kernel that looks for the module's mistakes. It is built from Debian's
# source of 6.1 with debug.config, into the same places as a kernel that was fetched:
#
#	$CACHE/kernel-debug/release, boot/vmlinux-RELEASE, lib/modules/RELEASE
#
# Compiling takes its time. One that was broken off goes on where it was.

DEBUG_SERIES=6.1
DEBUG_PACKAGES=(gcc make flex bison bc libelf-dev xz-utils cpio kmod)
# For the progress only: what make says in a build from nothing.
DEBUG_STEPS=1900

# debug_key: changes with everything that the kernel is made of.
debug_key() {
	(echo "$DEBUG_SERIES" && cat "$LAB_DIR/debug.config") | sha256sum | cut -c1-16
}

# show_progress: counts what make does; passes nothing on.
show_progress() {
	awk -v of="$DEBUG_STEPS" '
		/^  (CC|AS|LD|AR)/ && ++n % 100 == 0 {
			printf "lab: debug kernel: %d of some %d steps\n", n, of >"/dev/stderr"
		}'
}

# debug_prepare: builds it where it is not there, or another one.
debug_prepare() {
	[[ $(cat "$CACHE/kernel-debug/key" 2>/dev/null) == "$(debug_key)" ]] ||
		rm -f "$CACHE/stamps/kernel-debug"
	locked kernel-debug build_debug_kernel
}

# debug_append: kernel options for hosts with this kernel. Everything that KASAN finds is
# told, not the first only. All is slower here, so more patience is in order. And what the
# kernel says of that slowness in a timer's interrupt stays off the console, where lockdep
# minds it (raw-lock nesting): dmesg has it.
debug_append() {
	[[ $KERNEL != debug ]] || echo "kasan_multi_shot watchdog_thresh=60 loglevel=4 log_buf_len=8M"
}

# debug_configure TREE: an option that this source does not know, or that another
# one keeps off, would leave a check out without a word.
debug_configure() {
	local line name

	make -s -C "$1" KCONFIG_ALLCONFIG="$LAB_DIR/debug.config" allnoconfig >/dev/null
	while read -r line; do
		case $line in
		CONFIG_*)
			grep -qxF "$line" "$1/.config" ||
				die "the source of $DEBUG_SERIES does not take $line (debug.config)"
			;;
		"# CONFIG_"*" is not set")
			name=${line#\# }
			! grep -q "^${name%% *}=" "$1/.config" ||
				die "the source of $DEBUG_SERIES does not take '$line' (debug.config)"
			;;
		esac
	done <"$LAB_DIR/debug.config"
}

# debug_headers TREE DEST: what is needed to build a module, and no more.
debug_headers() {
	mkdir -p "$2"
	(
		cd "$1"
		{
			printf '%s\n' Makefile .config Module.symvers tools/objtool/objtool
			find arch/x86 -maxdepth 1 -type f
			find include arch/x86/include scripts ! -type d ! -name '*.o' ! -name '*.cmd'
		} | cpio -pdm --quiet "$2"
	)
}

# build_debug_kernel: image, modules and headers into $CACHE/kernel-debug.
build_debug_kernel() {
	local work=$CACHE/build-debug dest=$CACHE/kernel-debug tree source release

	# What the make around us was told is not for the kernel's.
	unset MAKEFLAGS MFLAGS MAKELEVEL O
	install_missing "${DEBUG_PACKAGES[@]}"
	tree=$work/linux-source-$DEBUG_SERIES
	if [[ ! -e $work/unpacked ]]; then
		rm -rf "$work"
		mkdir -p "$work"
		source=$(cmd_package "linux-source-$DEBUG_SERIES")
		say "unpacking the source of $DEBUG_SERIES"
		tar -C "$work" -xf "$source/usr/src/linux-source-$DEBUG_SERIES.tar.xz"
		touch "$work/unpacked"
	fi
	debug_configure "$tree"
	say "compiling the debug kernel; $work/build.log has what make says"
	nice make -C "$tree" -j"$(nproc)" bzImage modules 2>&1 |
		tee "$work/build.log" | show_progress ||
		{ tail -n 20 "$work/build.log" >&2; die "the debug kernel does not build"; }

	release=$(<"$tree/include/config/kernel.release")
	rm -rf "$dest.new" "$dest"
	mkdir -p "$dest.new/boot"
	make -s -C "$tree" INSTALL_MOD_PATH="$dest.new" modules_install >>"$work/build.log" 2>&1 ||
		die "the debug kernel's modules cannot be installed; see $work/build.log"
	cp "$tree/arch/x86/boot/bzImage" "$dest.new/boot/vmlinuz-$release"
	# Not the ELF file: its entry (PVH) runs code with KASAN's checks before there is a KASAN.
	ln -s "vmlinuz-$release" "$dest.new/boot/vmlinux-$release"
	debug_headers "$tree" "$dest.new/build"
	rm -f "$dest.new/lib/modules/$release"/{build,source}
	ln -s "$dest/build" "$dest.new/lib/modules/$release/build"
	echo "$release" >"$dest.new/release"
	debug_key >"$dest.new/key"
	mv -T "$dest.new" "$dest"
	rm -rf "$work"
}
