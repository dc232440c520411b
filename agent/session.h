/* SPDX-License-Identifier: GPL-2.0 */
/*
 * session: the module's protection of one VM, as uapi/vmrepl.h describes it.
 */
#ifndef VMREPL_SESSION_H
#define VMREPL_SESSION_H

#include <stdint.h>
#include <sys/types.h>

#include "cpulist.h"
#include "ring.h"
#include "vmrepl.h"
#include "why.h"

/**
 * struct session - an attached VM
 * @fd:        the module's file, -1 where there is none
 * @nr_vcpus:  vCPUs at attach
 * @nr_rings:  entries in @rings
 * @ram_bytes: guest RAM under protection
 * @tracking:  how the guest's stores are seen, a sentence of the module's
 * @rings:     one for each log
 * @nr_slots:  entries in @slots
 * @slots:     the layout that session_layout() took over
 * @slots_room: room in @slots
 */
struct session {
	int fd;
	unsigned int nr_vcpus;
	unsigned int nr_rings;
	uint64_t ram_bytes;
	char tracking[VMREPL_WHY_LEN];
	struct ring *rings;
	unsigned int nr_slots;
	struct vmrepl_slot *slots;
	unsigned int slots_room;
};

/* Makes an empty session of @session. */
void session_init(struct session *session);

/* Whether the module is there and may be used; opens and closes its file. */
int session_probe(struct why *why);

/**
 * session_attach() - protect the VM of a process and map its rings
 * @ring_slots, @flags: as in struct vmrepl_attach
 *
 * Errors: the module's, with a sentence each; ENOENT with @fd still -1 and
 * the module not loaded is told apart in the sentence only. The guest is
 * untouched then.
 */
int session_attach(struct session *session, pid_t pid, uint32_t ring_slots, uint32_t flags,
		   struct why *why);

/*
 * Lets the module's workers run on these CPUs only. Errors: the module's; EINVAL,
 * with a sentence, where one of them is not online.
 */
int session_place(struct session *session, const struct cpulist *cpus, struct why *why);

/* Takes the memory layout over into @slots. Errors: the module's. */
int session_layout(struct session *session, struct why *why);

/*
 * Does what it can of the next freeze while the guest runs. What goes wrong, the
 * freeze finds too, and tells.
 */
void session_prepare(struct session *session);

/**
 * session_freeze() - fix the set of an epoch
 * @flags: in and out: VMREPL_FREEZE_*
 * @pages: out: pages in the set
 * @ns:    out: time it took, nanoseconds
 *
 * Returns the module's -errno (ESTALE, ESRCH, EIO...) without a sentence:
 * called while the guest stands.
 */
int session_freeze(struct session *session, uint64_t epoch, uint32_t *flags,
		   uint64_t *pages, uint64_t *ns);

/* Wakes workers that wait for room. */
void session_kick(struct session *session);

/* Detaches; the guest goes on. Nothing happens where none is attached. */
void session_detach(struct session *session);

#endif /* VMREPL_SESSION_H */
