/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * vmrepl: the contract between vmrepl.ko and an agent.
 *
 * One open file of /dev/vmrepl is one session, and one session protects one
 * VM. The life of a session:
 *
 *	fd = open("/dev/vmrepl", O_RDWR | O_CLOEXEC)
 *	ioctl(fd, VMREPL_ATTACH)	dirty log on, every page is in the set
 *	mmap(fd, ring i)		one ring for each log
 *	ioctl(fd, VMREPL_LAYOUT)	which gpa is which hva
 *	loop:
 *		ioctl(fd, VMREPL_FREEZE)	the set of this epoch is fixed
 *		poll(fd), read the rings until each has shown its END record
 *	close(fd)			detach; the guest goes on untouched
 *
 * A page is named by its address in the VMM (hva), because that is what a
 * guest page, a host-side write and a RAM block of the VMM have in common: one
 * page may be seen at several guest addresses, or at none for a while.
 *
 * Closing the file and unmapping its rings, or the death of the process that
 * has them, detaches. Nothing of it stays in the guest, in the VMM or in KVM.
 *
 * All calls need CAP_SYS_ADMIN in the initial user namespace; open() fails
 * with EPERM without it. Calls on one file are serialised by the module.
 */
#ifndef _UAPI_VMREPL_H
#define _UAPI_VMREPL_H

#include <linux/types.h>
#include <linux/ioctl.h>

/* Goes up with every change here that an older agent could not live with. */
#define VMREPL_ABI		4

#define VMREPL_DEVICE		"/dev/vmrepl"
#define VMREPL_PAGE_SIZE	4096u

/* Records in one ring: a power of two. */
#define VMREPL_RING_MIN		64u
#define VMREPL_RING_MAX		65536u
#define VMREPL_RING_DEFAULT	4096u

#define VMREPL_WHY_LEN		128

/*
 * VMREPL_ATTACH flags: pages of the set that hold what this session's agent has
 * been given last for the same hva are left out. It is for an agent that applies
 * every epoch, in order, or closes the file. Found by hash: a changed page is
 * taken for an unchanged one with a probability of 2^-64; 8 bytes a page.
 */
#define VMREPL_ATTACH_HASH	0x1u
/* The same, found by comparing with a copy: as much memory as the guest's RAM. */
#define VMREPL_ATTACH_EXACT	0x2u

/**
 * struct vmrepl_attach - VMREPL_ATTACH: protect the VM of a process
 * @abi:	in: VMREPL_ABI
 * @pid:	in: the VMM's process id, as seen in the caller's pid namespace
 * @ring_slots:	in: records in each ring, a power of two from VMREPL_RING_MIN
 *		to VMREPL_RING_MAX, or 0 for VMREPL_RING_DEFAULT; out: what is used
 * @flags:	in: 0 or one of VMREPL_ATTACH_*
 * @nr_vcpus:	out: vCPUs the VM has now
 * @nr_rings:	out: rings to map: one for each vCPU, and the last one for what
 *		no vCPU wrote (host-side writes, KVM itself)
 * @ring_bytes:	out: length of one ring; ring i is mapped at offset
 *		i * @ring_bytes
 * @ram_bytes:	out: guest RAM under protection, bytes
 * @why:	out, where the call fails: a sentence for the operator, ending
 *		with NUL; empty where errno says it all; where it succeeds: how
 *		the guest's stores are seen, and why so
 *
 * Errors (nothing has changed then):
 *	EPROTO		@abi is not the module's
 *	EINVAL		a field out of range
 *	ESRCH		no such process, or it is going away
 *	ENOENT		the process has no VM
 *	ENOTUNIQ	the process has more than one VM
 *	EBUSY		this file has a VM already, or the VM has a session
 *	EINTR		a signal, or an io_uring's work, waits for the calling thread
 *			(mm_take_all_locks() in mm/mmap.c): try again
 *	EOPNOTSUPP	a VM of this kind cannot be protected; @why says why
 *	EOVERFLOW	more RAM regions than the module keeps
 *	ENOMEM
 *
 * The first attach after the module was loaded registers the hooks and takes
 * 0.1 to 0.3 s for it; the guest runs meanwhile.
 */
struct vmrepl_attach {
	__u32 abi;
	__s32 pid;
	__u32 ring_slots;
	__u32 flags;
	__u32 nr_vcpus;
	__u32 nr_rings;
	__u64 ring_bytes;
	__u64 ram_bytes;
	char why[VMREPL_WHY_LEN];
};

/* A memslot whose guest memory KVM keeps read-only (ROM). */
#define VMREPL_SLOT_READONLY	0x1u

