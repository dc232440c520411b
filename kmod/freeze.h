/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The freeze: what was written since the last one becomes the set of an epoch,
 * and every page of it is protected, so that the next write is seen again.
 */
#ifndef _VMREPL_FREEZE_H
#define _VMREPL_FREEZE_H

struct vmrepl_session;
struct vmrepl_freeze;
struct vmrepl_prepare;

/**
 * vmrepl_freeze() - VMREPL_FREEZE
 * @s:	session; caller holds its lock
 * @f:	in and out, see uapi
 *
 * Allocates nothing itself; KVM may, where it splits a huge page.
 * Return: 0 or a negative errno, see uapi; on an error the set is as it was.
 */
int vmrepl_freeze(struct vmrepl_session *s, struct vmrepl_freeze *f);

/**
 * vmrepl_prepare() - VMREPL_PREPARE
 * @s:	session; caller holds its lock
 * @p:	out, see uapi
 *
 * As vmrepl_freeze(); nothing is given to the workers.
 */
int vmrepl_prepare(struct vmrepl_session *s, struct vmrepl_prepare *p);

#endif /* _VMREPL_FREEZE_H */
