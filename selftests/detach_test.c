// SPDX-License-Identifier: GPL-2.0
/*
 * What a detach leaves: nothing, but for what the VMM wanted itself.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "consumer.h"
#include "expect.h"
#include "tap.h"
#include "vmm.h"

#define PAGES		1024UL
#define CYCLES		6

/* Is @page in the VMM's own dirty log of slot 0? Clears it, where not manual. */
static bool vmm_log_has(struct vmm *v, uint64_t page)
{
	struct kvm_dirty_log log = { .slot = 0 };
	uint64_t *bits = calloc(v->pages / 64 + 1, 8);
	bool has;

	log.dirty_bitmap = bits;
	if (ioctl(v->vm, KVM_GET_DIRTY_LOG, &log))
		tap_die("KVM_GET_DIRTY_LOG: %s", strerror(errno));
	has = bits[page / 64] >> page % 64 & 1;
	free(bits);
	return has;
}

static int vmm_logs(struct vmm *v, bool on)
{
	return vmm_slot(v, 0, 0, v->pages, v->ram,
			on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

/* A VMM that wants its slots logged itself, as when QEMU migrates. */
static void test_vmm_logs_too(enum vmm_ram kind)
{
	const char *name = kind == VMM_RAM_MEMFD ? "memfd" : "anonymous RAM";
	struct vmm *v = vmm_create(kind, PAGES, 1);
	struct consumer c;

	vmm_logs(v, true);
	expect_attach(&c, getpid(), 0);
	consumer_watch(&c, v->ram, v->pages);
	expect_epoch(&c, 0);
	vmm_write(v, 0, 300, 20, 1, 11);
	expect_epoch(&c, 0);
	tap_ok(expect_same(v, &c, 0, PAGES) && expect_seen(&c, 300, 20),
	       "%s: a slot that the VMM logs is protected too", name);
	tap_ok(vmm_log_has(v, 310), "%s: and the VMM's own log still tells it",
	       name);
	consumer_close(&c);
	tap_ok(vmm_slot_logged(v, 0, v->pages) && expect_guest_runs(v),
	       "%s: the VMM's logging from before attach stays", name);
	vmm_log_has(v, 0);
	vmm_write(v, 0, 400, 20, 1, 12);
	tap_ok(vmm_log_has(v, 410), "%s: and it goes on working", name);
	vmm_logs(v, false);

	expect_attach(&c, getpid(), 0);
	vmm_logs(v, true);
	consumer_close(&c);
	tap_ok(vmm_slot_logged(v, 0, v->pages) && expect_guest_runs(v),
	       "%s: the VMM's logging from while attached stays", name);
	vmm_logs(v, false);

	expect_attach(&c, getpid(), 0);
	vmm_logs(v, true);
	vmm_logs(v, false);
	consumer_close(&c);
	tap_ok(expect_untouched(v), "%s: on and off while attached: off", name);

	vmm_logs(v, true);
	expect_attach(&c, getpid(), 0);
	consumer_watch(&c, v->ram, v->pages);
	vmm_logs(v, false);
	vmm_write(v, 0, 500, 20, 1, 13);
	expect_epoch(&c, 0);
	tap_ok(expect_same(v, &c, 0, PAGES), "%s: the VMM turned its logging off, we go on",
	       name);
	consumer_close(&c);
	tap_ok(expect_untouched(v), "%s: on before, off while attached: off", name);
	vmm_destroy(v);
}

static void test_cycles(struct vmm *v)
{
	int fine = 0;

	for (int i = 0; i < CYCLES; i++) {
		struct consumer c;
		bool ok;

		expect_attach(&c, getpid(), VMREPL_RING_MIN);
		consumer_watch(&c, v->ram, v->pages);
		vmm_write(v, 0, 100 + i, 50, 1, 1000 + i);
		expect_epoch(&c, 0);
		vmm_write(v, 0, 200 + i, 50, 2, 2000 + i);
		/* Every third is left in the middle of an epoch. */
		if (i % 3 == 0)
			ok = !consumer_freeze(&c, 0);
		else
			ok = !consumer_epoch(&c, 0) &&
			     expect_same(v, &c, 0, PAGES);
		consumer_close(&c);
		fine += ok && expect_untouched(v);
	}
	tap_ok(fine == CYCLES, "%d of %d times attached and detached", fine, CYCLES);
	tap_ok(!expect_hooks(), "and no hook is left");
}

int main(void)
{
	struct vmm *v = vmm_create(VMM_RAM_ANON, PAGES, 1);

	test_cycles(v);
	vmm_destroy(v);
	test_vmm_logs_too(VMM_RAM_ANON);
	test_vmm_logs_too(VMM_RAM_MEMFD);
	tap_ok(!expect_hooks(), "at the end no hook is left");
	return tap_done();
}
