#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# dkms_test.sh: DKMS adds, builds, installs and removes the module, for the lab's
# kernel and in trees of its own. TAP.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=tap.sh
. "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lab=$top/tools/lab/lab
version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' "$top/dkms.conf")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
tap_said=$tmp/said

need_dkms() {
	command -v dkms >/dev/null || "$top/tools/need-packages" dkms >&2 ||
		{ echo "Bail out! dkms cannot be installed"; exit 1; }
}

# in_trees VERB ARGS...: dkms, with nothing of it on this machine.
in_trees() {
	local verb=$1

	shift
	dkms "$verb" --dkmstree "$tmp/dkms" --sourcetree "$tmp/source" \
		--installtree "$tmp/install" "$@"
}

# for_kernel VERB ARGS...
for_kernel() {
	local verb=$1

	shift
	in_trees "$verb" -m vmrepl -v "$version" -k "$release" "$@"
}

show_log() {
	"$@" || {
		cat "$tmp/dkms/vmrepl/$version/build/make.log" || true
		return 1
	}
}

says() {
	grep -qx "$1" <<<"$2" || { echo "it says: $2"; return 1; }
}

fits_the_kernel() {
	says "$release SMP .*" "$(modinfo -F vermagic "$installed")" &&
		says "$version" "$(modinfo -F version "$installed")"
}

status_is() {
	says "vmrepl/$version, $release, .*: $1" "$(in_trees status)"
}

is_gone() {
	[[ ! -e $installed && ! -e $tmp/dkms/vmrepl ]] ||
		{ find "$tmp/install" "$tmp/dkms"; return 1; }
}

refuses_other_kernels() {
	local said

	! said=$(in_trees build -m vmrepl -v "$version" -k 5.10.0-1-amd64 \
		--kernelsourcedir "$build" 2>&1) && [[ $said == *BUILD_EXCLUSIVE* ]] ||
		{ echo "$said"; return 1; }
}

need_dkms
release=$("$lab" kernel-release)
build=$("$lab" kernel-build-dir)
installed=$tmp/install/$release/updates/dkms/vmrepl.ko
mkdir -p "$tmp/dkms" "$tmp/source" "$tmp/install/$release" "$tmp/clone"

# What a clone has, without what a build has left there.
(cd "$top" && find Kbuild dkms.conf kmod uapi -type f ! -name '*.o' ! -name '*.cmd' \
	-print0 | xargs -0 cp --parents -t "$tmp/clone")

# From here on a failure is a result, not the end.
set +e
check "dkms add" in_trees add "$tmp/clone"
check "dkms build for $release" show_log for_kernel build --kernelsourcedir "$build"
check "dkms says that it is built" status_is built
# No depmod: it would be for the kernels of this machine.
check "dkms install" for_kernel install --no-depmod --kernelsourcedir "$build"
check "dkms says that it is installed" status_is installed
check "the module is of this version and for $release" fits_the_kernel
check "a kernel that is not supported is refused" refuses_other_kernels
check "dkms remove" in_trees remove --no-depmod -m vmrepl -v "$version" --all
check "nothing of it is left" is_gone
tap_done
