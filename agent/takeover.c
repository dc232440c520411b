// SPDX-License-Identifier: GPL-2.0
/*
 * takeover: apply, load, start; each with its time.
 */
#include <inttypes.h>
#include <unistd.h>

#include "devstate.h"
#include "report.h"
#include "takeover.h"

/* For each of QEMU's answers on the way. */
#define TAKEOVER_LOAD_MS	60000u

int takeover_run(const struct takeover *takeover, struct vmm *vmm, struct store *store,
		 struct why *why)
{
	uint64_t t0 = loop_now(), t1, t2, t3;
	int fd, err;

	err = vmm_reconnect(vmm, why);
	if (err)
		return err;
	/* It decodes RAM and devices before it answers; nothing else waits for us. */
	qmp_set_timeout(vmm->qmp, TAKEOVER_LOAD_MS);
	report_phase("taking over with checkpoint %" PRIu64, store->number);
	err = store_finish(store, why);
	if (err)
		return err;
	t1 = loop_now();
	/* To a QEMU that waits this means: do not run what you will have loaded. */
	if (store->stands) {
		err = qmp_command(vmm->qmp, "stop", NULL, NULL, why);
		if (err)
			return err;
	}
	fd = devstate_build(store->theirs.machine, &store->theirs.blocks,
			    store->state.data, store->state.len, why);
	if (fd < 0)
		return fd;
	err = devstate_load(vmm->qmp, fd, TAKEOVER_LOAD_MS, why);
	close(fd);
	if (err)
		return err;
	t2 = loop_now();
	if (!store->stands) {
		err = qmp_command(vmm->qmp, "cont", NULL, NULL, why);
		if (err)
			return err;
	}
	t3 = loop_now();
	report_phase("the guest %s here: apply %" PRIu64 " ms, load %" PRIu64 " ms, start %" PRIu64
		     " ms%s", store->stands ? "stands" : "runs", (t1 - t0) / NSEC_PER_MSEC, (t2 - t1) / NSEC_PER_MSEC,
		     (t3 - t2) / NSEC_PER_MSEC, takeover->lost_at ? "" : " (by hand)");
	if (takeover->lost_at)
		report_phase("from the primary's last sign of life to running: %" PRIu64
			     " ms (detection %" PRIu64 " ms, fence %" PRIu64 " ms)",
			     (t3 - takeover->lost_at + takeover->silence) / NSEC_PER_MSEC,
			     takeover->silence / NSEC_PER_MSEC,
			     (t0 - takeover->lost_at) / NSEC_PER_MSEC);
	if (store->stands)
		report_warn("somebody had stopped the guest on the primary, so it stands here too: `cont` in QEMU's monitor lets it run");
	report_event("promoted",
		     "epoch:u stands:b detect_us:u fence_us:u apply_us:u load_us:u start_us:u",
		     store->number, store->stands,
		     takeover->lost_at ? takeover->silence / NSEC_PER_USEC : 0,
		     takeover->lost_at ? (t0 - takeover->lost_at) / NSEC_PER_USEC : 0,
		     (t1 - t0) / NSEC_PER_USEC, (t2 - t1) / NSEC_PER_USEC,
		     (t3 - t2) / NSEC_PER_USEC);
	/* QEMU serves one client at a time, and it is not needed any more. */
	qmp_close(vmm->qmp);
	vmm->qmp = NULL;
	return 0;
}
