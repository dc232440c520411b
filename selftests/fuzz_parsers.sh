#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# fuzz_parsers [EXECUTIONS [TARGET...]]: libFuzzer, with sanitizers, on each parser of bytes
# from elsewhere (fuzz/): three seconds for each, or as many executions of each as make so many
# of all; as many at a time as there are processors. What is found is in build/fuzz/found.
# TAP.
set -uo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top" || exit 1
# shellcheck source-path=SCRIPTDIR source=tap.sh
. selftests/tap.sh

executions=${1:-}
wanted=("${@:2}")
tap_said=$(mktemp)
corpus=$(mktemp -d)
trap 'rm -rf "$tap_said" "$corpus"' EXIT
targets=(frame placed epoch codec hello devstate monitor qmp)
for file in fuzz/*.c; do
	name=$(basename "$file" .c)
	[[ " ${targets[*]} " == *" $name "* ]] || { echo "Bail out! $file is not in the list here"; exit 1; }
done

((${#wanted[@]})) || wanted=("${targets[@]}")

build() {
	tools/need-packages clang-14 libclang-rt-14-dev pkg-config make &&
		make -s -C fuzz O="$top/build"
}

# fuzz NAME: its corpus and what is found anew are in a directory that goes.
fuzz() {
	local bound=(-max_total_time=3)

	[[ ! $executions ]] || bound=(-runs=$((executions / ${#targets[@]})))
	mkdir -p "$corpus/$1" build/fuzz/found
	"build/fuzz/$1" "${bound[@]}" -max_len=4096 -timeout=20 -rss_limit_mb=2048 -verbosity=1 \
		-artifact_prefix="build/fuzz/found/$1-" "$corpus/$1" "fuzz/corpus/$1" \
		>"$corpus/$1.log" 2>&1
	echo $? >"$corpus/$1.code"
}

fuzz_all() {
	local name

	for name in "${wanted[@]}"; do
		(($(jobs -pr | wc -l) < $(nproc))) || wait -n
		fuzz "$name" &
	done
	wait
}

total=0
# fuzzed NAME: how that went.
fuzzed() {
	local runs

	tail -n 30 "$corpus/$1.log"
	runs=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$corpus/$1.log")
	[[ $(<"$corpus/$1.code") == 0 ]] && ((runs > 0)) || return
	total=$((total + runs))
}

# Of another version they would lead nowhere.
seeds() {
	VMREPL_FUZZ_SEED=1 build/fuzz/frame fuzz/corpus/frame/* &&
		VMREPL_FUZZ_SEED=1 build/fuzz/hello fuzz/corpus/hello/*
}

# I2 is broken on purpose: a page is applied before its epoch is whole.
broken() {
	local said

	mkdir -p "$corpus/epoch"
	said=$(VMREPL_DEBUG_BREAK=apply-early build/fuzz/epoch -runs=100000 -max_len=512 \
		-artifact_prefix="$corpus/" "$corpus/epoch" fuzz/corpus/epoch 2>&1) && return 1
	grep 'does not hold: may_apply' <<<"$said"
}

check "the fuzzers are built" build || exit 1
check "the greeting and the conversation that are started from are what is sent" seeds
fuzz_all
for name in "${wanted[@]}"; do
	check "$name" fuzzed "$name"
	echo "# $(grep '^Done' "$tap_said")"
done
echo "# $total executions"
check "epoch finds what VMREPL_DEBUG_BREAK=apply-early breaks" broken
tap_done
