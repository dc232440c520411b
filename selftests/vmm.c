// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <linux/mman.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"
#include "vmm.h"

/* Where the guest's own things are. */
#define GUEST_CODE	0x1000
#define GUEST_PML4	0x2000
#define GUEST_PDPT	0x3000

/*
 *	1: mov %rax,(%rdi); add %rdx,%rdi; dec %rsi; jnz 1b; out %al,$0x10; hlt
 */
static const uint8_t guest_code[] = {
	0x48, 0x89, 0x07, 0x48, 0x01, 0xd7, 0x48, 0xff, 0xce, 0x75, 0xf5,
	0xe6, 0x10, 0xf4,
};

static void must(bool ok, const char *what)
{
	if (!ok)
		tap_die("%s: %s", what, strerror(errno));
}

static void guest_setup(struct vmm *v)
{
	uint64_t *pml4 = (uint64_t *)(v->ram + GUEST_PML4);
	uint64_t *pdpt = (uint64_t *)(v->ram + GUEST_PDPT);

	memcpy(v->ram + GUEST_CODE, guest_code, sizeof(guest_code));
	/* 1:1 in pages of 1 GiB, accessed and dirty already: no writes here. */
	pml4[0] = GUEST_PDPT | 0x23;
	for (int i = 0; i < 4; i++)
		pdpt[i] = (uint64_t)i << 30 | 0xe3;
}

