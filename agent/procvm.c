// SPDX-License-Identifier: GPL-2.0
/*
 * What /proc tells about a VMM.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "procvm.h"
#include "qmp.h"

/* A monitor greets at once; the second look is for a busy machine. */
#define GREET_MS	300
#define GREET_LATE_MS	1500

/* Listening, in the flags of /proc/net/unix. */
#define UNIX_LISTENS	0x10000ul

static FILE *open_text(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return fopen(path, "re");
}

/* Start time: field 22, counted behind the name, which may hold anything. */
static int read_stat(struct procvm *vm)
{
	char line[1024], *p, *name;
	FILE *f = open_text(vm->pid, "stat");
	int ret = -ESRCH;

	if (!f)
		return -ESRCH;
	if (fgets(line, sizeof(line), f)) {
		name = strchr(line, '(');
		p = strrchr(line, ')');
		if (name && p && p > name &&
		    sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d"
			   " %*d %*d %*d %*d %*d %" SCNu64, &vm->start) == 1) {
			*p = '\0';
			snprintf(vm->comm, sizeof(vm->comm), "%s", name + 1);
			ret = 0;
		}
	}
	fclose(f);
	return ret;
}

/* A line "key: ..." of /proc/PID/status. */
static int read_status(pid_t pid, const char *key, char *value, size_t size)
{
	FILE *f = open_text(pid, "status");
	size_t n = strlen(key);
	char line[256];
	int ret = -ENOENT;

	if (!f)
		return -ESRCH;
	while (ret && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, n) || line[n] != ':')
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(value, size, "%s", line + n + 1);
		ret = 0;
	}
	fclose(f);
	return ret;
}

/* Is /proc/PID/ns/NAME the namespace we are in? */
static bool same_ns(pid_t pid, const char *name)
{
	struct stat a, b;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	if (stat(path, &a))
		return false;
	snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
	return !stat(path, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* The interface behind a file of /dev/net/tun; empty if it has none yet. */
static void tap_name(pid_t pid, const char *fd, char *ifname, size_t size)
{
	char path[320], line[128];
	FILE *f;

	ifname[0] = '\0';
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, fd);
	f = fopen(path, "re");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, "iff:", 4))
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(ifname, size, "%s", line + 4 + strspn(line + 4, " \t"));
	}
	fclose(f);
}

/* Is the tap of that file in our network namespace? */
static bool tap_here(const struct procvm *vm, const char *fd)
{
	struct stat a, b;
	int tun, ns;
	bool here;

	tun = (int)syscall(SYS_pidfd_getfd, vm->pidfd, atoi(fd), 0);
	if (tun < 0)
		return same_ns(vm->pid, "net");
	ns = ioctl(tun, TUNGETDEVNETNS);
	close(tun);
	if (ns < 0)
		return same_ns(vm->pid, "net");
	here = !fstat(ns, &a) && !stat("/proc/self/ns/net", &b) && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
	close(ns);
	return here;
}

static int add_tap(struct procvm *vm, const char *fd, struct why *why)
{
	char ifname[IF_NAMESIZE];
	struct procvm_tap *tap;

	tap_name(vm->pid, fd, ifname, sizeof(ifname));
	if (!ifname[0])
		return 0;
	for (tap = vm->taps; tap < vm->taps + vm->nr_taps; tap++) {
		if (!strcmp(tap->ifname, ifname)) {
			tap->queues++;
			return 0;
		}
	}
	if (vm->nr_taps == PROCVM_TAPS)
		return why_set(why, ENOSPC, "process %d has more than %d taps", vm->pid,
			       PROCVM_TAPS);
	memset(tap, 0, sizeof(*tap));
	memcpy(tap->ifname, ifname, sizeof(ifname));
	tap->queues = 1;
	if (tap_here(vm, fd))
		tap->ifindex = if_nametoindex(ifname);
	vm->nr_taps++;
	return 0;
}

static int look_at(void *arg, const char *fd, const char *link, struct why *why)
{
	static const char vhost[] = "/dev/vhost-";
	struct procvm *vm = arg;

	if (!strcmp(link, "anon_inode:kvm-vm"))
		vm->nr_vms++;
	else if (!strncmp(link, "anon_inode:kvm-vcpu", 19))
		vm->nr_vcpus++;
	else if (!strncmp(link, "/dev/vfio/", 10) || !strncmp(link, "anon_inode:[vfio", 16) ||
		 !strcmp(link, "/dev/iommu"))
		vm->vfio++;
	else if (!strcmp(link, "/dev/vhost-net"))
		vm->vhost_net++;
	else if (!strncmp(link, vhost, sizeof(vhost) - 1)) {
		vm->vhost_other++;
		snprintf(vm->vhost_other_name, sizeof(vm->vhost_other_name), "%.60s", link);
	} else if (!strcmp(link, "/dev/net/tun")) {
		return add_tap(vm, fd, why);
	}
	return 0;
}

