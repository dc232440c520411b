# SPDX-License-Identifier: GPL-2.0
# command: running something in a host, and reading what a host's kernel said.

# What a kernel prints when something is wrong with it.
TROUBLE='WARNING: |BUG: |BUG at |Oops|[Ss]oft lockup|[Hh]ard LOCKUP|KASAN|KCSAN|UBSAN|Call Trace:'
TROUBLE+='|rcu.*stall|general protection fault|Kernel panic|INFO: task .* blocked|unable to handle'
TROUBLE+='|possible (circular|recursive|irq)|suspicious RCU|inconsistent lock state|refcount_t:'
TROUBLE+='|list_(add|del) corruption|Bad page|bad page|sleeping function|unregister_netdevice: waiting'
TROUBLE+='|ODEBUG: |BUG [^ ]+ \(|kmemleak: ([0-9]+ new|.*disabled)|INFO: lockdep is turned off'
# A program that gave up its rights wanted something (seccomp). 435 is clone3, which glibc
# tries before each clone().
TROUBLE+='|audit: type=1326 .* syscall=([^4]|4[^3]|43[^5])'

cmd_run() {
	local name=${1:-} options=() script= dir

	[[ $name && $name != -* ]] || usage_error "run: in which host?"
	shift
	while (($#)); do
		case $1 in
		--timeout) options+=(--timeout "${2:?--timeout wants seconds}"); shift ;;
		--env) options+=(--env "${2:?--env wants NAME=VALUE}"); shift ;;
		--stdin) options+=(--stdin) ;;
		--tty) options+=(--tty) ;;
		--script) script=${2:?--script wants a file}; shift 2; break ;;
		--) shift; break ;;
		-*) usage_error "run: unknown option $1" ;;
		*) break ;;
		esac
		shift
	done
	is_intel "$name" || need_host "$name"
	dir=$(host_dir "$name")
	if [[ $script ]]; then
		[[ -r $script ]] || die "$script cannot be read"
		set -- bash -c "$(<"$script")" "$script" "$@"
	fi
	(($#)) || usage_error "run: which command?"
	if is_intel "$name"; then
		intel_run "$name" "${options[@]}" -- "$@"
		return
	fi
	exec "$dir/init/courier" "$(<"$dir/port")" --dir "$PWD" "${options[@]}" -- "$@"
}

cmd_shell() {
	[[ $# == 1 ]] || usage_error "shell: in which host?"
	cmd_run "$1" --tty --env "TERM=${TERM:-linux}" -- bash -i
}

cmd_log() {
	[[ $# == 1 ]] || usage_error "log: of which host?"
	cat "$(host_dir "$1")/console.log" 2>/dev/null || die "host $1 has no log"
}

# without_expected PATTERN: leaves out each report that begins with it, to the end of its stack.
without_expected() {
	awk -v pattern="$1" '
		pattern != "" && $0 ~ pattern { inside = 1 }
		!inside
		/<\/TASK>/ { inside = 0 }'
}

cmd_dmesg_check() {
	local name=${1:-} expected= said found

	[[ $name ]] || usage_error "dmesg-check: of which host?"
	[[ ${2:-} != --expect ]] || expected=${3:?--expect wants a pattern}
	said=$(cmd_log "$name") || exit 1
	if host_pid "$name" >/dev/null; then
		said+=$'\n'$(cmd_run "$name" --timeout 30 -- dmesg) ||
			die "host $name does not tell its kernel's messages"
	fi
	if found=$(without_expected "$expected" <<<"$said" | grep -E "$TROUBLE"); then
		sort -u <<<"$found"
		die "the kernel of host $name complained"
	fi
}
