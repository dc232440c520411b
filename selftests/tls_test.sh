#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# tls_test: links with a key, on a kernel that has TLS (link_test --tls, tls_test). TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

# passes PROGRAM [ARGUMENT]: the results that it tells are ours, too.
passes() {
	"$lab" run a --timeout 240 -- "$build/$1" "${@:2}" >"$work/$1.log" 2>&1
	local code=$?

	cat "$work/$1.log"
	return $code
}

hosts_up
mkdir -p "$work/asan"
check "frames, loss and goodbyes over TLS" passes asan/link_test --tls
check "strangers, other keys, and somebody on the way" passes asan/tls_test
finish
