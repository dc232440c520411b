# SPDX-License-Identifier: GPL-2.0
# help: what each command is for, and what it takes.

SUMMARY=(
	prepare 'fetch and build all that hosts need'
	up 'boot a host and wait until it takes commands'
	pair 'boot the hosts a, b and client with the links between them'
	run 'run a command or a script in a host'
	shell 'an interactive shell in a host'
	kill "cut a host's power"
	power 'how the power switch behaves that hosts reach'
	link 'unplug a network link of a host, plug it in again, or put RDMA on it'
	down 'stop hosts'
	log "print a host's console"
	dmesg-check "fail if a host's kernel reported trouble"
	kernel-build-dir 'print the directory to build modules with (KDIR)'
	kernel-release 'print the release of the host kernel'
	emulator 'print the command of the lab'\''s own QEMU (10.0), to run guests with it too'
	package 'unpack a Debian package into the cache and print where'
	guest-image 'build a guest to run inside the hosts'
)

declare -A USAGE=(
	[prepare]='[--kernel SERIES]
Installs what is missing on this machine (it says what) and unpacks the emulator
and the host kernel (6.1, 6.12 or 7.2; default 6.1) into the cache. Quick when all is there.
SERIES may be debug: a 6.1 that looks for mistakes, compiled the first time.'
	[up]='HOST [OPTIONS]
  --kernel SERIES   6.1 (default), 6.12, 7.2 or debug
  --smp N           default 2; 1 for client
  --mem SIZE        default 2G; 3G for a and b, 512M for client
  --accel WHAT      kvm, tcg or icount (slow; its clock counts instructions);
                    default: what a probe found to work
  --cpu intel       an Intel processor with VMX, EPT and PML, emulated by Bochs (built
                    from source the first time); default --mem 1G. Such a host is
                    booted for each run, for half a minute and more, with what the
                    shared directory holds then (no objects, nothing over 8 MB)
  --share DIR       where changes made on the machine are seen at once (default: this
                    repository); files elsewhere may be seen as they were at first
  --append OPTIONS  more kernel options
The names a, b and client have their links (see pair); any other host has none.'
	[pair]='[OPTIONS of up]
a and b: repl0 is 10.77.0.1 and 10.77.0.2, a private link; br0 is for guests.
client: br0 is 10.78.0.1/24 and joins the guest bridges of the two hosts.
Hosts that run already are left alone.'
	[run]='HOST [OPTIONS] [--] COMMAND ARGS...
       lab run HOST [OPTIONS] --script FILE ARGS...
  --timeout S       end the command after S seconds
  --env NAME=VALUE  set a variable
  --stdin           give it the standard input; --tty: and a terminal
Runs as root, in the same directory if the host has it. Output and errors arrive as
they are written. The exit code is the command'\''s own, or 124: ended by --timeout,
125: the host went away, 127: no such command. A script is run by bash, with its
path as $0. What is left in the background must not keep the output: redirect that.
An Intel host (up --cpu intel) is booted for the command and ends with it: nothing
stays from one run to the next, it has bash and busybox and nothing else of the
machine, --stdin is read to its end before, and there is no --tty and no shell.'
	[shell]='HOST'
	[kill]='HOST
SIGKILL to the emulator; returns when it is seen dead.'
	[power]='[ok|refuse|silent]
A host cuts the power of another one with "lab-power off HOST". That succeeds (ok),
is told no (refuse) or gets no answer (silent). Without an argument: print which.'
	[link]='HOST LINK up|down|rdma
LINK is repl0 or guest0 (a, b), a0 or b0 (client). While it is down nothing passes.
rdma: the host has an RDMA device rxe_LINK there (soft-RoCE) until it goes down.'
	[down]='HOST... | --all'
	[log]='HOST'
	[dmesg-check]='HOST [--expect PATTERN]
Looks through the console, and the kernel'\''s messages if it runs, for warnings,
bugs, lockups and the like; prints them and fails if there are any. A report with a
stack whose first line matches PATTERN (awk) is left out.'
	[kernel-build-dir]='[--kernel SERIES]'
	[kernel-release]='[--kernel SERIES]'
	[emulator]=''
	[package]='NAME
NAME is a package of this Debian release; what it depends on comes along unless it
is installed on this machine.'
	[guest-image]='--out DIR --start SCRIPT [OPTIONS]
  --add PROGRAM[:DEST]  a program and the libraries it needs
  --file SRC:DEST       any file
  --root DIR            (from lab package) look up programs and libraries there too
  --module NAME         a kernel module to load, besides those for virtio
  --kernel SERIES       6.1 (default), 6.12 or 7.2
Leaves vmlinux, vmlinuz and initrd in DIR. SCRIPT is run by busybox sh when the
network is up. See README.md.'
)

help_one() {
	[[ ${USAGE[$1]:-} ]] || usage_error "unknown command '$1'"
	echo "usage: lab $1 ${USAGE[$1]}"
}

help_all() {
	echo "usage: lab COMMAND ...; 'lab COMMAND --help' tells more"
	printf '  %-17s %s\n' "${SUMMARY[@]}"
	echo "VMREPL_LAB names one of several independent labs, VMREPL_CACHE where things are kept."
}
