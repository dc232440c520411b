// SPDX-License-Identifier: GPL-2.0
#include <linux/cpu.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "compat/compat.h"
#include "cow.h"
#include "hooks.h"
#include "hostpte.h"
#include "log.h"
#include "region.h"
#include "ring.h"
#include "session.h"
#include "trace.h"
#include "worker.h"

/* Pages that a worker takes from the bitmaps at a time. */
#define SCAN_PAGES	512UL
/* Records after which the agent is told. */
#define PUBLISH_EVERY	32

/* What one worker does in one epoch. */
struct job {
	struct vmrepl_log *log;
	struct vmrepl_session *s;
	int half;
	bool have_mm;
	unsigned long plain_start;	/* no shared memory was seen in here */
	unsigned long plain_end;
	u64 start;
	u64 records;
	u64 zero;
	u64 same;
	bool torn;
};

bool vmrepl_worker_is_current(struct vmrepl_session *s)
{
	unsigned int i;

	if (!(current->flags & PF_KTHREAD))
		return false;
	for (i = 0; i < s->nr_logs; i++)
		if (READ_ONCE(s->logs[i].worker) == current)
			return true;
	return false;
}

static void publish(struct job *job)
{
	vmrepl_ring_publish(&job->log->ring);
	if (wq_has_sleeper(&job->s->poll_wait))
		wake_up_interruptible(&job->s->poll_wait);
}

static bool job_get_mm(struct job *job)
{
	if (!job->have_mm) {
		if (!mmget_not_zero(job->s->mm))
			return false;
		kthread_use_mm(job->s->mm);
		job->have_mm = true;
	}
	return true;
}

static void job_put_mm(struct job *job)
{
	if (job->have_mm) {
		kthread_unuse_mm(job->s->mm);
		/* Should it be the last one, the teardown is not our work. */
		mmput_async(job->s->mm);
		job->have_mm = false;
	}
}

static bool hopeless(struct job *job)
{
	return kthread_should_stop() || READ_ONCE(job->s->broken);
}

/*
 * Wait until @want records fit. The VMM's memory is let go meanwhile, so that a
 * slow agent never keeps a dead VMM's memory.
 * Return: there is room; false if the epoch cannot be finished.
 */
static bool wait_for_room(struct job *job, long want)
{
	struct vmrepl_ring_mem *ring = &job->log->ring;
	long room = vmrepl_ring_room(ring);

	if (likely(room >= want))
		return true;

	publish(job);
	job_put_mm(job);
	atomic64_inc(&job->s->stats.ring_full);
	vmrepl_ring_want_kick(ring, true);
	wait_event_idle(job->log->wait, hopeless(job) ||
			(room = vmrepl_ring_room(ring)) >= want || room < 0);
	vmrepl_ring_want_kick(ring, false);

	if (room < 0)
		vmrepl_session_break(job->s, VMREPL_BROKEN_RING);
	return !hopeless(job);
}

/* Memory that no memslot names any more may be gone from the VMM: not a loss. */
static bool still_guest_memory(struct vmrepl_session *s, unsigned long hva)
{
	struct kvm_memory_slot *slot;
	bool found = false;
	int as, bkt, idx;

	idx = srcu_read_lock(&s->kvm->srcu);
	for (as = 0; as < compat_address_spaces(s->kvm) && !found; as++)
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(s->kvm, as))
			if (hva - slot->userspace_addr <
			    slot->npages << PAGE_SHIFT)
				found = true;
	srcu_read_unlock(&s->kvm->srcu, idx);
	return found;
}

/* Private memory of hugetlbfs is in no file, but mapped where it is there. */
static bool is_huge_hole(struct vm_area_struct *vma, unsigned long hva)
{
	return !xa_load(&vma->vm_file->f_mapping->i_pages,
			linear_page_index(vma, hva)) &&
	       vmrepl_hostpte_huge_none(vma->vm_mm, hva);
}

/*
 * A hole of shared memory, or of hugetlbfs, reads as zeros, but reading it would fill
 * it. Where the VMM has mapped something else since a look at it, that is all that
 * happens.
 */
static bool is_hole(struct job *job, unsigned long hva)
{
	struct mm_struct *mm = job->s->mm;
	struct vm_area_struct *vma;
	bool hole = false;

	if (hva >= job->plain_start && hva < job->plain_end)
		return false;
	mmap_read_lock(mm);
	vma = vma_lookup(mm, hva);
	if (vma && vma->vm_flags & VM_SHARED && vma->vm_file &&
	    shmem_mapping(vma->vm_file->f_mapping)) {
		hole = !xa_load(&vma->vm_file->f_mapping->i_pages,
				linear_page_index(vma, hva));
	} else if (vma && is_vm_hugetlb_page(vma)) {
		hole = is_huge_hole(vma, hva);
	} else if (vma) {
		job->plain_start = vma->vm_start;
		job->plain_end = vma->vm_end;
	}
	mmap_read_unlock(mm);
	return hole;
}

