// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "load.h"
#include "tap.h"

/* A page that the VMM keeps free for the guest's own things. */
#define CODE	0x8000

/*
 *	1:	mov %r8,%rdi		the share's first page
 *		mov %r9,%rsi		its pages
 *	2:	mov %rax,(%rdi)
 *		add %rdx,%rdi
 *		dec %rsi
 *		jnz 2b
 *		inc %rax
 *		mov %r10,%r11
 *	3:	dec %r11
 *		jnz 3b
 *		dec %rcx		passes
 *		jnz 1b
 *		out %al,$0x10
 *		hlt
 */
static const uint8_t code[] = {
	0x4c, 0x89, 0xc7, 0x4c, 0x89, 0xce,
	0x48, 0x89, 0x07, 0x48, 0x01, 0xd7, 0x48, 0xff, 0xce, 0x75, 0xf5,
	0x48, 0xff, 0xc0, 0x4d, 0x89, 0xd3, 0x49, 0xff, 0xcb, 0x75, 0xfb,
	0x48, 0xff, 0xc9, 0x75, 0xdf, 0xe6, 0x10, 0xf4,
};

/* What a vCPU's thread is told, and what it says. */
enum state {
	IDLE,			/* waits for a start */
	RUNNING,
	PAUSED,			/* out of the guest, waits for the resume */
	END,			/* the thread is to end */
};