static int by_fd(const struct dirent **a, const struct dirent **b)
{
	return atoi((*a)->d_name) - atoi((*b)->d_name);
}

static int no_dots(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

/* Calls fn for each open file with its number and the text of its link. */
static int each_file(pid_t pid,
		     int (*fn)(void *arg, const char *fd, const char *link, struct why *why),
		     void *arg, struct why *why)
{
	char path[320], link[PATH_MAX];
	struct dirent **list;
	int nr, ret = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	nr = scandir(path, &list, no_dots, by_fd);
	if (nr < 0)
		return why_set(why, errno == ENOENT ? ESRCH : errno,
			       "cannot see the files of process %d: %s (run as root)", pid,
			       strerror(errno));
	for (int i = 0; i < nr; i++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid, list[i]->d_name);
		n = ret ? -1 : readlink(path, link, sizeof(link) - 1);
		if (n >= 0) {
			link[n] = '\0';
			ret = fn(arg, list[i]->d_name, link, why);
		}
		free(list[i]);
	}
	free(list);
	return ret;
}

int procvm_open(struct procvm *vm, pid_t pid, struct why *why)
{
	char value[128];
	unsigned int uid;
	int ret;

	memset(vm, 0, sizeof(*vm));
	vm->pid = pid;
	vm->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (vm->pidfd < 0 || read_stat(vm) ||
	    read_status(pid, "Uid", value, sizeof(value)) || sscanf(value, "%*u %u", &uid) != 1) {
		ret = why_set(why, ESRCH, "there is no process %d", pid);
		goto err;
	}
	vm->uid = uid;
	ret = procvm_look(vm, why);
	if (ret)
		goto err;
	return 0;
err:
	procvm_close(vm);
	return ret;
}

int procvm_look(struct procvm *vm, struct why *why)
{
	int ret;

	vm->nr_vms = 0;
	vm->nr_vcpus = 0;
	vm->vfio = 0;
	vm->vhost_net = 0;
	vm->vhost_other = 0;
	vm->nr_taps = 0;
	ret = each_file(vm->pid, look_at, vm, why);
	if (!ret && !procvm_alive(vm))
		ret = why_set(why, ESRCH, "process %d is gone", vm->pid);
	return ret;
}

void procvm_close(struct procvm *vm)
{
	if (vm->pidfd >= 0)
		close(vm->pidfd);
	vm->pidfd = -1;
}

bool procvm_alive(const struct procvm *vm)
{
	struct pollfd pfd = { .fd = vm->pidfd, .events = POLLIN };

	return poll(&pfd, 1, 0) == 0;
}

static uint64_t caps_of(pid_t pid, const char *set)
{
	uint64_t caps = 0;
	char value[64];

	if (!read_status(pid, set, value, sizeof(value)))
		sscanf(value, "%" SCNx64, &caps);
	return caps;
}

int procvm_check_reach(const struct procvm *vm, struct why *why)
{
	uint64_t its = caps_of(vm->pid, "CapEff"), ours = caps_of(getpid(), "CapPrm");
	struct stat st;
	char path[96];

	if (!same_ns(vm->pid, "pid") || !same_ns(vm->pid, "user"))
		return why_set(why, EACCES, "process %d (%s) runs in a container: QEMU must be in the agent's pid and user namespaces to hand over its device state",
			       vm->pid, vm->comm);
	snprintf(path, sizeof(path), "/proc/%d/root/proc/%d/fd", vm->pid, getpid());
	if (stat(path, &st))
		return why_set(why, EACCES, "process %d (%s) does not see /proc (chroot?): QEMU must see it to hand over its device state",
			       vm->pid, vm->comm);
	if (its & (UINT64_C(1) << CAP_SYS_PTRACE))
		return 0;
	if (vm->uid == geteuid() && !(ours & ~its))
		return 0;
	return why_set(why, EACCES, "process %d (%s) runs as uid %u with fewer rights than the agent and so cannot hand over its device state: run QEMU as root",
		       vm->pid, vm->comm, (unsigned int)vm->uid);
}

