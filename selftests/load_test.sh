#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# load_test.sh MODULE: a kernel that is not supported is refused when the module is
# loaded, with a sentence. The kernel is the lab's own; it is the module that is
# changed, to be one for another. In a lab host, with the module loaded. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=tap.sh
. "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

module=$1
release=$(uname -r)
tmp=$(mktemp -d)
tap_said=$tmp/said

finish() {
	rm -rf "$tmp"
	lsmod | grep -q '^vmrepl ' || insmod "$module"
}
trap finish EXIT

# changed FROM TO: the module with each FROM replaced by TO, of the same length.
changed() {
	LC_ALL=C sed "s/$1/$2/g" "$tmp/vmrepl.ko" >"$tmp/other.ko"
	! cmp -s "$tmp/vmrepl.ko" "$tmp/other.ko" || { echo "there is no $1 in it"; return 1; }
}

# refused SENTENCE: loading the changed module fails, and the log says why.
refused() {
	local said

	dmesg -C
	! insmod "$tmp/other.ko" || { rmmod vmrepl; echo "it was loaded"; return 1; }
	said=$(dmesg)
	grep -q "$1" <<<"$said" || { echo "the log says: $said"; return 1; }
}

loads() {
	insmod "$module" && [[ -c /dev/vmrepl ]]
}

# The release is in there twice: for the kernel to look at (which does not, where it
# has CONFIG_MODVERSIONS), and for the module itself, with a zero behind it.
pattern=${release//[.+]/.}
other=${release%?????}other
# All but what is for debuggers; that is nine tenths of it.
strip --strip-debug -o "$tmp/vmrepl.ko" "$module" || { echo "Bail out! strip"; exit 1; }
ours="vmrepl: built for Linux $other, and this is $release: build it again"
check "rmmod" rmmod vmrepl
check "as if it were for another kernel" changed "$pattern" "$other"
check "it is refused" refused "version magic\|$ours"
check "and if the kernel does not look" changed "$pattern\x00" "$other\x00"
check "the module itself refuses" refused "$ours"
check "as if KVM had a function under another name" \
	changed kvm_flush_remote_tlbs kvm_flush_remote_tlbz
check "it is refused, and named" \
	refused 'vmrepl: this kernel has no kvm_flush_remote_tlbz: it is not one that vmrepl supports'
check "the module that is for this kernel is loaded" loads
tap_done
