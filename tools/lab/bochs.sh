# SPDX-License-Identifier: GPL-2.0
# bochs: the emulator of Intel hosts (--cpu intel), built from Debian's source.
# QEMU emulates no VMX. Bochs 3.0 does, with EPT and the page-modification log (PML);
# 2.7, which Debian 12 has, writes addresses with low bits set into that log.

BOCHS_SUITE=trixie
BOCHS_VERSION=3.0
# What it takes to build it, and to make the CD that its hosts boot from.
BOCHS_PACKAGES=(g++ make xz-utils xorriso isolinux syslinux-common)
BOCHS_FEATURES=(--with-nogui --disable-docbook --disable-plugins --disable-debugger --disable-gdb-stub
	--enable-x86-64 --enable-cpu-level=6 --enable-smp --enable-vmx=2 --enable-avx --enable-evex
	--enable-fpu --enable-pci --enable-cdrom --enable-a20-pin --enable-long-phy-address
	--enable-monitor-mwait --enable-all-optimizations)

# build_progress TOTAL: counts what a make compiles.
build_progress() {
	awk -v total="$1" '
		/ -c / { if (++n * 10 >= total * next_tenth) {
				printf "lab: building Bochs: %d of %d files\n", n, total >"/dev/stderr"
				next_tenth = int(n * 10 / total) + 1 } }
		BEGIN { next_tenth = 1 }
		{ print }'
}

# build_bochs: leaves $CACHE/bochs with the program, its BIOSes and its CD loader.
build_bochs() {
	local dest=$CACHE/bochs conf tmp total deb

	conf=$(private_apt "$BOCHS_SUITE" source)
	tmp=$(mktemp -d "$CACHE/tmp.XXXXXX")
	(
		cd "$tmp"
		export APT_CONFIG=$conf
		apt-get -qq --download-only --tar-only --only-source source "bochs/$BOCHS_SUITE" &&
			apt-get -qq download "bochsbios/$BOCHS_SUITE" "vgabios/$BOCHS_SUITE"
	) >"$tmp/log" 2>&1 || {
		cat "$tmp/log" >&2
		die "apt could not download the source of Bochs"
	}
	[[ -e $(echo "$tmp/bochs_$BOCHS_VERSION"*.orig.tar.xz) ]] ||
		die "$BOCHS_SUITE has another Bochs than $BOCHS_VERSION: $(cd "$tmp" && echo bochs_*.orig.tar.xz)"
	mkdir -p "$tmp"/{src,root}
	tar -C "$tmp/src" --strip-components=1 -xf "$tmp"/bochs_*.orig.tar.xz
	for deb in "$tmp"/*.deb; do
		dpkg -x "$deb" "$tmp/root"
	done
	say "building Bochs $BOCHS_VERSION: some 2 minutes on 2 CPUs, once"
	(
		cd "$tmp/src"
		export CXXFLAGS="-O3 -DNDEBUG" CFLAGS=-O3
		nice ./configure "${BOCHS_FEATURES[@]}" >"$tmp/log" 2>&1
		total=$(make -n 2>/dev/null | grep -c ' -c ')
		nice make -j"$(nproc)" 2>&1 | build_progress "$total" >>"$tmp/log"
	) || {
		tail -n 20 "$tmp/log" >&2
		die "Bochs could not be built; the whole log is $tmp/log"
	}
	mkdir -p "$tmp/done"
	strip -o "$tmp/done/bochs" "$tmp/src/bochs"
	cp -L "$tmp/root/usr/share/bochs/BIOS-bochs-latest" "$tmp/done/bios"
	cp -L "$tmp/root/usr/share/vgabios/vgabios.bin" "$tmp/done/vgabios"
	rm -rf "$dest"
	mv -T "$tmp/done" "$dest"
	rm -rf "$tmp"
}

# prepare_intel: what Intel hosts need besides.
prepare_intel() {
	install_missing "${BOCHS_PACKAGES[@]}"
	locked bochs build_bochs
}
