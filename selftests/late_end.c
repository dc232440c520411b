// SPDX-License-Identifier: GPL-2.0
/*
 * late_end: LD_PRELOAD of a QEMU whose process takes two seconds more to end, as that of
 * a guest with hundreds of GiB does; its sockets are closed by then.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

static void __attribute__((destructor)) late_end(void)
{
	if (!strncmp(program_invocation_short_name, "qemu", 4))
		sleep(2);
}
