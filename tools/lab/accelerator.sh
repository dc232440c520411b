# SPDX-License-Identifier: GPL-2.0
# accelerator: how the lab's emulator runs a host: with this machine's KVM where
# that is seen to work with another KVM inside, else with emulated AMD SVM.

PROBE_SECONDS=30

# The lab's QEMU with its own firmware and with the libraries that this machine has
# not got, and what all its machines have in common.
EMULATOR_PROGRAM=(env "LD_LIBRARY_PATH=$CACHE/emulator/usr/lib/x86_64-linux-gnu"
	"$CACHE/emulator/usr/bin/qemu-system-x86_64"
	-L "$CACHE/emulator/usr/share/qemu" -L "$CACHE/emulator/usr/share/seabios")
EMULATOR=("${EMULATOR_PROGRAM[@]}"
	-M q35 -nodefaults -display none -no-reboot)

kernel_image() {
	echo "$CACHE/kernel-$KERNEL/boot/vmlinux-$(<"$CACHE/kernel-$KERNEL/release")"
}

# accelerator_options and accelerator_append: what each kind of emulation wants
# from the emulator and from the host's kernel. Of what an emulated processor could
# do, some is left out because it is slow: a fifth level of page tables (starting a
# process takes twice as long), and string instructions that work byte by byte
# (copying is three times slower). Its TSC is the machine's own, but nothing tells
# the kernel that it can be relied on, and with the HPET instead every look at the
# time leaves the emulated processor.
#
# icount is emulation on one thread with a clock that counts instructions, a
# nanosecond for each, on all CPUs together: what is measured is the same every time.
accelerator_options() {
	case $1 in
	kvm) echo "-accel kvm -cpu host" ;;
	tcg) echo "-accel tcg,thread=multi -cpu max,+svm,+npt,-la57,-erms,-fsrm" ;;
	icount)
		echo "-accel tcg,thread=single -icount shift=0,sleep=off -cpu max,+svm,+npt,-la57,-erms,-fsrm" ;;
	*) die "'$1' is no accelerator; there are kvm, tcg and icount" ;;
	esac
}

# accelerator_append ACCELERATOR CPUS: with the emulator's TSC, which is the machine's, the
# kernel must not measure it: on a busy machine it finds a tenth, and its clock runs
# ten times too fast (tsckhz.c).
accelerator_append() {
	case $1 in
	tcg) echo "tsc=reliable tsc_early_khz=$("$CACHE/init-$INIT_KEY/tsckhz") isolcpus=0 irqaffinity=1-$2" ;;
	icount) echo "tsc=reliable" ;;
	esac
}

# accelerator_cpus ACCELERATOR CPUS: how many the emulator needs for a host whose
# programs have that many. An emulated host has one more, its first, which runs no
# programs: whenever any CPU restores its FPU registers, QEMU's TCG writes flags of
# the first one (cpu_clear_ignne() in target/i386/tcg/system/fpu_helper.c, seen in 10.0 to 11.1)
# without a lock, flags which also say whether nested paging and interrupts are on.
# A nested guest on that CPU is lost after minutes (its memory seems to be elsewhere),
# or its host is (an interrupt on the way out of the guest).
accelerator_cpus() {
	[[ $1 == tcg ]] && echo $(($2 + 1)) || echo "$2"
}

# probe_nested ACCELERATOR: boots a small system and in it runs a few instructions
# under its own KVM.
probe_nested() {
	local init=$CACHE/init-$INIT_KEY

	# shellcheck disable=SC2046
	timeout "$PROBE_SECONDS" "${EMULATOR[@]}" $(accelerator_options "$1") -smp 1 -m 512M -serial stdio \
		-kernel "$(kernel_image)" -initrd "$init/probe" \
		-append "console=ttyS0 quiet mitigations=off panic=-1" </dev/null 2>&1 |
		grep -q '^lab: nested kvm works'
}

# choose_accelerator: prints kvm or tcg. The answer is kept until the machine or
# the lab changes.
choose_accelerator() {
	local answer

	answer=$CACHE/init-$INIT_KEY/accelerator-$(</proc/sys/kernel/random/boot_id)
	(
		flock 7
		if [[ ! -e $answer ]]; then
			rm -f "$CACHE/init-$INIT_KEY"/accelerator-*
			if [[ -r /dev/kvm && -w /dev/kvm ]] && (probe_nested kvm); then
				echo kvm >"$answer.new"
			else
				echo tcg >"$answer.new"
			fi
			mv "$answer.new" "$answer"
		fi
	) 7>"$CACHE/init-$INIT_KEY/lock"
	cat "$answer"
}
