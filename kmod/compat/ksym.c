// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kprobes.h>

#include "ksym.h"

#define VMREPL_KSYM_DEFINE(name) DEFINE_STATIC_CALL_NULL(vmrepl_##name, name);
VMREPL_KSYMS(VMREPL_KSYM_DEFINE)

/* The prototype that kallsyms_lookup_name() has in every supported kernel. */
unsigned long kallsyms_lookup_name(const char *name);
DEFINE_STATIC_CALL_NULL(vmrepl_kallsyms_lookup_name, kallsyms_lookup_name);

int vmrepl_ksym_init(void)
{
	struct kprobe kp = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long addr;
	int err;

	err = register_kprobe(&kp);
	if (err) {
		pr_err("kallsyms_lookup_name cannot be found with a kprobe (%d): this kernel has no CONFIG_KPROBES or no CONFIG_KALLSYMS\n",
		       err);
		return err;
	}
	/* With IBT a probe sits behind the endbr64 of its function. */
	addr = (unsigned long)kp.addr & ~0xfUL;
	unregister_kprobe(&kp);

	static_call_update(vmrepl_kallsyms_lookup_name,
			   (typeof(&kallsyms_lookup_name))addr);
	return 0;
}

/* One name each, beside its key: a static call's key is known when compiling. */
#define VMREPL_KSYM_BIND(name) do {					\
	addr = static_call(vmrepl_kallsyms_lookup_name)(#name);		\
	if (!addr) {							\
		*missing = #name;					\
		return -ENOENT;						\
	}								\
	if (static_call_query(vmrepl_##name) != (void *)addr)		\
		static_call_update(vmrepl_##name,			\
				   (typeof(&name))addr);		\
} while (0);

int vmrepl_ksym_bind(const char **missing)
{
	unsigned long addr;

	VMREPL_KSYMS(VMREPL_KSYM_BIND)
	return 0;
}
