// SPDX-License-Identifier: GPL-2.0
/*
 * What cannot be protected: a table of checks, each with its sentence.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices.h"
#include "migration.h"
#include "refuse.h"

#define AT_ATTACH	(1u << REFUSE_PRIMARY)
#define ON_PRIMARY	(AT_ATTACH | 1u << REFUSE_PROTECTED)
#define ON_STANDBY	(1u << REFUSE_STANDBY)
#define ON_BOTH		(ON_PRIMARY | ON_STANDBY)

static const char *member(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "";
}

static bool member_true(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_get_boolean(v);
}

static int check_kvm(struct qmp *q, const struct procvm *vm, struct why *why)
{
	(void)q;
	if (!vm->nr_vms)
		return why_set(why, EOPNOTSUPP, "process %d (%s) has no KVM VM: only guests that run with -accel kvm can be protected",
			       vm->pid, vm->comm);
	if (vm->nr_vms > 1)
		return why_set(why, EOPNOTSUPP, "process %d (%s) has %u VMs: only a process with one can be protected",
			       vm->pid, vm->comm, vm->nr_vms);
	return 0;
}

static int check_vfio(struct qmp *q, const struct procvm *vm, struct why *why)
{
	(void)q;
	if (vm->vfio)
		return why_set(why, EOPNOTSUPP, "the guest has a VFIO device: its state cannot be saved and its writes to memory cannot be seen; remove the device");
	return 0;
}

static int check_vhost(struct qmp *q, const struct procvm *vm, struct why *why)
{
	(void)q;
	if (vm->vhost_other)
		return why_set(why, EOPNOTSUPP, "the guest uses %s: what leaves through it cannot be held back; of vhost only vhost-net can be protected",
			       vm->vhost_other_name);
	return 0;
}

static int check_running(struct qmp *q, const struct procvm *vm, struct why *why)
{
	struct json_object *ret;
	int err;

	(void)vm;
	err = qmp_command(q, "query-status", NULL, &ret, why);
	if (err)
		return err;
	if (strcmp(member(ret, "status"), "running"))
		err = why_set(why, EOPNOTSUPP, "the guest does not run (it is \"%s\"): let it run first (`cont` in QEMU's monitor)",
			      member(ret, "status"));
	json_object_put(ret);
	return err;
}

static int check_waiting(struct qmp *q, const struct procvm *vm, struct why *why)
{
	struct json_object *ret;
	int err;

	(void)vm;
	err = qmp_command(q, "query-status", NULL, &ret, why);
	if (err)
		return err;
	if (strcmp(member(ret, "status"), "inmigrate"))
		err = why_set(why, EOPNOTSUPP, "the standby's QEMU does not wait for a guest (it is \"%s\"): start it with the primary's command line and -incoming defer",
			      member(ret, "status"));
	json_object_put(ret);
	return err;
}

static int check_migration(struct qmp *q, const struct procvm *vm, struct why *why)
{
	struct json_object *ret, *list;
	int err;

	(void)vm;
	err = qmp_command(q, "query-migrate", NULL, &ret, why);
	if (err)
		return err;
	if (migration_busy(member(ret, "status")))
		err = why_set(why, EOPNOTSUPP, "QEMU is migrating the guest (\"%s\"): wait for its end or cancel it",
			      member(ret, "status"));
	else if (json_object_object_get_ex(ret, "blocked-reasons", &list) &&
		 json_object_array_length(list))
		err = why_set(why, EOPNOTSUPP, "QEMU cannot save this guest's state: %s",
			      json_object_get_string(json_object_array_get_idx(list, 0)));
	json_object_put(ret);
	return err;
}

static int check_command(struct qmp *q, const struct procvm *vm, struct why *why)
{
	static const char name[] = "xen-save-devices-state";
	struct json_object *ret;
	bool found = false;
	int err;

	(void)vm;
	err = qmp_command(q, "query-commands", NULL, &ret, why);
	if (err)
		return err;
	for (size_t i = 0; i < json_object_array_length(ret); i++)
		if (!strcmp(member(json_object_array_get_idx(ret, i), "name"), name))
			found = true;
	json_object_put(ret);
	if (!found)
		return why_set(why, EOPNOTSUPP, "this QEMU (%s) has no command %s: use QEMU 7.2 or newer for x86",
			       qmp_version(q), name);
	return 0;
}

static int check_encryption(struct qmp *q, const struct procvm *vm, struct why *why)
{
	struct json_object *ret, *args;
	bool encrypted = false;
	int err;

	(void)vm;
	/* Another kind of QEMU does not know the command, or has no SEV. */
	err = qmp_command(q, "query-sev", NULL, &ret, why);
	if (!err) {
		encrypted = member_true(ret, "enabled");
		json_object_put(ret);
	} else if (err != -ENOSYS && err != -EREMOTEIO) {
		return err;
	}
	args = qmp_args("path", "/machine");
	json_object_object_add(args, "property",
			       json_object_new_string("confidential-guest-support"));
	err = qmp_command(q, "qom-get", args, &ret, why);
	if (!err) {
		if (ret && json_object_get_string(ret)[0])
			encrypted = true;
		json_object_put(ret);
	} else if (err != -EREMOTEIO) {
		return err;
	}
	if (encrypted)
		return why_set(why, EOPNOTSUPP, "the guest's memory is encrypted (SEV, TDX): the host cannot copy it");
	return 0;
}