/* What procvm_find_qmp() collects. */
struct sockets {
	unsigned long *inodes;
	unsigned int nr;
};

static int collect_socket(void *arg, const char *fd, const char *link, struct why *why)
{
	struct sockets *s = arg;
	unsigned long inode, *more;

	(void)fd;
	if (sscanf(link, "socket:[%lu]", &inode) != 1)
		return 0;
	more = realloc(s->inodes, (s->nr + 1) * sizeof(*more));
	if (!more)
		return why_set(why, ENOMEM, "out of memory");
	s->inodes = more;
	more[s->nr++] = inode;
	return 0;
}

static bool is_ours(const struct sockets *s, unsigned long inode)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->inodes[i] == inode)
			return true;
	return false;
}

/* A name of the socket that we can use, from the name the process gave it. */
static bool socket_path(const struct procvm *vm, const char *name, char *path, size_t size)
{
	struct stat root, its;
	char link[64];
	int n;

	if (name[0] == '@') {
		n = snprintf(path, size, "%s", name);
		return same_ns(vm->pid, "net") && (size_t)n < size;
	}
	snprintf(link, sizeof(link), "/proc/%d/root", vm->pid);
	if (name[0] != '/')
		n = snprintf(path, size, "/proc/%d/cwd/%s", vm->pid, name);
	else if (!stat("/", &root) && !stat(link, &its) && root.st_dev == its.st_dev &&
		 root.st_ino == its.st_ino && same_ns(vm->pid, "mnt"))
		n = snprintf(path, size, "%s", name);
	else
		n = snprintf(path, size, "%s%s", link, name);
	return (size_t)n < size;
}

/* Sockets of a process that listen: how many, and which first one says nothing. */
struct listeners {
	unsigned int nr;
	char silent[128];
};

/* Looks for one that greets. Returns 0 and its @path, -ENOENT or -ESRCH. */
static int find_greeter(const struct procvm *vm, const struct sockets *s, unsigned int greet_ms,
			char *path, size_t size, struct listeners *found)
{
	unsigned long flags, inode;
	int ret = -ENOENT, n;
	char line[512];
	FILE *f;

	f = open_text(vm->pid, "net/unix");
	if (!f)
		return -ESRCH;
	memset(found, 0, sizeof(*found));
	while (ret && fgets(line, sizeof(line), f)) {
		n = 0;
		if (sscanf(line, "%*x: %*x %*x %lx %*x %*x %lu %n", &flags, &inode, &n) != 2 ||
		    !n || !(flags & UNIX_LISTENS) || !is_ours(s, inode))
			continue;
		line[strcspn(line, "\n")] = '\0';
		found->nr++;
		if (!line[n] || !socket_path(vm, line + n, path, size))
			continue;
		switch (qmp_greets(path, greet_ms)) {
		case 1:
			ret = 0;
			break;
		case -ETIMEDOUT:
			if (!found->silent[0])
				snprintf(found->silent, sizeof(found->silent), "%.100s", line + n);
			break;
		}
	}
	fclose(f);
	return ret;
}

int procvm_find_qmp(const struct procvm *vm, char *path, size_t size, struct why *why)
{
	struct sockets s = { 0 };
	struct listeners found;
	int ret;

	ret = each_file(vm->pid, collect_socket, &s, why);
	if (ret)
		goto out;
	ret = find_greeter(vm, &s, GREET_MS, path, size, &found);
	if (ret == -ENOENT && found.silent[0])
		ret = find_greeter(vm, &s, GREET_LATE_MS, path, size, &found);
	if (!ret)
		goto out;
	if (ret == -ESRCH)
		ret = why_set(why, ESRCH, "process %d is gone", vm->pid);
	else if (found.silent[0])
		ret = why_set(why, EBUSY, "no QMP socket of process %d (%s) greets; %s stays silent: another client may hold it (close it, give --qmp PATH, or start QEMU with one more -qmp unix:PATH,server=on,wait=off)",
			      vm->pid, vm->comm, found.silent);
	else
		ret = why_set(why, ENOENT, "process %d (%s) listens on %s: start QEMU with -qmp unix:PATH,server=on,wait=off, or give --qmp PATH",
			      vm->pid, vm->comm,
			      found.nr ? "unix sockets but none is QMP" : "no unix socket");
out:
	free(s.inodes);
	return ret;
}