/*
 * The page is in the slot of the record that comes next, or is @zero.
 * Return: it was given; false: the agent has it already.
 */
static bool give_page(struct job *job, struct vmrepl_region *r,
		      unsigned long page, bool zero)
{
	struct vmrepl_ring_mem *ring = &job->log->ring;
	void *data = vmrepl_ring_page(ring);
	struct vmrepl_rec rec = {
		.hva = r->start + (page << PAGE_SHIFT),
		.epoch = job->s->epoch,
		.type = VMREPL_REC_PAGE,
	};

	zero = zero || !memchr_inv(data, 0, PAGE_SIZE);
	if (vmrepl_same_page(&r->same, page, zero ? NULL : data)) {
		job->same++;
		return false;
	}
	if (zero) {
		rec.type = VMREPL_REC_ZERO;
		job->zero++;
	}
	vmrepl_ring_put(ring, &rec);
	if (++job->records % PUBLISH_EVERY == 0)
		publish(job);
	return true;
}

static bool take_page(struct job *job, struct vmrepl_region *r,
		      unsigned long page)
{
	unsigned long hva = r->start + (page << PAGE_SHIFT);
	struct vmrepl_session *s = job->s;
	bool zero;

	/* One more for END: so it always has room, and closing never waits. */
	if (!wait_for_room(job, 2) || !job_get_mm(job))
		return false;

	zero = is_hole(job, hva);
	if (!zero && copy_from_user(vmrepl_ring_page(&job->log->ring),
				    (void __user *)hva, PAGE_SIZE)) {
		if (!still_guest_memory(s, hva))
			return true;
		atomic64_inc(&s->stats.copy_errors);
		vmrepl_session_break(s, VMREPL_BROKEN_COPY);
		return false;
	}
	give_page(job, r, page, zero);
	return true;
}

/* Each page has its place in the ring already. */
static bool copy_plan(struct job *job)
{
	struct vmrepl_rec skip = {
		.epoch = job->s->epoch,
		.type = VMREPL_REC_SKIP,
	};
	struct vmrepl_log *log = job->log;
	u32 i;

	for (i = 0; i < log->planned; i++) {
		struct vmrepl_cow_page *p = &log->plan[i];
		bool zero = !p->page;

		if (hopeless(job))
			return false;
		if (p->gone) {
			vmrepl_ring_put(&log->ring, &skip);
			continue;
		}
		/* Where it is gone nobody is left who could have written. */
		if (!vmrepl_cow_take(log, i, job_get_mm(job)))
			job->torn = true;
		if (!give_page(job, &job->s->regions.tab[p->region], p->index,
			       zero))
			vmrepl_ring_put(&log->ring, &skip);
		cond_resched();
	}
	/* The last one may not have been readable. */
	return !hopeless(job);
}

static bool copy_log(struct job *job)
{
	struct vmrepl_log_half *half = &job->log->half[job->half];
	int i, nr = atomic_read(&half->nr);

	for (i = 0; i < nr; i++) {
		u64 entry = half->entries[i];
		struct vmrepl_region *r =
			&job->s->regions.tab[entry >> VMREPL_ENTRY_SHIFT];
		unsigned long page = entry & (BIT_ULL(VMREPL_ENTRY_SHIFT) - 1);

		if (!test_and_clear_bit(page, r->dirty[job->half]))
			continue;
		if (!take_page(job, r, page))
			return false;
		cond_resched();
	}
	return true;
}

static bool copy_piece(struct job *job, struct vmrepl_region *r,
		       unsigned long first)
{
	unsigned long last = min(first + SCAN_PAGES, r->nr_pages);
	unsigned long *bits = r->dirty[job->half];
	unsigned long page;

	for (page = find_next_bit(bits, last, first); page < last;
	     page = find_next_bit(bits, last, page + 1)) {
		if (!test_and_clear_bit(page, bits))
			continue;
		if (!take_page(job, r, page))
			return false;
		cond_resched();
	}
	return true;
}

/* Pieces are numbered through all regions; each is taken by one worker. */
static bool copy_bitmaps(struct job *job)
{
	struct vmrepl_session *s = job->s;

	/* Regions that come meanwhile have nothing in this half. */
	unsigned int nr = smp_load_acquire(&s->regions.nr);

	for (;;) {
		u64 piece = atomic64_fetch_inc(&s->scan);
		unsigned int i;

		for (i = 0; i < nr; i++) {
			struct vmrepl_region *r = &s->regions.tab[i];
			u64 pieces = DIV_ROUND_UP(r->nr_pages, SCAN_PAGES);

			if (piece < pieces) {
				if (!copy_piece(job, r, piece * SCAN_PAGES))
					return false;
				break;
			}
			piece -= pieces;
		}
		if (i == nr)
			return true;
	}
}