static void vcpu_setup(struct vmm *v, int i)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[128]; } cpuid;
	struct vmm_vcpu *c = &v->vcpu[i];
	struct kvm_sregs sregs;
	int size;

	c->vmm = v;
	c->fd = ioctl(v->vm, KVM_CREATE_VCPU, i);
	must(c->fd >= 0, "KVM_CREATE_VCPU");
	size = ioctl(v->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	c->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	must(c->run != MAP_FAILED, "mmap of kvm_run");

	cpuid.head.nent = 128;
	must(!ioctl(v->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
	must(!ioctl(c->fd, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");

	must(!ioctl(c->fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cr3 = GUEST_PML4;
	sregs.cr4 = 1 << 5;			/* PAE */
	sregs.cr0 = 0x80000011;			/* PG, ET, PE */
	sregs.efer = 0x500;			/* LME, LMA */
	sregs.cs = (struct kvm_segment){
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1,
		.l = 1, .s = 1, .g = 1,
	};
	sregs.ds = (struct kvm_segment){
		.limit = 0xffffffff, .selector = 16, .type = 3, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
	sregs.es = sregs.ds;
	sregs.ss = sregs.ds;
	must(!ioctl(c->fd, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
}

size_t vmm_ram_unit(enum vmm_ram kind)
{
	switch (kind) {
	case VMM_RAM_ANON:
	case VMM_RAM_MEMFD:
		return VMM_PAGE;
	case VMM_RAM_GIANT:
		return 1UL << 30;
	default:
		return 2UL << 20;
	}
}

static void ram_create(struct vmm *v, enum vmm_ram kind)
{
	size_t unit = vmm_ram_unit(kind), room;
	int flags = MAP_FIXED;
	uint8_t *at;

	/* On a border of 2 MiB at least, whatever the kind. */
	if (unit < 2 << 20)
		unit = 2 << 20;
	v->mapped = v->pages * VMM_PAGE;
	if (kind >= VMM_RAM_HUGETLB)
		v->mapped = (v->mapped + unit - 1) & ~(unit - 1);
	room = v->mapped + unit;
	at = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(at != MAP_FAILED, "mmap");
	at = (uint8_t *)(((uintptr_t)at + unit - 1) & ~(unit - 1));

	v->memfd = -1;
	if (kind == VMM_RAM_MEMFD)
		v->memfd = memfd_create("ram", MFD_CLOEXEC);
	else if (kind == VMM_RAM_HUGEFD)
		v->memfd = memfd_create("ram", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	else if (kind == VMM_RAM_GIANT)
		v->memfd = memfd_create("ram", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_1GB);
	if (kind == VMM_RAM_ANON || kind == VMM_RAM_THP)
		flags |= MAP_PRIVATE | MAP_ANONYMOUS;
	else if (kind == VMM_RAM_HUGETLB)
		flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB;
	else
		must(v->memfd >= 0 && !ftruncate(v->memfd, v->mapped), "memfd_create");
	if (v->memfd >= 0)
		flags |= MAP_SHARED;
	v->ram = mmap(at, v->mapped, PROT_READ | PROT_WRITE, flags, v->memfd, 0);
	must(v->ram == at, "mmap of RAM");
	if (kind < VMM_RAM_HUGETLB)
		must(!madvise(at, v->mapped, kind == VMM_RAM_THP ? MADV_HUGEPAGE :
			      MADV_NOHUGEPAGE), "madvise");
}

static void on_signal(int sig)
{
	(void)sig;		/* only to leave KVM_RUN */
}

struct vmm *vmm_create(enum vmm_ram kind, uint64_t pages, int nr_vcpus)
{
	return vmm_create_logging(kind, pages, nr_vcpus, 0);
}

struct vmm *vmm_create_logging(enum vmm_ram kind, uint64_t pages, int nr_vcpus,
			       uint32_t ring_bytes)
{
	struct vmm *v = calloc(1, sizeof(*v));

	must(v, "calloc");
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->moved, NULL);
	signal(SIGUSR1, on_signal);
	v->kind = kind;
	v->pages = pages;
	v->nr_vcpus = nr_vcpus;
	v->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	must(v->kvm >= 0, "/dev/kvm");
	v->vm = ioctl(v->kvm, KVM_CREATE_VM, 0);
	must(v->vm >= 0, "KVM_CREATE_VM");
	if (ring_bytes) {
		struct kvm_enable_cap cap = {
			.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
			.args = { ring_bytes },
		};

		must(!ioctl(v->vm, KVM_ENABLE_CAP, &cap), "KVM_ENABLE_CAP");
	} else if (kind != VMM_RAM_MEMFD) {
		/* As QEMU does; one memory kind goes without, for the other way. */
		struct kvm_enable_cap cap = {
			.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			.args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
				  KVM_DIRTY_LOG_INITIALLY_SET },
		};

		must(!ioctl(v->vm, KVM_ENABLE_CAP, &cap), "KVM_ENABLE_CAP");
	}
	ram_create(v, kind);
	guest_setup(v);
	must(!vmm_slot(v, 0, 0, pages, v->ram, 0), "KVM_SET_USER_MEMORY_REGION");
	for (int i = 0; i < nr_vcpus; i++)
		vcpu_setup(v, i);
	return v;
}

void vmm_destroy(struct vmm *v)
{
	vmm_stop(v);
	for (int i = 0; i < v->nr_vcpus; i++) {
		munmap(v->vcpu[i].run, ioctl(v->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
		close(v->vcpu[i].fd);
	}
	close(v->vm);
	close(v->kvm);
	munmap(v->ram, v->mapped);
	if (v->memfd >= 0)
		close(v->memfd);
	free(v);
}

int vmm_slot(struct vmm *v, int id, uint64_t gpa, uint64_t pages, void *hva,
	     uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = id, .flags = flags, .guest_phys_addr = gpa,
		.memory_size = pages * VMM_PAGE, .userspace_addr = (uintptr_t)hva,
	};

	return ioctl(v->vm, KVM_SET_USER_MEMORY_REGION, &r);
}

bool vmm_slot_logged(struct vmm *v, int id, uint64_t pages)
{
	struct kvm_dirty_log log = { .slot = id };
	bool logged;

	log.dirty_bitmap = calloc(pages / 64 + 1, 8);
	logged = !ioctl(v->vm, KVM_GET_DIRTY_LOG, &log);
	free(log.dirty_bitmap);
	return logged;
}

static void vcpu_park(struct vmm *v)
{
	uint64_t turn;

	pthread_mutex_lock(&v->lock);
	turn = v->turn;
	v->parked++;
	pthread_cond_broadcast(&v->moved);
	while (v->turn == turn && !v->stop)
		pthread_cond_wait(&v->moved, &v->lock);
	pthread_mutex_unlock(&v->lock);
}

/* Return: the guest has done all; false if it was told to stop before. */
static bool vcpu_pass(struct vmm_vcpu *c)
{
	struct kvm_regs regs = {
		.rip = GUEST_CODE, .rflags = 2, .rax = c->value,
		.rdi = c->first * VMM_PAGE, .rsi = c->count,
		.rdx = c->stride * VMM_PAGE,
	};

	must(!ioctl(c->fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	for (;;) {
		if (ioctl(c->fd, KVM_RUN, 0)) {
			must(errno == EINTR, "KVM_RUN");
			if (c->vmm->stop)
				return false;
			if (c->vmm->hold)
				vcpu_park(c->vmm);
			continue;
		}
		if (c->run->exit_reason == KVM_EXIT_IO)
			return true;
		tap_die("the guest left with exit reason %u", c->run->exit_reason);
	}
}

void vmm_write(struct vmm *v, int i, uint64_t first, uint64_t count,
	       uint64_t stride, uint64_t value)
{
	struct vmm_vcpu *c = &v->vcpu[i];

	c->first = first;
	c->count = count;
	c->stride = stride;
	c->value = value;
	v->stop = false;
	vcpu_pass(c);
}

static void *hammer_main(void *data)
{
	struct vmm_vcpu *c = data;

	for (int pass = 1; !c->vmm->stop && vcpu_pass(c); pass++) {
		c->value++;
		if (c->vmm->hold || pass == c->vmm->passes) {
			vcpu_park(c->vmm);
			pass = 0;
		}
	}
	return NULL;
}

void vmm_hammer(struct vmm *v, int i, uint64_t first, uint64_t count,
		uint64_t stride)
{
	struct vmm_vcpu *c = &v->vcpu[i];

	c->first = first;
	c->count = count;
	c->stride = stride;
	c->value = (uint64_t)(i + 1) << 48;
	c->busy = true;
	v->stop = false;
	must(!pthread_create(&c->thread, NULL, hammer_main, c), "pthread_create");
}

void vmm_stop(struct vmm *v)
{
	pthread_mutex_lock(&v->lock);
	v->stop = true;
	pthread_cond_broadcast(&v->moved);
	pthread_mutex_unlock(&v->lock);
	for (int i = 0; i < v->nr_vcpus; i++) {
		if (!v->vcpu[i].busy)
			continue;
		/* One signal may come just before KVM_RUN: until it is out. */
		while (pthread_tryjoin_np(v->vcpu[i].thread, NULL)) {
			pthread_kill(v->vcpu[i].thread, SIGUSR1);
			usleep(1000);
		}
		v->vcpu[i].busy = false;
	}
}

static int hammering(const struct vmm *v)
{
	int n = 0;

	for (int i = 0; i < v->nr_vcpus; i++)
		n += v->vcpu[i].busy;
	return n;
}

void vmm_pause(struct vmm *v)
{
	int all = hammering(v);

	pthread_mutex_lock(&v->lock);
	while (v->passes && v->parked < all)
		pthread_cond_wait(&v->moved, &v->lock);
	v->hold = true;
	while (v->parked < all) {
		struct timespec until;

		/* A signal may come just before KVM_RUN: again then. */
		for (int i = 0; i < v->nr_vcpus; i++)
			if (v->vcpu[i].busy)
				pthread_kill(v->vcpu[i].thread, SIGUSR1);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 1000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		pthread_cond_timedwait(&v->moved, &v->lock, &until);
	}
	pthread_mutex_unlock(&v->lock);
}

void vmm_go(struct vmm *v)
{
	pthread_mutex_lock(&v->lock);
	v->hold = false;
	v->turn++;
	v->parked = 0;
	pthread_cond_broadcast(&v->moved);
	pthread_mutex_unlock(&v->lock);
}