/**
 * struct vmrepl_slot - one KVM memslot
 * @gpa:	guest physical address, bytes
 * @hva:	address in the VMM, bytes
 * @bytes:	length
 * @as_id:	KVM address space (1 is SMM on x86)
 * @id:		KVM's slot number in that address space
 * @flags:	VMREPL_SLOT_*
 */
struct vmrepl_slot {
	__u64 gpa;
	__u64 hva;
	__u64 bytes;
	__u16 as_id;
	__u16 id;
	__u32 flags;
};

/**
 * struct vmrepl_layout - VMREPL_LAYOUT: take over the VM's memory layout
 * @slots:	in: address of an array of struct vmrepl_slot
 * @nr_slots:	in: room in the array; out: slots the VM has
 * @generation:	out: goes up whenever the layout was taken over anew
 *
 * To be called after attach and whenever VMREPL_FREEZE says ESTALE. Memory
 * that was not there before, or whose dirty log the VMM had turned off in
 * between, is wholly in the set afterwards.
 *
 * Errors: ENOTCONN (no VM), ESRCH (the VM is gone), ENOSPC (@nr_slots says how
 * many there are; the layout is taken over nevertheless), EOVERFLOW, ENOMEM,
 * EOPNOTSUPP (memory has come that cannot be protected, as in VMREPL_ATTACH; the
 * kernel log says what; no freeze succeeds while it is there).
 */
struct vmrepl_layout {
	__u64 slots;
	__u32 nr_slots;
	__u32 generation;
};

/*
 * A round of the first sync: the guest goes on before every ring has shown END,
 * so the copies may mix two moments. Pages that the host side wrote stay in the
 * set until a freeze without this flag, because a device may still be writing
 * them. The first freeze after VMREPL_ATTACH may have it too, but even that one
 * is to be made while the guest stands and its devices are quiet.
 */
#define VMREPL_FREEZE_LIVE	0x1u
/*
 * The guest goes on as soon as the call has returned: what is written then and not
 * copied yet is copied first. Not together with VMREPL_FREEZE_LIVE. It is a wish:
 * the flag comes back clear where the set does not fit into the rings, or holds
 * pages that have to be read through the VMM's mapping (swapped out, being migrated,
 * holes of hugetlbfs, not mapped in a private file), or a vCPU runs a guest of its
 * guest, or KVM has neither EPT nor NPT; the guest is to be kept stopped then until
 * every ring has shown END.
 */
#define VMREPL_FREEZE_COW	0x2u

/**
 * struct vmrepl_freeze - VMREPL_FREEZE: fix the set of this epoch
 * @epoch:	in: number of the epoch, higher than the one before
 * @flags:	in: VMREPL_FREEZE_*; out: without VMREPL_FREEZE_COW where that cannot be
 * @pad:	in: 0
 * @pages:	out: pages in the set, those among them that will be left out too
 * @ns:		out: time the call took, nanoseconds
 *
 * What was written since the last freeze is the set. It is protected against
 * unseen writes again, and one worker for each log copies it into that log's
 * ring; every ring closes the epoch with one VMREPL_REC_END. The call returns
 * when the set is fixed; the copy goes on.
 *
 * Without VMREPL_FREEZE_LIVE the caller keeps the guest stopped, and its
 * devices quiet, from before the call until every ring has shown END; with
 * VMREPL_FREEZE_COW until the call has returned, if the flag is still there then.
 *
 * An epoch is torn where a page was written before it was copied and nobody was in
 * time (VMREPL_REC_TORN): what was given of it is to be thrown away. The next
 * freeze has all of its pages in the set again, and gives each of them.
 *
 * Errors (the set stays as it was, nothing is lost):
 *	ENOTCONN	no VM
 *	ESRCH		the VM is gone
 *	EBUSY		the epoch before has not shown END in every ring yet
 *	ESTALE		the memory layout changed: VMREPL_LAYOUT, then again
 *	EINVAL		@epoch not higher, unknown flags, or two that exclude each other
 *	EIO		the session is broken (VMREPL_RING_BROKEN)
 */
struct vmrepl_freeze {
	__u64 epoch;
	__u32 flags;
	__u32 pad;
	__u64 pages;
	__u64 ns;
};

/**
 * struct vmrepl_prepare - VMREPL_PREPARE: do now what a freeze would do in the pause
 * @pages:	out: pages that have a place in a ring now
 * @ns:		out: time the call took, nanoseconds
 *
 * The guest runs. What was written so far is protected and gets its places in the rings,
 * so that a freeze that follows at once has only that to do which was written in
 * between. The epoch is the same as without it. May be called again, and
 * may be followed by any freeze, or by none.
 *
 * Errors (nothing is lost): ENOTCONN, ESRCH, EBUSY, ESTALE, EIO as VMREPL_FREEZE.
 */