static int check_disks(struct qmp *q, const struct procvm *vm, struct why *why)
{
	static const char todo[] = "writable disks are not protected, and the survivor would find writes of a lost future on it; use a read-only one (readonly=on) or none";
	struct json_object *ret, *blk, *ins;
	const char *name;
	int err;

	(void)vm;
	err = qmp_command(q, "query-block", NULL, &ret, why);
	if (err)
		return err;
	for (size_t i = 0; !err && i < json_object_array_length(ret); i++) {
		blk = json_object_array_get_idx(ret, i);
		if (!json_object_object_get_ex(blk, "inserted", &ins) || member_true(ins, "ro"))
			continue;
		name = member(blk, "device");
		if (!name[0])
			name = member(blk, "qdev");
		err = why_set(why, EOPNOTSUPP, "disk %s (%.200s) is writable: %s", name,
			      member(ins, "file"), todo);
	}
	json_object_put(ret);
	if (err)
		return err;

	err = qmp_command(q, "query-named-block-nodes", NULL, &ret, why);
	if (err)
		return err;
	for (size_t i = 0; !err && i < json_object_array_length(ret); i++) {
		blk = json_object_array_get_idx(ret, i);
		if (!member_true(blk, "ro"))
			err = why_set(why, EOPNOTSUPP, "block node %s (%.200s) is writable: %s",
				      member(blk, "node-name"), member(blk, "file"), todo);
	}
	json_object_put(ret);
	return err;
}

/* Devices whose output or state is out of reach; the name is a beginning. */
static const struct {
	const char *type;
	const char *text;
} no_devices[] = {
	{ "vhost-user-", "another process writes the guest's memory and sends its output; use a device of QEMU's own" },
	{ "vhost-vdpa-", "hardware writes the guest's memory and sends its output; use a device of QEMU's own" },
	{ "vhost-vsock-", "what leaves through it cannot be held back; remove it" },
	{ "vhost-scsi-", "disks behind it cannot be protected; remove it" },
	{ "virtio-9p-", "files that the guest shares with the host cannot be protected; remove it" },
	{ "vfio-", "its state cannot be saved; remove it" },
	{ "usb-host", "a device of the host cannot move to the standby; remove it" },
	{ "usb-mtp", "files that the guest shares with the host cannot be protected; remove it" },
	{ "scsi-generic", "a device of the host cannot be protected; remove it" },
	{ "scsi-block", "a device of the host cannot be protected; remove it" },
	{ "ivshmem-", "memory shared with other processes cannot be protected; remove it" },
};

static int check_device(void *arg, const struct device *device, struct why *why)
{
	(void)arg;
	for (size_t k = 0; k < sizeof(no_devices) / sizeof(no_devices[0]); k++)
		if (!strncmp(device->type, no_devices[k].type, strlen(no_devices[k].type)))
			return why_set(why, EOPNOTSUPP, "the guest has a device %s (%s): %s",
				       device->type, device->name, no_devices[k].text);
	return 0;
}

