# SPDX-License-Identifier: GPL-2.0
# intel: the module's tests on an emulated Intel processor, sourced by run. A host is
# booted anew for each command there, and all costs about a hundred times what it
# costs on hardware: the tests share one boot, and turn fewer rounds.
#
# NAME | when | command | timeout in seconds
#
#	short, long	in every run, or only where Intel is asked for
#	*-fails		an invariant is broken on purpose, as in run
#
# Hooks stay on (idle.c) all the time; "no PML" reloads KVM without it.
INTEL_TESTS='
tracking_test	| short | build/tracking_test 6 | 120
tracking_test fails when nothing is protected (debug_break=4) | short-fails | with_break 4 build/tracking_test 1 | 60
cow_test	| short | build/cow_test 100 | 400
cow_test fails when stores are seen when they are done (debug_break=256) | short-fails | with_break 256 build/cow_test 6 | 120
cow_test for long | long | build/cow_test 100 1000 | 900
dirty_test	| long | build/dirty_test 1 | 300
slots_test	| long | build/slots_test | 300
ring_test	| long | build/ring_test | 300
same_test	| long | build/same_test | 200
no PML		| long | no_hooks && modprobe -r kvm_intel && modprobe kvm_intel pml=0 && hooks | 120
tracking_test without PML | long | build/tracking_test 6 | 120
cow_test without PML | long | build/cow_test 100 | 400
'

INTEL_PRELUDE='
hooks() {
	coproc IDLE { build/idle; }
	read -r said <&"${IDLE[0]}" && [[ $said == "# idle" ]]
}
no_hooks() {
	[[ $IDLE_PID ]] || return 0
	eval "exec ${IDLE[1]}>&-"
	wait "$IDLE_PID"
}
'

# intel_script NAME COMMAND...: bash that runs the commands, each between two marks.
# A command without results, that is one in front of others, has to succeed.
intel_script() {
	printf 'module=%q\n' "$module"
	printf '%s\n' "$HOST_SETUP || exit" "$HOST_PRELUDE" "$INTEL_PRELUDE" 'hooks || exit'
	while (($#)); do
		printf 'echo "@begin %s"\n' "$1"
		printf '{ %s\n} 2>&1\n' "$2"
		printf 'echo "@end $?"\necho 0 >"$debug_break"\n'
		shift 2
	done
	echo no_hooks
}

# intel_split: of what the script says, each command's part into $logs/NAME.log, its
# exit code into .code, and how long it took into .took.
intel_split() {
	local line file=$logs/before start=0

	while IFS= read -r line; do
		case $line in
		"@begin "*)
			line=${line#@begin }
			file=$logs/${line//[^A-Za-z0-9_.=-]/-}
			: >"$file.log"
			start=$EPOCHREALTIME
			;;
		"@end "*)
			echo "${line#@end }" >"$file.code"
			awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }' >"$file.took"
			;;
		*) printf '%s\n' "$line" >>"$file.log" ;;
		esac
	done
}

# run_intel WHEN: the tests of the table that are wanted, and due then.
run_intel() {
	local name when command seconds rows=() tests=0 total=120 file code base=$logs

	while IFS='|' read -r name when command seconds <&3; do
		name=$(trim "$name")
		when=$(trim "$when")
		# shellcheck disable=SC2053
		[[ $name && $when == $1 ]] || continue
		if [[ $name != no\ * ]]; then
			wanted "$name" || continue
			tests=$((tests + 1))
			((!list)) || printf '%-10s  %s\n' intel "$name"
		fi
		rows+=("$name" "$when" "$(trim "$command")" "$(trim "$seconds")")
		total=$((total + seconds))
	done 3<<<"$INTEL_TESTS"
	((tests)) || return 0
	any=1
	((!list)) || return 0

	say "on an Intel processor (Bochs):"
	logs=$base/intel
	rm -rf "$logs"
	mkdir -p "$logs"
	intel_boot "$total" "${rows[@]}"
	set -- "${rows[@]}"
	while (($#)); do
		name=$1
		file=$logs/${name//[^A-Za-z0-9_.=-]/-}
		code=$(cat "$file.code" 2>/dev/null || echo 125)
		[[ -e $file.log ]] || : >"$file.log"
		case $name-$2 in
		no\ *) ((code == 0)) || result not "$name: $(tail -n 1 "$file.log")" ;;
		*-fails) judge_broken "$name" "$file.log" "$code" ;;
		*)
			printf '%-15s ' "$name"
			judge "$name" "$file.log" "$code" "$4" "$(cat "$file.took" 2>/dev/null || echo '?')"
			;;
		esac
		shift 4
	done
	logs=$base
}

# intel_boot SECONDS ROWS...: one boot, all of it in $logs/all.
intel_boot() {
	local seconds=$1 pairs=()

	shift
	while (($#)); do
		pairs+=("$1" "$3")
		shift 4
	done
	intel_script "${pairs[@]}" >"$logs/script"
	in_lab up intel --cpu intel --smp 2 >"$logs/host.log" 2>&1 || {
		sed 's/^/    # /' "$logs/host.log"
		return 0
	}
	in_lab run intel --timeout "$((seconds * patience))" --script "$logs/script" 2>"$logs/errors.log" </dev/null |
		intel_split
	((PIPESTATUS[0] == 0)) || sed 's/^/    # /' "$logs/errors.log"
	host=intel host_complaints
	in_lab down intel >>"$logs/host.log" 2>&1
}