/* Somebody may read them meanwhile. */
static void count(struct job *job)
{
	struct vmrepl_log *log = job->log;

	WRITE_ONCE(log->stats.pages, log->stats.pages + job->records);
	WRITE_ONCE(log->stats.zero_pages, log->stats.zero_pages + job->zero);
	WRITE_ONCE(log->stats.same_pages, log->stats.same_pages + job->same);
	WRITE_ONCE(log->stats.copy_ns, log->stats.copy_ns +
		   ktime_get_ns() - job->start);
}

static void close_epoch(struct job *job)
{
	struct vmrepl_session *s = job->s;
	struct vmrepl_rec end = {
		.epoch = s->epoch,
		.arg = job->records,
		.type = VMREPL_REC_END,
	};

	/* While the guest stands nobody writes, whatever a hook may have seen. */
	if (unlikely(debug_break & VMREPL_BREAK_WHOLE) && s->epoch % 4 == 0)
		job->torn = true;
	if ((job->torn || READ_ONCE(s->moved)) && s->epoch_cow) {
		end.flags = VMREPL_REC_TORN;
		if (!xchg(&s->torn, 1))
			atomic64_inc(&s->stats.torn);
	}

	count(job);
	vmrepl_log_reset(job->log, job->half);
	vmrepl_ring_put(&job->log->ring, &end);
	job->log->done = s->epoch;
	/* Release: the next freeze sees the half empty when it sees us done. */
	atomic_dec_return_release(&s->busy);
	publish(job);
}

static void do_epoch(struct vmrepl_log *log)
{
	struct vmrepl_session *s = log->s;
	struct job job = {
		.log = log,
		.s = s,
		.half = s->epoch_half,
		.start = ktime_get_ns(),
	};
	bool whole;

	/* END needs room even where there is no page. */
	whole = wait_for_room(&job, 1) && copy_plan(&job) && copy_log(&job) &&
		(!s->epoch_scan || copy_bitmaps(&job));
	job_put_mm(&job);
	trace_vmrepl_copied(s->kvm->userspace_pid, s->epoch, log - s->logs,
			    job.records, job.zero, job.same,
			    ktime_get_ns() - job.start, whole);
	if (whole)
		close_epoch(&job);
	else
		log->done = s->epoch;
}

static bool has_work(struct vmrepl_log *log)
{
	/* Pairs with the release in vmrepl_workers_start(). */
	return smp_load_acquire(&log->s->epoch_started) != log->done;
}

static int worker_main(void *data)
{
	struct vmrepl_log *log = data;

	while (!kthread_should_stop()) {
		if (has_work(log))
			do_epoch(log);
		wait_event_idle(log->wait,
				has_work(log) || kthread_should_stop());
	}
	return 0;
}

int vmrepl_workers_create(struct vmrepl_session *s)
{
	struct task_struct *task;
	unsigned int i;

	for (i = 0; i < s->nr_logs; i++) {
		task = kthread_run(worker_main, &s->logs[i], "vmrepl/%d-%u",
				   s->kvm->userspace_pid, i);
		if (IS_ERR(task)) {
			vmrepl_workers_destroy(s);
			return PTR_ERR(task);
		}
		WRITE_ONCE(s->logs[i].worker, task);
	}
	return 0;
}

void vmrepl_workers_destroy(struct vmrepl_session *s)
{
	unsigned int i;

	for (i = s->nr_logs; i--; ) {
		if (s->logs[i].worker)
			kthread_stop(s->logs[i].worker);
		WRITE_ONCE(s->logs[i].worker, NULL);
	}
}

int vmrepl_workers_place(struct vmrepl_session *s, const struct cpumask *cpus)
{
	int err = -EINVAL;
	unsigned int i;

	/* None of them goes offline meanwhile: so all workers go there or none. */
	cpus_read_lock();
	if (!cpumask_empty(cpus) && cpumask_subset(cpus, cpu_online_mask))
		err = 0;
	for (i = 0; i < s->nr_logs && !err; i++)
		err = set_cpus_allowed_ptr(s->logs[i].worker, cpus);
	cpus_read_unlock();
	return err;
}

void vmrepl_workers_start(struct vmrepl_session *s, int h, bool scan, bool cow)
{
	unsigned int i;

	s->epoch_half = h;
	s->epoch_scan = scan;
	s->epoch_cow = cow;
	atomic64_set(&s->scan, 0);
	atomic_set(&s->busy, s->nr_logs);
	/* Pairs with the acquire in has_work(). */
	smp_store_release(&s->epoch_started, s->epoch);
	for (i = 0; i < s->nr_logs; i++)
		wake_up(&s->logs[i].wait);
}

bool vmrepl_workers_busy(struct vmrepl_session *s)
{
	return atomic_read_acquire(&s->busy);
}

void vmrepl_workers_kick(struct vmrepl_session *s)
{
	unsigned int i;

	for (i = 0; i < s->nr_logs; i++)
		wake_up(&s->logs[i].wait);
}
