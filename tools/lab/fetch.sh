# SPDX-License-Identifier: GPL-2.0
# fetch: Debian packages from the system's own registry, unpacked into the cache.
# Nothing here changes the system: apt runs with its own state directory, and a
# package is unpacked (dpkg -x), never installed.

# What the hosts need to find in the root file system that they share.
LAB_SYSTEM_PACKAGES=(qemu-system-x86 iproute2 kmod socat tcpdump busybox-static
	procps iputils-ping cpio gzip xz-utils util-linux gcc libc6-dev libelf1 make)

# install_missing PACKAGE...: the only place where the system gains packages.
install_missing() {
	local p missing=()

	for p in "$@"; do
		[[ $(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null) == installed ]] ||
			missing+=("$p")
	done
	((${#missing[@]})) || return 0
	[[ $(id -u) == 0 ]] ||
		die "these packages are missing: ${missing[*]}; install them or run this as root"
	say "installing ${missing[*]}"
	# A package list that is missing or has aged needs to be read first.
	apt_install "${missing[@]}" || { apt-get -qq update && apt_install "${missing[@]}"; } \
		>>"$CACHE/install.log" 2>&1 ||
		die "apt-get could not install ${missing[*]}; see $CACHE/install.log"
}

apt_install() {
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
		-o DPkg::Lock::Timeout=600 install "$@" </dev/null >"$CACHE/install.log" 2>&1
}

# debian_sources: the system's own Debian sources, "URI SUITE" a line.
debian_sources() {
	local list

	list=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' \
		'Created-By: Packages' 'Component: main' 'Origin: Debian')
	if [[ -z $list ]]; then
		apt-get -qq update >&2 || die "apt-get update failed; check this machine's package sources"
		list=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' \
			'Created-By: Packages' 'Component: main' 'Origin: Debian')
	fi
	sort -u <<<"$list"
}

# private_apt SUITE [source]: prints the path of an apt configuration of our own which
# knows the system's Debian sources and SUITE as well, or SUITE alone with its sources;
# makes it the first time.
private_apt() {
	local dir=$CACHE/apt/$1${2:+-$2}

	if [[ ! -e $dir/ready ]]; then
		mkdir -p "$CACHE/apt"
		(
			flock 8
			[[ -e $dir/ready ]] || make_private_apt "$dir" "$@"
		) 8>"$dir.lock"
	fi
	echo "$dir/apt.conf"
}

# with_suite SUITE: the lines for the system's sources, and for SUITE from where its own
# release comes. Of sid no machine here is: it comes from where the release does.
with_suite() {
	local uri name

	debian_sources | while read -r uri name; do
		echo "$uri $name main"
		[[ $name != "${1%%-*}" && ($1 != sid || $name == *-*) ]] || echo "$uri $1 main"
	done | sort -u
}

# only_suite SUITE: the line for a release that the system need not be of.
only_suite() {
	local release

	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	debian_sources | awk -v r="$release" -v s="$1" '$2 == r { print $1, s, "main"; exit }'
}

make_private_apt() {
	local dir=$1 suite=$2 list option= keyring=/usr/share/keyrings/debian-archive-keyring.gpg

	if [[ ${3:-} == source ]]; then
		list=$(only_suite "$suite")
	else
		list=$(with_suite "$suite")
	fi
	grep -q " $suite main$" <<<"$list" ||
		die "apt has no Debian source set up from which $suite could be fetched"
	rm -rf "$dir"
	mkdir -p "$dir"/{lists/partial,cache/archives/partial}
	[[ ! -e $keyring ]] || option="[signed-by=$keyring] "
	sed "s|^|deb $option|" <<<"$list" >"$dir/sources.list"
	[[ ${3:-} != source ]] || sed "s|^|deb-src $option|" <<<"$list" >>"$dir/sources.list"
	write_apt_conf "$dir"
	APT_CONFIG=$dir/apt.conf apt-get -qq update >"$dir/update.log" 2>&1 ||
		die "apt could not read the package list of $suite; see $dir/update.log"
	touch "$dir/ready"
}

# write_apt_conf DIR: apt with its own state, which reads DIR/sources.list alone.
write_apt_conf() {
	local dir=$1

	cat >"$dir/apt.conf" <<-CONF
		Dir::State "$dir";
		Dir::State::lists "$dir/lists";
		Dir::State::status "/var/lib/dpkg/status";
		Dir::Cache "$dir/cache";
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		APT::Sandbox::User "root";
		APT::Get::List-Cleanup "false";
		Acquire::Languages "none";
	CONF
}

# target SUITE: the option that prefers SUITE; the plain release and its security
# updates are what apt takes by itself.
target() {
	[[ $1 != *-* ]] || echo "-t $1"
}

# unpack_packages SUITE DEST PACKAGE[=VERSION]...: downloads the packages and
# unpacks them together into DEST, which appears whole or not at all.
unpack_packages() {
	local suite=$1 dest=$2 conf tmp deb

	shift 2
	conf=$(private_apt "$suite")
	tmp=$(mktemp -d "$CACHE/tmp.XXXXXX")
	if ! (cd "$tmp" && APT_CONFIG=$conf apt-get -qq download "$@") >"$tmp/log" 2>&1; then
		# A package list that has aged names files that are gone: read it anew.
		APT_CONFIG=$conf apt-get -qq update >>"$tmp/log" 2>&1 || true
		(cd "$tmp" && APT_CONFIG=$conf apt-get -qq download "$@") >>"$tmp/log" 2>&1 || {
			cat "$tmp/log" >&2
			rm -rf "$tmp"
			die "apt could not download $*"
		}
	fi
	mkdir "$tmp/root"
	for deb in "$tmp"/*.deb; do
		dpkg -x "$deb" "$tmp/root" || die "$deb could not be unpacked"
	done
	mkdir -p "${dest%/*}"
	rm -rf "$dest"
	mv -T "$tmp/root" "$dest"
	rm -rf "$tmp"
}

# with_missing_libraries SUITE PACKAGE: prints PACKAGE and everything it depends
# on that this machine has not got, as NAME=VERSION, one a line.
with_missing_libraries() {
	local conf

	conf=$(private_apt "$1")
	APT_CONFIG=$conf apt-get -s $(target "$1") --no-install-recommends install "$2" 2>/dev/null |
		awk '$1 == "Inst" { v = $3; if (v ~ /^\[/) v = $4; sub(/^\(/, "", v); print $2 "=" v }'
}

# with_all_libraries SUITE PACKAGE...: the same as if this machine had nothing at all.
with_all_libraries() {
	local conf

	conf=$(private_apt "$1")
	shift
	APT_CONFIG=$conf apt-get -s -o Dir::State::status=/dev/null --no-install-recommends \
		install "$@" 2>/dev/null |
		awk '$1 == "Inst" { sub(/^\(/, "", $3); print $2 "=" $3 }'
}

# locked ITEM FUNCTION ARGS...: runs FUNCTION unless ITEM is stamped; one process
# at a time for each item.
locked() {
	local item=$1 stamp=$CACHE/stamps/$1

	shift
	[[ ! -e $stamp ]] || return 0
	mkdir -p "$CACHE/stamps"
	(
		flock 9
		[[ ! -e $stamp ]] || exit 0
		say "fetching $item"
		"$@"
		touch "$stamp"
		# What was broken off long ago.
		find "$CACHE" -maxdepth 1 -name 'tmp.*' -mmin +600 -exec rm -rf {} +
	) 9>"$stamp.lock"
}

fetch_emulator() {
	local list

	mapfile -t list < <(with_missing_libraries bookworm-backports qemu-system-x86)
	((${#list[@]})) || die "apt finds no qemu-system-x86 in bookworm-backports"
	unpack_packages bookworm-backports "$CACHE/emulator" "${list[@]}"
}

# kernel_suite SERIES: the suite whose linux-image-amd64 is of that series.
kernel_suite() {
	case $1 in
	6.1) echo bookworm ;;
	6.12) echo bookworm-backports ;;
	7.2) echo sid ;;
	*) die "kernel $1 is not known to the lab; it knows 6.1, 6.12, 7.2 and debug" ;;
	esac
}

# uncompress_kernel VMLINUZ VMLINUX: takes the ELF file out of a boot image. The
# emulator starts it directly (PVH), which saves a host 2.5 s of decompression and
# a nested guest more. The offsets are those of Documentation/arch/x86/boot.rst.
uncompress_kernel() {
	local sectors offset length magic unpack

	field() {
		od -An -tu"$2" -j"$1" -N"$2" "$3" | tr -d " "
	}
	sectors=$(field $((0x1f1)) 1 "$1")
	offset=$(((sectors + 1) * 512 + $(field $((0x248)) 4 "$1")))
	length=$(field $((0x24c)) 4 "$1")
	magic=$(od -An -tx1 -j"$offset" -N4 "$1" | tr -d " ")
	case $magic in
	fd377a58) unpack="xz -dc --single-stream" ;;
	28b52ffd) unpack="zstd -dc" ;;
	1f8b*) unpack="gzip -dc" ;;
	*) die "$1 is compressed in a way that the lab does not know" ;;
	esac
	# The last four bytes are the unpacked size, not part of the stream.
	dd if="$1" bs=64K iflag=skip_bytes,count_bytes skip="$offset" count=$((length - 4)) \
		status=none | $unpack >"$2" ||
		die "$1 could not be uncompressed"
}

# unpack_kernel SERIES: boot/vmlinux-RELEASE from boot/vmlinuz-RELEASE.
unpack_kernel() {
	local boot=$CACHE/kernel-$1/boot release

	release=$(<"$CACHE/kernel-$1/release")
	uncompress_kernel "$boot/vmlinuz-$release" "$boot/vmlinux.new"
	mv "$boot/vmlinux.new" "$boot/vmlinux-$release"
}

# depends_on CONF SUITE PACKAGE PATTERN: what of its dependencies matches, a line each.
depends_on() {
	APT_CONFIG=$1 apt-cache $(target "$2") show --no-all-versions "$3" 2>/dev/null |
		sed -n 's/^\(Pre-\)\?Depends: //p' | tr -d ' ' | tr ',|' '\n\n' | sed 's/(.*//' |
		grep -xE "$4"
}

# fetch_kernel SERIES: image, modules and headers into $CACHE/kernel-SERIES, and the
# compiler where this release has not got it.
fetch_kernel() {
	local series=$1 suite conf dest image release headers kbuild list

	suite=$(kernel_suite "$series")
	dest=$CACHE/kernel-$series
	conf=$(private_apt "$suite")
	image=$(depends_on "$conf" "$suite" linux-image-amd64 'linux-image-.*') ||
		die "apt finds no linux-image-amd64 in $suite"
	release=${image#linux-image-}
	[[ $release == "$series".* ]] || die "linux-image-amd64 of $suite is $release, not $series"
	headers=linux-headers-$release
	kbuild=$(depends_on "$conf" "$suite" "$headers" 'linux-kbuild-.*')
	list=("$image" "$headers" "linux-headers-${release%-amd64}-common" "$kbuild")
	# Later images are in parts.
	mapfile -O ${#list[@]} -t list < <(depends_on "$conf" "$suite" "$image" \
		"linux-(base|binary|modules)-[0-9].*")
	[[ $suite != sid ]] || mapfile -O ${#list[@]} -t list < <(with_all_libraries "$suite" \
		"$(depends_on "$conf" "$suite" "$headers" 'gcc-.*' |
			sed 's/-for-host$/-x86-64-linux-gnu/')" "$kbuild")
	unpack_packages "$suite" "$dest.new" "${list[@]}"

	gather_image "$dest.new" "$release"
	headers_at "$dest.new/usr/src" "$dest" "$headers" "$kbuild"
	[[ $suite != sid ]] || programs_at "$dest.new" "$dest" "$headers"
	mkdir -p "$dest.new/lib/modules/$release"
	ln -sfn "$dest/usr/src/$headers" "$dest.new/lib/modules/$release/build"
	ln -sfn "$dest/usr/src/linux-headers-${release%-amd64}-common" \
		"$dest.new/lib/modules/$release/source"
	depmod -b "$dest.new" "$release"
	echo "$release" >"$dest.new/release"
	rm -rf "$dest"
	mv -T "$dest.new" "$dest"
}

# gather_image ROOT RELEASE: what later packages keep below /usr goes to where it was.
gather_image() {
	local modules=$1/usr/lib/modules

	[[ -d $modules ]] || return 0
	mkdir -p "$1/boot" "$1/lib"
	mv "$modules/$2/vmlinuz" "$1/boot/vmlinuz-$2"
	mv "$modules/$2/config" "$1/boot/config-$2"
	mv "$modules" "$1/lib/"
}

# headers_at SOURCES DEST HEADERS KBUILD: Debian's headers name each other by absolute
# path: make them name our copy, which will be at DEST.
headers_at() {
	local dir link file

	for file in "$1/$3/Makefile" "$1/$3/.kernelvariables"; do
		[[ ! -e $file ]] || sed -i "s|/usr/src/|$2/usr/src/|g" "$file"
	done
	for dir in "$1/$3" "$1/${3%-amd64}-common"; do
		for link in scripts tools; do
			[[ -L $dir/$link ]] || continue
			ln -sfn "$2/usr/lib/$4/$link" "$dir/$link"
		done
	done
}

# programs_at ROOT DEST HEADERS: compiler, binutils and the headers' own programs of a
# later release, with the C library that they are for, and a build that uses them.
programs_at() {
	local patchelf program libraries=$2/usr/lib/x86_64-linux-gnu

	patchelf=$(cmd_package patchelf)/usr/bin/patchelf
	while read -r program; do
		"$patchelf" --print-interpreter "$program" >/dev/null 2>&1 || continue
		"$patchelf" --set-interpreter "$libraries/ld-linux-x86-64.so.2" \
			--force-rpath --set-rpath "$libraries" "$program" ||
			die "$program could not be made to find its libraries"
	done < <(find "$1/usr/bin" "$1/usr/libexec" "$1"/usr/lib/linux-kbuild-* -type f -perm -100)
	# The compiler by itself would take the assembler of this machine.
	sed -i -e "s|^override CROSS_COMPILE = |&$2/usr/bin/|" \
		-e "s|^CC = .*gcc-[0-9]*$|& -B$2/usr/bin/x86_64-linux-gnu-|" "$1/usr/src/$3/.kernelvariables"
	echo "override PAHOLE = $2/usr/bin/pahole" >>"$1/usr/src/$3/.kernelvariables"
}
