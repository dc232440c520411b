// SPDX-License-Identifier: GPL-2.0
/*
 * kvmprobe: runs three instructions in a virtual machine of its own. Exits 0 only
 * when they really ran, so it tells a /dev/kvm that works from one that is there.
 */

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PORT	0x10
#define VALUE	0x2a

int main(void)
{
	/* mov $VALUE, %al; out %al, $PORT; hlt */
	static const unsigned char code[] = { 0xb0, VALUE, 0xe6, PORT, 0xf4 };
	struct kvm_userspace_memory_region region = { .memory_size = 4096 };
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rflags = 2 };
	struct kvm_run *run;
	int kvm, vm, vcpu, size, seen = 0;
	char *memory;

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		goto failed;
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (vm < 0 || memory == MAP_FAILED)
		goto failed;
	memcpy(memory, code, sizeof(code));
	region.userspace_addr = (unsigned long)memory;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		goto failed;
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu < 0 || size < 0)
		goto failed;
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs))
		goto failed;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		goto failed;
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0))
			goto failed;
		if (run->exit_reason == KVM_EXIT_HLT)
			break;
		if (run->exit_reason != KVM_EXIT_IO || run->io.port != PORT ||
		    *((unsigned char *)run + run->io.data_offset) != VALUE) {
			fprintf(stderr, "kvmprobe: unexpected exit %u\n", run->exit_reason);
			return 1;
		}
		seen = 1;
	}
	return seen ? 0 : 1;

failed:
	perror("kvmprobe");
	return 1;
}
