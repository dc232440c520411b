// SPDX-License-Identifier: GPL-2.0
/* hello: what a peer says of its VM; taken, it can be told to the next and be compared. */
#include "frame.h"
#include "fuzz.h"
#include "hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct hello ours;
	struct hello hello, again;
	struct why why = { .text = "" };
	char *text;

	if (!ours.nr_vcpus) {
		ramblock_init(&ours.blocks);
		strcpy(ours.qemu, "7.2.22");
		ours.qemu_major = 7;
		ours.qemu_minor = 2;
		strcpy(ours.machine, "pc-q35-7.2");
		strcpy(ours.name, "mail");
		strcpy(ours.uuid, "00000000-0000-0000-0000-000000000000");
		ours.ram_bytes = 256 << 20;
		ours.nr_vcpus = 2;
		ours.timeout_ms = 2000;
		devices_add(&ours.devices, "virtio-net-pci net0");
		ramblock_add(&ours.blocks, "pc.ram", 256 << 20, true);
		ramblock_add(&ours.blocks, "pc.bios", 262144, false);
	}
	if (size > FRAME_JSON_MAX)
		return 0;
	if (hello_parse(&hello, data, size, &why)) {
		MUST(why.text[0]);
		MUST(!fuzz_seed());
		hello_free(&hello);
		return 0;
	}
	text = hello_write(&hello, hello.sums_key[0] ? hello.sums_key : NULL);
	MUST(text);
	MUST(!hello_parse(&again, text, strlen(text), &why));
	MUST(again.nr_vcpus == hello.nr_vcpus && again.blocks.nr == hello.blocks.nr &&
	     !strcmp(again.machine, hello.machine) && !strcmp(again.sums_key, hello.sums_key));
	free(text);
	if (hello_match(&hello, &ours, &why))
		MUST(why.text[0]);
	hello_match(&ours, &again, &why);
	hello_free(&again);
	hello_free(&hello);
	return 0;
}
