// SPDX-License-Identifier: GPL-2.0
/*
 * Keep a session on a VM that does nothing, until standard input ends. While there
 * is one the module's hooks stay on, and attaching another costs little; that counts
 * where a processor is emulated instruction by instruction.
 */
#include <string.h>
#include <unistd.h>

#include "consumer.h"
#include "tap.h"
#include "vmm.h"

int main(void)
{
	struct vmm *v = vmm_create(VMM_RAM_ANON, 512, 1);
	struct consumer c;
	int err = consumer_attach(&c, getpid(), 0);
	char byte;

	if (err)
		tap_die("attach: %s %s", strerror(err), c.attach.why);
	tap_note("idle");
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	consumer_close(&c);
	vmm_destroy(v);
	return 0;
}
