// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kallsyms.h>
#include <linux/kprobes.h>

#include "ksym.h"

#define VMREPL_KSYM(name) DEFINE_STATIC_CALL_NULL(vmrepl_##name, name)
#include "ksyms.h"

DEFINE_STATIC_CALL_NULL(vmrepl_kallsyms_lookup_name, kallsyms_lookup_name);

/* Whether the function @name begins at @addr: finding that out is cheap. */
static bool is_there(const char *name, unsigned long addr)
{
	char symbol[KSYM_SYMBOL_LEN];
	size_t len = strlen(name);

	sprint_symbol(symbol, addr);
	return !strncmp(symbol, name, len) &&
	       !strncmp(symbol + len, "+0x0/", strlen("+0x0/"));
}

unsigned long vmrepl_ksym_addr(const char *name, unsigned long last)
{
	if (last && is_there(name, last))
		return last;
	return static_call(vmrepl_kallsyms_lookup_name)(name);
}

static void *find(const char *name, void *last, const char **missing)
{
	void *addr = (void *)vmrepl_ksym_addr(name, (unsigned long)last);

	if (!addr && !*missing)
		*missing = name;
	return addr;
}

/* KVM may not be loaded yet; its names are those that a VM needs at its attach. */
static const char *missing_name(void)
{
	const char *missing = NULL;

	if (!find("file_is_kvm", NULL, &missing))
		return NULL;
#define VMREPL_KSYM(name) find(#name, NULL, &missing)
#include "ksyms.h"
	return missing;
}

int vmrepl_ksym_init(void)
{
	struct kprobe kp = { .symbol_name = "kallsyms_lookup_name" };
	const char *missing;
	unsigned long addr;
	int err;

	err = register_kprobe(&kp);
	if (err) {
		pr_err("kallsyms_lookup_name cannot be found with a kprobe (%d): this kernel has no CONFIG_KPROBES or no CONFIG_KALLSYMS\n",
		       err);
		return err;
	}
	addr = (unsigned long)kp.addr;
	unregister_kprobe(&kp);
	/* With IBT a probe sits behind the endbr64 of its function. */
	if (compat_is_endbr(*(u32 *)(addr - sizeof(u32))))
		addr -= sizeof(u32);

	static_call_update(vmrepl_kallsyms_lookup_name,
			   (typeof(kallsyms_lookup_name) *)addr);
	missing = missing_name();
	if (missing) {
		pr_err("this kernel has no %s: it is not one that vmrepl supports\n",
		       missing);
		return -ENOENT;
	}
	return 0;
}

int vmrepl_ksym_bind(const char **missing)
{
	void *addr;

	*missing = NULL;
	/* One name each, beside its key: a key is known when compiling. */
#define VMREPL_KSYM(name) do {						\
	addr = find(#name, static_call_query(vmrepl_##name), missing);	\
	if (addr && static_call_query(vmrepl_##name) != addr)		\
		static_call_update(vmrepl_##name, (typeof(name) *)addr);	\
} while (0)
#include "ksyms.h"
	return *missing ? -ENOENT : 0;
}

bool vmrepl_ksym_flag(const char *name, bool otherwise)
{
	const bool *flag =
		(void *)static_call(vmrepl_kallsyms_lookup_name)(name);

	return flag ? READ_ONCE(*flag) : otherwise;
}