struct vmrepl_prepare {
	__u64 pages;
	__u64 ns;
};

/**
 * struct vmrepl_stats - VMREPL_STATS: counters since attach
 * @freezes:		epochs frozen
 * @vcpu_events:	first writes seen by the dirty hook in a vCPU's thread
 * @kvm_events:		the same, outside any vCPU
 * @host_faults:	pages taken into the set by a fault of the VMM's own
 * @host_ranges:	pages taken by a change of the VMM's mappings
 * @pinned:		pages kept in the set because they may be written unseen:
 *			pinned for DMA, or being migrated
 * @log_overflows:	freezes that had to look through the bitmaps: a log was full, or
 *			a range of more than 128 pages was logged at once
 * @pages:		page records produced, zero pages included
 * @zero_pages:		zero pages among them
 * @same_pages:		pages of the set that were left out (VMREPL_ATTACH_*)
 * @copy_errors:	pages that could not be read
 * @ring_full:		times a worker waited for the agent
 * @layouts:		layouts taken over
 * @planned:		pages of the set that could be copied after the call had returned
 * @cow_refused:	freezes that gave VMREPL_FREEZE_COW back
 * @cow_worker:		planned pages that their worker copied
 * @cow_pause:		planned pages copied in the freeze: they may be written unseen
 * @cow_vcpu:		planned pages copied for a vCPU that was about to write them
 * @cow_host:		the same for a fault of the VMM's own
 * @cow_range:		the same for a change of the VMM's mappings
 * @slipped:		pages marked as written before they were copied
 * @exposed:		pages that the VMM could write, when they were copied
 * @torn:		epochs that were torn, by one or the other
 * @freeze_ns:		time in VMREPL_FREEZE
 * @prepare_ns:		time in VMREPL_PREPARE
 */
struct vmrepl_stats {
	__u64 freezes;
	__u64 vcpu_events;
	__u64 kvm_events;
	__u64 host_faults;
	__u64 host_ranges;
	__u64 pinned;
	__u64 log_overflows;
	__u64 pages;
	__u64 zero_pages;
	__u64 same_pages;
	__u64 copy_errors;
	__u64 ring_full;
	__u64 layouts;
	__u64 planned;
	__u64 cow_refused;
	__u64 cow_worker;
	__u64 cow_pause;
	__u64 cow_vcpu;
	__u64 cow_host;
	__u64 cow_range;
	__u64 slipped;
	__u64 exposed;
	__u64 torn;
	__u64 freeze_ns;
	__u64 prepare_ns;
};

/**
 * struct vmrepl_log_stats - VMREPL_LOG_STATS: of one log since attach
 * @ring:	in: which, as in mmap(); one for each vCPU, the last for what no vCPU
 *		wrote
 * @pad:	in: 0
 * @events:	first writes that it listed
 * @pages, @zero_pages, @same_pages: as in struct vmrepl_stats, through this ring
 * @cow_worker, @cow_pause, @cow_vcpu, @cow_host, @cow_range: as there, of the pages
 *		that had a place in this ring
 * @copy_ns:	time from the start of a copy to its END, all epochs
 *
 * Each number is whole; together they may be of slightly different moments.
 * Errors: ENOTCONN, EINVAL (@ring).
 */
struct vmrepl_log_stats {
	__u32 ring;
	__u32 pad;
	__u64 events;
	__u64 pages;
	__u64 zero_pages;
	__u64 same_pages;
	__u64 cow_worker;
	__u64 cow_pause;
	__u64 cow_vcpu;
	__u64 cow_host;
	__u64 cow_range;
	__u64 copy_ns;
};

/* Longest bitmap of VMREPL_CPUS, bytes: as many CPUs as a kernel can have. */
#define VMREPL_CPUS_MAX		1024u

/**
 * struct vmrepl_cpus - VMREPL_CPUS: the CPUs that this session's workers may run on
 * @mask:	in: address of a bitmap; CPU n is bit n % 64 of its u64 n / 64
 * @bytes:	in: its length, a multiple of 8, at most VMREPL_CPUS_MAX
 * @pad:	in: 0
 *
 * Any time after attach, also between a freeze and its END records. Until it is
 * called, workers run wherever the kernel lets them. Should all of these CPUs go
 * offline later, the kernel takes others.
 *
 * Errors: ENOTCONN (no VM), EINVAL (a field out of range, no CPU, or one that is
 * not online), ENOMEM. The workers stay where they are then.
 */
struct vmrepl_cpus {
	__u64 mask;
	__u32 bytes;
	__u32 pad;
};

