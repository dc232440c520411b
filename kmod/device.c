// SPDX-License-Identifier: GPL-2.0
/* /dev/vmrepl: the calls of uapi/vmrepl.h, each checked and passed on. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/cpumask.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "compat/compat.h"
#include "compat/ksym.h"
#include "freeze.h"
#include "log.h"
#include "ring.h"
#include "session.h"
#include "vm.h"
#include "worker.h"

static int dev_open(struct inode *inode, struct file *file)
{
	struct vmrepl_session *s;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	s = vmrepl_session_create();
	if (!s)
		return -ENOMEM;
	file->private_data = s;
	return nonseekable_open(inode, file);
}

static int dev_release(struct inode *inode, struct file *file)
{
	vmrepl_session_destroy(file->private_data);
	return 0;
}

static long do_attach(struct vmrepl_session *s, void __user *arg)
{
	struct vmrepl_attach a;
	int err;

	/* Both ways before anything changes. */
	if (copy_from_user(&a, arg, sizeof(a)) ||
	    copy_to_user(arg, &a, sizeof(a)))
		return -EFAULT;
	err = vmrepl_session_attach(s, &a);
	/* Also on an error: it carries the reason. */
	if (copy_to_user(arg, &a, sizeof(a)) && !err)
		return -EFAULT;
	return err;
}

static long do_layout(struct vmrepl_session *s, void __user *arg)
{
	char why[VMREPL_WHY_LEN];
	struct vmrepl_layout l;
	long err;

	if (copy_from_user(&l, arg, sizeof(l)))
		return -EFAULT;
	mutex_lock(&s->lock);
	if (!s->attached)
		err = -ENOTCONN;
	else if (READ_ONCE(s->gone))
		err = -ESRCH;
	else
		err = vmrepl_vm_take_layout(s, &l, why);
	if (err == -EOPNOTSUPP)
		pr_warn("VM %d: %s\n", s->kvm->userspace_pid, why);
	mutex_unlock(&s->lock);
	if ((!err || err == -ENOSPC) && copy_to_user(arg, &l, sizeof(l)))
		return -EFAULT;
	return err;
}

static long do_freeze(struct vmrepl_session *s, void __user *arg)
{
	struct vmrepl_freeze f;
	long err;

	/* Both ways before anything changes. */
	if (copy_from_user(&f, arg, sizeof(f)) ||
	    copy_to_user(arg, &f, sizeof(f)))
		return -EFAULT;
	mutex_lock(&s->lock);
	err = vmrepl_freeze(s, &f);
	mutex_unlock(&s->lock);
	if (!err && copy_to_user(arg, &f, sizeof(f)))
		return -EFAULT;
	return err;
}

static long do_prepare(struct vmrepl_session *s, void __user *arg)
{
	struct vmrepl_prepare p;
	long err;

	mutex_lock(&s->lock);
	err = vmrepl_prepare(s, &p);
	mutex_unlock(&s->lock);
	if (!err && copy_to_user(arg, &p, sizeof(p)))
		return -EFAULT;
	return err;
}

static long do_kick(struct vmrepl_session *s)
{
	long err = -ENOTCONN;

	mutex_lock(&s->lock);
	if (s->attached) {
		vmrepl_workers_kick(s);
		err = 0;
	}
	mutex_unlock(&s->lock);
	return err;
}

static void log_stats(struct vmrepl_log *log, struct vmrepl_log_stats *st)
{
	st->events = READ_ONCE(log->stats.events);
	st->pages = READ_ONCE(log->stats.pages);
	st->zero_pages = READ_ONCE(log->stats.zero_pages);
	st->same_pages = READ_ONCE(log->stats.same_pages);
	st->cow_worker = atomic64_read(&log->copies[VMREPL_COW_WORKER]);
	st->cow_pause = atomic64_read(&log->copies[VMREPL_COW_PAUSE]);
	st->cow_vcpu = atomic64_read(&log->copies[VMREPL_COW_VCPU]);
	st->cow_host = atomic64_read(&log->copies[VMREPL_COW_HOST]);
	st->cow_range = atomic64_read(&log->copies[VMREPL_COW_RANGE]);
	st->copy_ns = READ_ONCE(log->stats.copy_ns);
}

static long do_stats(struct vmrepl_session *s, void __user *arg)
{
	struct vmrepl_stats st = {
		.freezes = s->stats.freezes,
		.vcpu_events = atomic64_read(&s->stats.vcpu_events),
		.kvm_events = atomic64_read(&s->stats.kvm_events),
		.host_faults = atomic64_read(&s->stats.host_faults),
		.host_ranges = atomic64_read(&s->stats.host_ranges),
		.pinned = atomic64_read(&s->stats.pinned),
		.log_overflows = atomic64_read(&s->stats.log_overflows),
		.copy_errors = atomic64_read(&s->stats.copy_errors),
		.ring_full = atomic64_read(&s->stats.ring_full),
		.layouts = s->layouts,
		.planned = s->stats.planned,
		.cow_refused = s->stats.cow_refused,
		.slipped = atomic64_read(&s->stats.slipped),
		.exposed = atomic64_read(&s->stats.exposed),
		.torn = atomic64_read(&s->stats.torn),
		.freeze_ns = s->stats.freeze_ns,
		.prepare_ns = s->stats.prepare_ns,
	};
	unsigned int i;

	/* Acquire: as in dev_mmap(). */
	for (i = 0; smp_load_acquire(&s->attached) && i < s->nr_logs; i++) {
		struct vmrepl_log_stats of;

		log_stats(&s->logs[i], &of);
		st.pages += of.pages;
		st.zero_pages += of.zero_pages;
		st.same_pages += of.same_pages;
		st.cow_worker += of.cow_worker;
		st.cow_pause += of.cow_pause;
		st.cow_vcpu += of.cow_vcpu;
		st.cow_host += of.cow_host;
		st.cow_range += of.cow_range;
	}
	return copy_to_user(arg, &st, sizeof(st)) ? -EFAULT : 0;
}

