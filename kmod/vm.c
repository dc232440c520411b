// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>

#include "compat/compat.h"
#include "compat/ksym.h"
#include "cow.h"
#include "log.h"
#include "region.h"
#include "session.h"
#include "tracking.h"
#include "vm.h"

struct vm_search {
	struct file *file;
	bool several;
};

/*
 * By name first: only KVM makes an anonymous inode of this name, so once it is
 * held, KVM's modules cannot go away and their symbols can be looked up.
 */
static int vm_search_fd(const void *data, struct file *file, unsigned int fd)
{
	struct vm_search *found = (void *)data;
	struct dentry *dentry = file->f_path.dentry;

	if (dentry->d_sb->s_magic != ANON_INODE_FS_MAGIC ||
	    strcmp(dentry->d_name.name, "kvm-vm"))
		return 0;
	if (!found->file) {
		found->file = get_file(file);
		return 0;
	}
	if (found->file->private_data != file->private_data) {
		found->several = true;
		return 1;
	}
	return 0;
}

static struct file *vm_file_of(pid_t nr, char *why)
{
	struct vm_search found = {};
	struct task_struct *task;
	struct pid *pid;
	bool alive;

	pid = find_get_pid(nr);
	task = get_pid_task(pid, PIDTYPE_TGID);
	put_pid(pid);
	if (!task)
		return ERR_PTR(-ESRCH);

	task_lock(task);
	alive = task->files;
	if (alive)
		iterate_fd(task->files, 0, vm_search_fd, &found);
	task_unlock(task);
	put_task_struct(task);

	if (!found.file)
		return ERR_PTR(alive ? -ENOENT : -ESRCH);
	if (found.several) {
		fput(found.file);
		snprintf(why, VMREPL_WHY_LEN,
			 "process %d has more than one VM", nr);
		return ERR_PTR(-ENOTUNIQ);
	}
	return found.file;
}

struct kvm *vmrepl_vm_get(pid_t pid, char *why)
{
	const char *missing;
	struct file *file;
	struct kvm *kvm;

	file = vm_file_of(pid, why);
	if (IS_ERR(file))
		return ERR_CAST(file);

	if (vmrepl_ksym_bind(&missing)) {
		snprintf(why, VMREPL_WHY_LEN,
			 "this kernel's KVM has no %s; it is not one that vmrepl supports",
			 missing);
		kvm = ERR_PTR(-EOPNOTSUPP);
	} else if (!ksym(file_is_kvm)(file)) {
		kvm = ERR_PTR(-ENOENT);
	} else {
		kvm = file->private_data;
		/* The VM is held, not its file: that would keep it running. */
		if (!ksym(kvm_get_kvm_safe)(kvm))
			kvm = ERR_PTR(-ESRCH);
	}
	fput(file);
	return kvm;
}

/* Memory that is not ordinary RAM of the VMM cannot be tracked by its faults. */
static int vma_refused(struct mm_struct *mm, unsigned long start,
		       unsigned long end, char *why)
{
	struct vm_area_struct *vma;
	unsigned long addr = start;

	while (addr < end) {
		vma = find_vma(mm, addr);
		if (!vma || vma->vm_start > addr) {
			snprintf(why, VMREPL_WHY_LEN,
				 "guest memory at %lx is not mapped in the VMM",
				 addr);
			return -EOPNOTSUPP;
		}
		if (vma->vm_flags & (VM_IO | VM_PFNMAP)) {
			snprintf(why, VMREPL_WHY_LEN,
				 "memory of a device is mapped into the guest (passthrough)");
			return -EOPNOTSUPP;
		}
		if (vma_is_dax(vma) || vma->vm_flags & VM_MIXEDMAP) {
			snprintf(why, VMREPL_WHY_LEN,
				 "guest memory is on a DAX device or file");
			return -EOPNOTSUPP;
		}
		if (userfaultfd_armed(vma)) {
			snprintf(why, VMREPL_WHY_LEN,
				 "guest RAM is filled through userfaultfd (postcopy, lazy restore); wait until that is over");
			return -EOPNOTSUPP;
		}
		addr = vma->vm_end;
	}
	return 0;
}