#define VMREPL_IOC		0xb7
#define VMREPL_ATTACH		_IOWR(VMREPL_IOC, 1, struct vmrepl_attach)
#define VMREPL_LAYOUT		_IOWR(VMREPL_IOC, 2, struct vmrepl_layout)
#define VMREPL_FREEZE		_IOWR(VMREPL_IOC, 3, struct vmrepl_freeze)
/* Wakes workers that wait for room. See struct vmrepl_ring, @flags. */
#define VMREPL_KICK		_IO(VMREPL_IOC, 4)
#define VMREPL_STATS		_IOR(VMREPL_IOC, 5, struct vmrepl_stats)
#define VMREPL_CPUS		_IOW(VMREPL_IOC, 6, struct vmrepl_cpus)
#define VMREPL_PREPARE		_IOR(VMREPL_IOC, 7, struct vmrepl_prepare)
#define VMREPL_LOG_STATS	_IOWR(VMREPL_IOC, 8, struct vmrepl_log_stats)

/*
 * The ring
 * --------
 * One producer (the worker of the log), one consumer (the agent). head and
 * tail count records and never wrap; record i is at index i % nr_slots, and its
 * page, if it has one, in the data slot of the same index.
 *
 *	producer			consumer
 *	write record and page		head = load-acquire(ring->head)   (A)
 *	store-release(head)  (A)	use records tail..head-1
 *					store-release(ring->tail)         (B)
 *	load-acquire(tail)   (B)
 *	overwrite free slots
 *
 * A worker that finds no room sets VMREPL_RING_NEED_KICK, then looks at the
 * tail once more before it sleeps; the consumer stores the tail, issues a full
 * barrier, then looks at the flag and calls VMREPL_KICK where it is set.
 *
 * poll() on the session's file: POLLIN while any ring has records that its tail
 * has not passed, unless all of them are before @seen; POLLHUP when the VM is gone;
 * POLLERR when the session is broken. So who keeps records for a while, because
 * somebody else still reads their pages, can wait for the next ones.
 *
 * The module trusts nothing here: a tail outside [last tail, head] breaks the
 * session, not the kernel. A page is read back before its record is shown, to see
 * whether it is zero or the same as before; nothing else is.
 */

/* A worker waits for room: VMREPL_KICK after moving the tail. */
#define VMREPL_RING_NEED_KICK	0x1u
/* A tail out of range, or a page that could not be read: attach again. */
#define VMREPL_RING_BROKEN	0x2u

/**
 * struct vmrepl_ring - the first page of a ring
 * @abi:	VMREPL_ABI
 * @nr_slots:	records in the ring, a power of two
 * @rec_offset:	where the array of struct vmrepl_rec begins, bytes from here
 * @data_offset: where the array of data pages begins, bytes from here
 * @head:	records produced so far; written by the module
 * @flags:	VMREPL_RING_*; written by the module
 * @tail:	records consumed so far; written by the agent
 * @seen:	records looked at so far, for poll(); written by the agent, or left 0
 * @pad0, @pad1, @pad2: keep what different sides write in cache lines of its own
 */
struct vmrepl_ring {
	__u32 abi;
	__u32 nr_slots;
	__u32 rec_offset;
	__u32 data_offset;
	__u8 pad0[48];
	__u64 head;
	__u32 flags;
	__u8 pad1[52];
	__u64 tail;
	__u64 seen;
	__u8 pad2[48];
};

/* A page; its content is in the data slot of the same index. */
#define VMREPL_REC_PAGE		1u
/* A page of zeros; its data slot holds nothing. */
#define VMREPL_REC_ZERO		2u
/* The last record of an epoch in this ring; @arg: page records before it. */
#define VMREPL_REC_END		3u
/* Nothing: a place kept for a page that was left out (VMREPL_ATTACH_*). */
#define VMREPL_REC_SKIP		4u

/* VMREPL_REC_END: a page of this ring is not as it was at the freeze. */
#define VMREPL_REC_TORN		0x1u

/**
 * struct vmrepl_rec - one record
 * @hva:	address of the page in the VMM; 0 in VMREPL_REC_END and VMREPL_REC_SKIP
 * @epoch:	number given to VMREPL_FREEZE
 * @arg:	VMREPL_REC_END: page records of this epoch in this ring; else 0
 * @type:	VMREPL_REC_*
 * @flags:	VMREPL_REC_END: 0 or VMREPL_REC_TORN; else 0
 */
struct vmrepl_rec {
	__u64 hva;
	__u64 epoch;
	__u64 arg;
	__u32 type;
	__u32 flags;
};

#endif /* _UAPI_VMREPL_H */