static long do_log_stats(struct vmrepl_session *s, void __user *arg)
{
	struct vmrepl_log_stats st;

	if (copy_from_user(&st, arg, sizeof(st)))
		return -EFAULT;
	/* Acquire: as in dev_mmap(). */
	if (!smp_load_acquire(&s->attached))
		return -ENOTCONN;
	if (st.ring >= s->nr_logs || st.pad)
		return -EINVAL;
	log_stats(&s->logs[st.ring], &st);
	return copy_to_user(arg, &st, sizeof(st)) ? -EFAULT : 0;
}

/* A bitmap of the caller's as ours; bits beyond the last possible CPU are none. */
static int get_cpus(const struct vmrepl_cpus *c, struct cpumask *cpus)
{
	unsigned int bits = c->bytes * BITS_PER_BYTE;
	unsigned long *mask;
	int err = 0;

	if (c->pad || !c->bytes || c->bytes % sizeof(u64) ||
	    c->bytes > VMREPL_CPUS_MAX)
		return -EINVAL;
	mask = memdup_user(u64_to_user_ptr(c->mask), c->bytes);
	if (IS_ERR(mask))
		return PTR_ERR(mask);
	if (find_next_bit(mask, bits, nr_cpu_ids) < bits)
		err = -EINVAL;
	cpumask_clear(cpus);
	bitmap_copy(cpumask_bits(cpus), mask, min(bits, nr_cpu_ids));
	kfree(mask);
	return err;
}

static long do_cpus(struct vmrepl_session *s, void __user *arg)
{
	struct vmrepl_cpus c;
	cpumask_var_t cpus;
	long err;

	if (copy_from_user(&c, arg, sizeof(c)))
		return -EFAULT;
	if (!alloc_cpumask_var(&cpus, GFP_KERNEL))
		return -ENOMEM;
	err = get_cpus(&c, cpus);
	if (!err) {
		mutex_lock(&s->lock);
		err = s->attached ? vmrepl_workers_place(s, cpus) : -ENOTCONN;
		mutex_unlock(&s->lock);
	}
	free_cpumask_var(cpus);
	return err;
}

static long dev_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vmrepl_session *s = file->private_data;
	void __user *to = (void __user *)arg;

	switch (cmd) {
	case VMREPL_ATTACH:
		return do_attach(s, to);
	case VMREPL_LAYOUT:
		return do_layout(s, to);
	case VMREPL_FREEZE:
		return do_freeze(s, to);
	case VMREPL_PREPARE:
		return do_prepare(s, to);
	case VMREPL_KICK:
		return do_kick(s);
	case VMREPL_STATS:
		return do_stats(s, to);
	case VMREPL_LOG_STATS:
		return do_log_stats(s, to);
	case VMREPL_CPUS:
		return do_cpus(s, to);
	default:
		return -ENOTTY;
	}
}

/* Not under s->lock: a freeze takes an mmap_lock inside it, this is outside. */
static int dev_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct vmrepl_session *s = file->private_data;
	u64 offset = (u64)vma->vm_pgoff << PAGE_SHIFT;
	u64 bytes, ring;

	/* Acquire: the rings are there, and stay as long as the file does. */
	if (!smp_load_acquire(&s->attached))
		return -ENOTCONN;
	bytes = vmrepl_ring_bytes(s->logs[0].ring.nr_slots);
	ring = div64_u64(offset, bytes);
	if (ring >= s->nr_logs || ring * bytes != offset)
		return -EINVAL;
	return vmrepl_ring_mmap(&s->logs[ring].ring, vma);
}

static __poll_t dev_poll(struct file *file, poll_table *wait)
{
	struct vmrepl_session *s = file->private_data;
	__poll_t mask = 0;
	unsigned int i;

	poll_wait(file, &s->poll_wait, wait);
	/* Acquire: as in dev_mmap(). */
	if (!smp_load_acquire(&s->attached))
		return EPOLLERR;
	for (i = 0; i < s->nr_logs; i++)
		if (vmrepl_ring_readable(&s->logs[i].ring))
			mask |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(s->gone))
		mask |= EPOLLHUP;
	if (READ_ONCE(s->broken))
		mask |= EPOLLERR;
	return mask;
}

static const struct file_operations dev_fops = {
	.owner = THIS_MODULE,
	.open = dev_open,
	.release = dev_release,
	.unlocked_ioctl = dev_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = dev_mmap,
	.poll = dev_poll,
};

static struct miscdevice dev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "vmrepl",
	.fops = &dev_fops,
	.mode = 0600,
};

static int __init vmrepl_init(void)
{
	int err;

	if (!compat_kernel_ok())
		return -ENOEXEC;
	err = vmrepl_ksym_init();
	if (err)
		return err;
	err = misc_register(&dev);
	if (err)
		pr_err("/dev/vmrepl cannot be made (%d)\n", err);
	return err;
}

static void __exit vmrepl_exit(void)
{
	misc_deregister(&dev);
}

module_init(vmrepl_init);
module_exit(vmrepl_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Replication of running KVM guests");
MODULE_VERSION("0.1.0");