/* Caller holds slots_lock. */
static int slots_refused(struct kvm *kvm, char *why)
{
	struct kvm_memory_slot *slot;
	int as, bkt, err = 0;

	if (!mmget_not_zero(kvm->mm))
		return -ESRCH;
	mmap_read_lock(kvm->mm);
	for (as = 0; as < compat_address_spaces(kvm) && !err; as++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, as)) {
			if (slot->id >= KVM_USER_MEM_SLOTS || err)
				continue;
			if (compat_slot_private(slot)) {
				snprintf(why, VMREPL_WHY_LEN,
					 "the VM has memory that is the guest's alone (guest_memfd, confidential computing)");
				err = -EOPNOTSUPP;
				continue;
			}
			err = vma_refused(kvm->mm, slot->userspace_addr,
					  slot->userspace_addr +
					  (slot->npages << PAGE_SHIFT), why);
		}
	}
	mmap_read_unlock(kvm->mm);
	/* Should it be the last one: not under slots_lock. */
	mmput_async(kvm->mm);
	return err;
}

int vmrepl_vm_refused(struct kvm *kvm, char *why)
{
	int err;

	if (compat_has_assigned_device(kvm)) {
		snprintf(why, VMREPL_WHY_LEN,
			 "the VM has a host device assigned (VFIO); its writes cannot be seen");
		return -EOPNOTSUPP;
	}
	if (kvm->dirty_ring_size) {
		snprintf(why, VMREPL_WHY_LEN,
			 "the VMM uses KVM's dirty ring; start it without dirty-ring-size");
		return -EOPNOTSUPP;
	}
	mutex_lock(&kvm->slots_lock);
	err = slots_refused(kvm, why);
	mutex_unlock(&kvm->slots_lock);
	return err;
}

/* Caller holds slots_lock, which protects all of them. */
static struct vmrepl_armed *armed_find(struct vmrepl_session *s, u16 as, u16 id)
{
	unsigned int i;

	for (i = 0; i < s->nr_armed; i++)
		if (s->armed[i].as_id == as && s->armed[i].id == id)
			return &s->armed[i];
	return NULL;
}

void vmrepl_vm_asked(struct vmrepl_session *s, u32 slot, bool log)
{
	struct vmrepl_armed *armed = armed_find(s, slot >> 16, (u16)slot);

	if (armed)
		armed->vmm_wants = log;
}

static int slot_arm(struct vmrepl_session *s, struct kvm_memory_slot *slot)
{
	u16 as = slot->as_id, id = slot->id;
	struct vmrepl_armed *armed = armed_find(s, as, id);
	int err;

	if (!armed) {
		if (s->nr_armed == VMREPL_MAX_ARMED)
			return -EOVERFLOW;
		armed = &s->armed[s->nr_armed++];
		*armed = (struct vmrepl_armed){ .as_id = as, .id = id };
	}
	err = compat_set_log_dirty(s->kvm, slot, true);
	/* That was our wish. */
	armed->vmm_wants = false;
	return err;
}

static bool slot_wants_arming(const struct kvm_memory_slot *slot)
{
	return slot->id < KVM_USER_MEM_SLOTS &&
	       !(slot->flags & (KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES));
}

/*
 * Arming replaces the slot in KVM's tables, so the walk starts again after each.
 * Whoever wrote the slot unseen until now did so before the mark below.
 */
static int arm_one(struct vmrepl_session *s, int as)
{
	struct kvm_memory_slot *slot;
	unsigned long start, end;
	int bkt, err;

	kvm_for_each_memslot(slot, bkt, __kvm_memslots(s->kvm, as)) {
		if (!slot_wants_arming(slot))
			continue;
		start = slot->userspace_addr;
		end = start + (slot->npages << PAGE_SHIFT);
		err = slot_arm(s, slot);
		if (err)
			return err;
		vmrepl_log_range(s, start, end, false);
		return 1;
	}
	return 0;
}

