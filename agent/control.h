/* SPDX-License-Identifier: GPL-2.0 */
/*
 * control: the agent's unix socket, and the other end of it.
 *
 * /run/vmrepl/<pid of the VM>.sock, for root only. One line each way, a JSON
 * object: {"cmd":"status"} or {"cmd":"promote"}; the answer has "error" (a
 * sentence) where it was refused. It is also what keeps two agents from serving
 * one VM on a host.
 */
#ifndef VMREPL_CONTROL_H
#define VMREPL_CONTROL_H

#include <json-c/json.h>
#include <sys/types.h>

#include "loop.h"
#include "why.h"

struct control;

/**
 * control_fn - answer a command
 * @cmd: the command
 *
 * Returns an object that control takes over.
 */
typedef struct json_object *(*control_fn)(void *arg, const char *cmd);

/*
 * Begins to serve. Errors: NULL with @why, where another agent serves that VM or
 * the socket cannot be made.
 */
struct control *control_open(struct loop *loop, pid_t vm, control_fn fn, void *arg,
			     struct why *why);
/* Ends it and removes the socket. NULL is fine. */
void control_close(struct control *control);

/* {"error": sentence}, for control_fn. */
struct json_object *control_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/**
 * control_ask() - ask the agent of a VM
 * @vm:    pid of the VM; 0: the only one there is
 * @reply: out: the answer, to be put; it may have "error"
 *
 * Blocks. Errors: ENOENT no agent; ENOTUNIQ several and none named; ETIMEDOUT;
 * EPROTO.
 */
int control_ask(pid_t vm, const char *cmd, struct json_object **reply, struct why *why);

/* Whether an agent serves this VM now. */
bool control_served(pid_t vm);

#endif /* VMREPL_CONTROL_H */