static int check_devices(struct qmp *q, const struct procvm *vm, struct why *why)
{
	(void)vm;
	return devices_each(q, check_device, NULL, why);
}

/* Copies the value of ",key=value," out of a line of `info network`. */
static bool field(const char *line, const char *key, char *value, size_t size)
{
	char pattern[32];
	const char *p;
	size_t n;

	snprintf(pattern, sizeof(pattern), ",%s=", key);
	p = strstr(line, pattern);
	if (!p)
		return false;
	p += strlen(pattern);
	n = strcspn(p, ",\r\n");
	if (n >= size)
		n = size - 1;
	memcpy(value, p, n);
	value[n] = '\0';
	return true;
}

/* A tap by its name, or by the number of its file in QEMU. */
static int check_tap(const struct procvm *vm, const char *line, struct why *why)
{
	char value[64], path[128], link[64];
	ssize_t n;

	if (field(line, "fd", value, sizeof(value))) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", vm->pid, value);
		n = readlink(path, link, sizeof(link) - 1);
		if (n < 0)
			n = 0;
		link[n] = '\0';
		if (strcmp(link, "/dev/net/tun"))
			return why_set(why, EOPNOTSUPP, "the guest's network is no tap (%s; macvtap?): its output cannot be held back; use a tap in a bridge",
				       link);
		return 0;
	}
	if (!field(line, "ifname", value, sizeof(value)))
		return 0;
	for (unsigned int i = 0; i < vm->nr_taps; i++)
		if (!strcmp(vm->taps[i].ifname, value))
			return 0;
	return why_set(why, EOPNOTSUPP, "QEMU names a tap %s that process %d does not have open",
		       value, vm->pid);
}

/*
 * One line of `info network`. A NIC alone and a hub's port send nothing to the
 * outside; what they are connected to has its own line.
 */
static int check_network_line(const struct procvm *vm, const char *line, struct why *why)
{
	char type[32], name[64];
	const char *p;

	if (!field(line, "type", type, sizeof(type)))
		return 0;
	p = line + strspn(line, " \\");
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(p, ":"), p);
	if (!strcmp(type, "nic") || !strcmp(type, "hubport"))
		return 0;
	if (!strcmp(type, "tap"))
		return check_tap(vm, line, why);
	if (!strcmp(type, "user"))
		return why_set(why, EOPNOTSUPP, "network %s is user-mode networking: its output cannot be held back; use a tap (-netdev tap)",
			       name);
	return why_set(why, EOPNOTSUPP, "network %s is of type %s: its output cannot be held back; use a tap (-netdev tap)",
		       name, type);
}

static int check_network(struct qmp *q, const struct procvm *vm, struct why *why)
{
	char *text, *line, *save;
	int err;

	err = qmp_hmp(q, "info network", &text, why);
	if (err)
		return err;
	for (line = strtok_r(text, "\n", &save); line && !err; line = strtok_r(NULL, "\n", &save))
		err = check_network_line(vm, line, why);
	free(text);
	for (unsigned int i = 0; !err && i < vm->nr_taps; i++)
		if (!vm->taps[i].ifindex)
			err = why_set(why, EOPNOTSUPP, "tap %s is in another network namespace: start the agent there (nsenter --net=/proc/%d/ns/net)",
				      vm->taps[i].ifname, vm->pid);
	return err;
}

static const struct {
	unsigned int sides;
	int (*check)(struct qmp *q, const struct procvm *vm, struct why *why);
} checks[] = {
	{ ON_PRIMARY, check_kvm },
	{ ON_BOTH, check_vfio },
	{ ON_BOTH, check_vhost },
	{ AT_ATTACH, check_command },
	{ AT_ATTACH, check_running },
	{ ON_STANDBY, check_waiting },
	{ ON_BOTH, check_encryption },
	{ ON_BOTH, check_devices },
	{ ON_BOTH, check_disks },
	{ ON_PRIMARY, check_network },
	{ ON_BOTH, check_migration },
};

int refuse_check(struct qmp *q, const struct procvm *vm, enum refuse_side side,
		 struct why *why)
{
	int err;

	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		if (!(checks[i].sides & (1u << side)))
			continue;
		err = checks[i].check(q, vm, why);
		if (err)
			return err;
	}
	return 0;
}