static int cover_slots(struct vmrepl_session *s, int as)
{
	struct kvm_memory_slot *slot;
	int bkt, err;

	kvm_for_each_memslot(slot, bkt, __kvm_memslots(s->kvm, as)) {
		unsigned long start = slot->userspace_addr;

		if (slot->id >= KVM_USER_MEM_SLOTS)
			continue;
		err = vmrepl_region_cover(s, start, start +
					  (slot->npages << PAGE_SHIFT));
		if (err)
			return err;
	}
	return 0;
}

/* Gathered here first: no user memory is touched under slots_lock. */
static int tell_slots(struct kvm *kvm, struct vmrepl_slot *to, u32 room, u32 *nr)
{
	struct kvm_memory_slot *slot;
	int as, bkt;

	*nr = 0;
	for (as = 0; as < compat_address_spaces(kvm); as++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, as)) {
			if (slot->id >= KVM_USER_MEM_SLOTS)
				continue;
			if (*nr < room)
				to[*nr] = (struct vmrepl_slot) {
					.gpa = slot->base_gfn << PAGE_SHIFT,
					.hva = slot->userspace_addr,
					.bytes = (u64)slot->npages << PAGE_SHIFT,
					.as_id = as,
					.id = slot->id,
					.flags = slot->flags & KVM_MEM_READONLY ?
						 VMREPL_SLOT_READONLY : 0,
				};
			(*nr)++;
		}
	}
	return *nr > room ? -ENOSPC : 0;
}

static int take_layout_locked(struct vmrepl_session *s, char *why)
{
	int as, err;

	/* From here on a change makes the layout stale again. */
	smp_store_mb(s->stale, false);

	/* What came since the attach may be of a kind refused there. */
	err = slots_refused(s->kvm, why);
	if (err)
		return err;

	for (as = 0; as < compat_address_spaces(s->kvm); as++) {
		err = cover_slots(s, as);
		if (err)
			return err;
		do {
			err = arm_one(s, as);
		} while (err > 0);
		if (err)
			return err;
	}
	vmrepl_tracking_begin(s->kvm);
	return 0;
}

int vmrepl_vm_take_layout(struct vmrepl_session *s,
			  struct vmrepl_layout *layout, char *why)
{
	u32 room = layout ? min(layout->nr_slots, VMREPL_MAX_TOLD) : 0;
	struct vmrepl_slot *slots = NULL;
	int err, short_of = 0;
	u32 nr = 0;

	if (room) {
		slots = kvcalloc(room, sizeof(*slots), GFP_KERNEL_ACCOUNT);
		if (!slots)
			return -ENOMEM;
	}

	/* Memory may be gone that a plan names already. */
	if (s->prepared)
		vmrepl_cow_undo(s);

	mutex_lock(&s->kvm->slots_lock);
	err = take_layout_locked(s, why);
	if (!err)
		short_of = tell_slots(s->kvm, slots, room, &nr);
	else
		WRITE_ONCE(s->stale, true);
	mutex_unlock(&s->kvm->slots_lock);

	if (!err) {
		s->layouts++;
		if (layout) {
			if (room && copy_to_user(u64_to_user_ptr(layout->slots),
						 slots, min(nr, room) *
						 sizeof(*slots)))
				err = -EFAULT;
			layout->nr_slots = nr;
			layout->generation = s->layouts;
			err = err ?: short_of;
		}
	}
	kvfree(slots);
	return err;
}

void vmrepl_vm_disarm(struct vmrepl_session *s)
{
	unsigned int i;

	mutex_lock(&s->kvm->slots_lock);
	for (i = 0; i < s->nr_armed; i++) {
		struct vmrepl_armed *armed = &s->armed[i];
		struct kvm_memory_slot *slot;

		slot = id_to_memslot(__kvm_memslots(s->kvm, armed->as_id),
				     armed->id);
		/* Deleted since, or the VMM's own wish now. */
		if (!slot || armed->vmm_wants ||
		    !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
			continue;
		if (compat_set_log_dirty(s->kvm, slot, false))
			pr_warn("memslot %u of VM %d stays logged: KVM would not turn it off\n",
				armed->id, s->kvm->userspace_pid);
	}
	s->nr_armed = 0;
	mutex_unlock(&s->kvm->slots_lock);
}
