// SPDX-License-Identifier: GPL-2.0
/* /dev/vmrepl: the calls of uapi/vmrepl.h, each checked and passed on. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/uaccess.h>

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

	if (copy_from_user(&f, arg, sizeof(f)))
		return -EFAULT;
	mutex_lock(&s->lock);
	err = vmrepl_freeze(s, &f);
	mutex_unlock(&s->lock);
	if (!err && copy_to_user(arg, &f, sizeof(f)))
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
		.pages = atomic64_read(&s->stats.pages),
		.zero_pages = atomic64_read(&s->stats.zero_pages),
		.same_pages = atomic64_read(&s->stats.same_pages),
		.copy_errors = atomic64_read(&s->stats.copy_errors),
		.ring_full = atomic64_read(&s->stats.ring_full),
		.layouts = s->layouts,
	};

	return copy_to_user(arg, &st, sizeof(st)) ? -EFAULT : 0;
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
	case VMREPL_KICK:
		return do_kick(s);
	case VMREPL_STATS:
		return do_stats(s, to);
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