struct load_vcpu {
	struct load *load;
	int index;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum state state;
	bool want_pause;
	uint64_t passes;
	uint64_t spin;
	uint64_t cpu_ns;
	uint64_t ended;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void set_state(struct load_vcpu *c, enum state state)
{
	pthread_mutex_lock(&c->lock);
	c->state = state;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

/* Return: the state, which is not @state. */
static enum state wait_while(struct load_vcpu *c, enum state state)
{
	enum state now;

	pthread_mutex_lock(&c->lock);
	while (c->state == state)
		pthread_cond_wait(&c->changed, &c->lock);
	now = c->state;
	pthread_mutex_unlock(&c->lock);
	return now;
}

static void stand_still(struct load_vcpu *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->want_pause) {
		c->state = PAUSED;
		pthread_cond_broadcast(&c->changed);
		while (c->want_pause)
			pthread_cond_wait(&c->changed, &c->lock);
		c->state = RUNNING;
	}
	pthread_mutex_unlock(&c->lock);
}

static void run_guest(struct load_vcpu *c)
{
	struct load *l = c->load;
	struct vmm_vcpu *v = &l->vmm->vcpu[c->index];
	struct kvm_regs regs = {
		.rip = CODE, .rflags = 2, .rax = l->value, .rcx = c->passes,
		.r8 = (VMM_FIRST_PAGE + c->index * l->stride) * VMM_PAGE,
		.r9 = l->dirty / l->vcpus,
		.rdx = l->stride * l->vcpus * VMM_PAGE, .r10 = c->spin,
	};

	if (ioctl(v->fd, KVM_SET_REGS, &regs))
		tap_die("KVM_SET_REGS: %s", strerror(errno));
	for (;;) {
		if (ioctl(v->fd, KVM_RUN, 0)) {
			if (errno != EINTR)
				tap_die("KVM_RUN: %s", strerror(errno));
			stand_still(c);
			continue;
		}
		switch (v->run->exit_reason) {
		case KVM_EXIT_IO:
			return;
		case KVM_EXIT_DIRTY_RING_FULL:
			l->full(l->full_arg);
			break;
		default:
			tap_die("the guest left with exit reason %u",
				v->run->exit_reason);
		}
	}
}

static void *vcpu_main(void *data)
{
	struct load_vcpu *c = data;
	cpu_set_t cpus;

	if (c->load->cpu >= 0) {
		CPU_ZERO(&cpus);
		CPU_SET(c->load->cpu + c->index, &cpus);
		if (sched_setaffinity(0, sizeof(cpus), &cpus))
			tap_die("CPU %d: %s", c->load->cpu + c->index,
				strerror(errno));
	}
	while (wait_while(c, IDLE) != END) {
		uint64_t before = clock_ns(CLOCK_THREAD_CPUTIME_ID);

		run_guest(c);
		c->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - before;
		c->ended = clock_ns(CLOCK_MONOTONIC);
		set_state(c, IDLE);
	}
	return NULL;
}

static void on_signal(int sig)
{
	(void)sig;		/* only to leave KVM_RUN */
}

void load_create(struct load *l, uint64_t ram_mib, uint32_t ring_bytes)
{
	uint64_t pages = ram_mib << 20 >> 12;

	/* The guest's own pages come on top, but for where there is no room. */
	if (ram_mib < 4096)
		pages += VMM_FIRST_PAGE;
	l->value = 1;
	l->vmm = vmm_create_logging(VMM_RAM_THP, pages, l->vcpus, ring_bytes);
	memcpy(l->vmm->ram + CODE, code, sizeof(code));
	if (madvise(l->vmm->ram, pages * VMM_PAGE, MADV_POPULATE_WRITE))
		tap_die("MADV_POPULATE_WRITE: %s", strerror(errno));
	for (uint64_t p = VMM_FIRST_PAGE; p < pages; p++)
		*(uint64_t *)(l->vmm->ram + p * VMM_PAGE + 8) = p;
	/* The guest has all of it mapped. */
	vmm_write(l->vmm, 0, VMM_FIRST_PAGE, pages / 512, 512, 1);
	signal(SIGUSR2, on_signal);
	l->vcpu = calloc(l->vcpus, sizeof(*l->vcpu));
	for (int i = 0; i < l->vcpus; i++) {
		struct load_vcpu *c = &l->vcpu[i];

		c->load = l;
		c->index = i;
		pthread_mutex_init(&c->lock, NULL);
		pthread_cond_init(&c->changed, NULL);
		if (pthread_create(&c->thread, NULL, vcpu_main, c))
			tap_die("pthread_create");
	}
}

void load_set(struct load *l, uint64_t dirty)
{
	l->dirty = dirty;
	l->stride = (l->vmm->pages - VMM_FIRST_PAGE) / dirty;
}

void load_destroy(struct load *l)
{
	for (int i = 0; i < l->vcpus; i++) {
		set_state(&l->vcpu[i], END);
		pthread_join(l->vcpu[i].thread, NULL);
	}
	free(l->vcpu);
	vmm_destroy(l->vmm);
}

void load_start(struct load *l, uint64_t passes, uint64_t spin)
{
	for (int i = 0; i < l->vcpus; i++) {
		l->vcpu[i].passes = passes;
		l->vcpu[i].spin = spin;
		set_state(&l->vcpu[i], RUNNING);
	}
}

bool load_done(struct load *l)
{
	bool done = true;

	for (int i = 0; i < l->vcpus && done; i++) {
		pthread_mutex_lock(&l->vcpu[i].lock);
		done = l->vcpu[i].state == IDLE;
		pthread_mutex_unlock(&l->vcpu[i].lock);
	}
	return done;
}

uint64_t load_wait(struct load *l)
{
	uint64_t most = 0;

	for (int i = 0; i < l->vcpus; i++) {
		wait_while(&l->vcpu[i], RUNNING);
		if (l->vcpu[i].cpu_ns > most)
			most = l->vcpu[i].cpu_ns;
	}
	l->value += 1000000;
	return most;
}

uint64_t load_ended(struct load *l)
{
	uint64_t last = 0;

	for (int i = 0; i < l->vcpus; i++)
		if (l->vcpu[i].ended > last)
			last = l->vcpu[i].ended;
	return last;
}

void load_epoch(struct load *l)
{
	load_start(l, 1, 1);
	load_wait(l);
}

void load_epoch_nth(struct load *l, uint64_t nth)
{
	uint64_t dirty = l->dirty, stride = l->stride;

	l->dirty = dirty / nth;
	l->stride = stride * nth;
	load_epoch(l);
	l->dirty = dirty;
	l->stride = stride;
}

void load_pause(struct load *l)
{
	for (int i = 0; i < l->vcpus; i++) {
		struct load_vcpu *c = &l->vcpu[i];

		pthread_mutex_lock(&c->lock);
		c->want_pause = true;
		while (c->state == RUNNING) {
			struct timespec soon;

			/* One signal may come just before KVM_RUN: until it is out. */
			pthread_kill(c->thread, SIGUSR2);
			clock_gettime(CLOCK_REALTIME, &soon);
			soon.tv_nsec += 1000000;
			if (soon.tv_nsec >= 1000000000) {
				soon.tv_sec++;
				soon.tv_nsec -= 1000000000;
			}
			pthread_cond_timedwait(&c->changed, &c->lock, &soon);
		}
		pthread_mutex_unlock(&c->lock);
	}
}

void load_resume(struct load *l)
{
	for (int i = 0; i < l->vcpus; i++) {
		struct load_vcpu *c = &l->vcpu[i];

		pthread_mutex_lock(&c->lock);
		c->want_pause = false;
		pthread_cond_broadcast(&c->changed);
		pthread_mutex_unlock(&c->lock);
	}
}
