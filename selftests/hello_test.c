// SPDX-License-Identifier: GPL-2.0
/*
 * hello_test: what the two sides tell each other is read with distrust, and what
 * does not fit is refused with a sentence.
 *
 *	hello_test
 *
 * Needs no privileges and no module.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "hello.h"
#include "tap.h"

#define MIB	(1ull << 20)
#define KEY	"0123456789abcdef"

static void fill(struct hello *hello)
{
	memset(hello, 0, sizeof(*hello));
	ramblock_init(&hello->blocks);
	strcpy(hello->qemu, "7.2.22");
	hello->qemu_major = 7;
	hello->qemu_minor = 2;
	strcpy(hello->machine, "pc-q35-7.2");
	strcpy(hello->name, "mail");
	strcpy(hello->uuid, "00000000-0000-0000-0000-000000000000");
	hello->ram_bytes = 256 * MIB;
	hello->nr_vcpus = 2;
	hello->timeout_ms = 2000;
	devices_add(&hello->devices, "virtio-net-pci net0");
	devices_add(&hello->devices, "virtio-rng-pci");
	ramblock_add(&hello->blocks, "pc.ram", 256 * MIB, true);
	ramblock_add(&hello->blocks, "pc.bios", 262144, false);
}

static bool parses(const char *text, size_t len)
{
	struct hello hello;
	struct why why = { .text = "" };
	int err = hello_parse(&hello, text, len, &why);

	hello_free(&hello);
	return err ? why.text[0] == '\0' : true;
}

/* Where @from is in @text, @to instead. */
static char *with(const char *text, const char *from, const char *to)
{
	const char *at = strstr(text, from);
	char *out = malloc(strlen(text) + strlen(to) + 1);

	if (!at || !out)
		tap_die("the greeting has no %s", from);
	memcpy(out, text, (size_t)(at - text));
	strcpy(out + (at - text), to);
	strcat(out, at + strlen(from));
	return out;
}

static void refused(const char *text, const char *from, const char *to)
{
	char *changed = with(text, from, to);

	tap_ok(!parses(changed, strlen(changed)), "%s is refused with a sentence", to);
	free(changed);
}

static void test_round_trip(const char *text)
{
	struct hello want, got;
	struct why why;
	bool ours;
	int err;

	fill(&want);
	err = hello_parse(&got, text, strlen(text), &why);
	tap_ok(!err && !strcmp(got.qemu, want.qemu) && !strcmp(got.machine, want.machine) &&
	       !strcmp(got.name, want.name) && !strcmp(got.uuid, want.uuid) &&
	       got.ram_bytes == want.ram_bytes && got.nr_vcpus == want.nr_vcpus &&
	       got.timeout_ms == want.timeout_ms && !strcmp(got.sums_key, KEY) &&
	       !devices_differ(&got.devices, &want.devices, &ours) &&
	       got.blocks.nr == 2 && !strcmp(got.blocks.blocks[1].name, "pc.bios") &&
	       got.blocks.blocks[0].big && !got.blocks.blocks[1].big, "what is written is read");
	hello_free(&got);
	hello_free(&want);
}

static void test_damaged(const char *text)
{
	size_t len = strlen(text), i;
	unsigned int wrong = 0;
	char *copy;

	for (i = 0; i < len; i++)
		wrong += parses(text, i);
	tap_ok(!wrong, "cut at each of %zu bytes: refused with a sentence", len);

	/* Some of these are as good as the original; none may do harm. */
	copy = strdup(text);
	for (i = 0; i < len * 8; i++) {
		copy[i / 8] ^= (char)(1u << i % 8);
		parses(copy, len);
		copy[i / 8] ^= (char)(1u << i % 8);
	}
	tap_ok(true, "each of %zu bits flipped: survived", len * 8);
	free(copy);
}

static void test_forged(const char *text)
{
	refused(text, "\"protocol\":5", "\"protocol\":4");
	refused(text, "\"protocol\":5", "\"protocol\":\"5\"");
	refused(text, "\"vcpus\":2", "\"vcpus\":-2");
	refused(text, "\"vcpus\":2", "\"vcpus\":1e300");
	refused(text, "\"timeout-ms\":2000", "\"timeout-ms\":0");
	refused(text, "\"pc-q35-7.2\"", "\"\\u001b[2J\"");
	refused(text, "\"pc-q35-7.2\"", "\"pc\\u0000q35\"");
	refused(text, "\"pc-q35-7.2\"", "[]");
	refused(text, "\"name\":\"mail\"", "\"name\":\"\"");
	refused(text, "\"uuid\":", "\"uuidd\":");
	refused(text, "\"" KEY "\"", "\"\"");
	refused(text, "\"" KEY "\"", "true");
	refused(text, "\"fence\":false", "\"fence\":0");
	refused(text, "\"bytes\":262144", "\"bytes\":0");
	refused(text, "\"bytes\":262144", "\"bytes\":4095");
	refused(text, "\"bytes\":262144", "\"bytes\":9223372036854775807");
	refused(text, "\"pc.bios\"", "\"pc.ram\"");
	refused(text, "\"virtio-rng-pci\"", "7");
	refused(text, "\"virtio-rng-pci\"", "\"\"");
	refused(text, "\"devices\":[", "\"devicez\":[");
	tap_ok(!parses("[]", 2) && !parses("null", 4) && !parses("{}", 2),
	       "no object, or an empty one");
}

/* What is about RDMA is read with the same distrust. */
static void test_rdma(void)
{
	struct hello want, got;
	struct why why;
	char *text;

	fill(&want);
	want.rdma = true;
	text = hello_write(&want, NULL);
	tap_ok(!hello_parse(&got, text, strlen(text), &why) && got.rdma && !got.offered &&
	       !got.rdma_why[0], "RDMA is wanted");
	hello_free(&got);
	free(text);

	strcpy(want.rdma_why, "there is no \"device\"");
	text = hello_write(&want, NULL);
	tap_ok(!hello_parse(&got, text, strlen(text), &why) && got.rdma && !got.offered &&
	       !strcmp(got.rdma_why, want.rdma_why), "it is not to be had: %s", got.rdma_why);
	hello_free(&got);
	refused(text, "\"why\":\"", "\"why\":7,\"not\":\"");
	free(text);

	want.rdma_why[0] = '\0';
	want.offered = true;
	want.offer = (struct fabric_offer) { .port = 4791, .slots = 32, .key = UINT32_MAX,
					     .address = 0x7f0123456000, .token = { 1, 2, 0xfe } };
	text = hello_write(&want, NULL);
	tap_ok(!hello_parse(&got, text, strlen(text), &why) && got.offered &&
	       got.offer.port == want.offer.port && got.offer.slots == want.offer.slots &&
	       got.offer.key == want.offer.key && got.offer.address == want.offer.address &&
	       !memcmp(got.offer.token, want.offer.token, FABRIC_TOKEN_BYTES),
	       "what is offered is read");
	hello_free(&got);
	test_damaged(text);
	refused(text, "\"rdma\":{", "\"rdma\":7,\"not\":{");
	refused(text, "\"port\":4791", "\"port\":0");
	refused(text, "\"port\":4791", "\"port\":65536");
	refused(text, "\"slots\":32", "\"slots\":0");
	refused(text, "\"slots\":32", "\"slots\":4097");
	refused(text, "\"key\":4294967295", "\"key\":4294967296");
	refused(text, "\"address\":", "\"address\":-");
	refused(text, "\"token\":\"0102fe", "\"token\":\"0102f");
	refused(text, "\"token\":\"0102fe", "\"token\":\"0102FE");
	refused(text, "\"token\":\"0102fe", "\"token\":\"0102fe0");
	free(text);
	hello_free(&want);
}

/* One field of the standby differs. */
#define DIFFERS(change, word) do {						\
	struct hello primary, standby;						\
	struct why why = { .text = "" };					\
	int err;								\
										\
	fill(&primary);								\
	fill(&standby);								\
	change;									\
	err = hello_match(&primary, &standby, &why);				\
	tap_ok(err < 0 && strstr(why.text, word), "refused: %s", why.text);	\
	hello_free(&primary);							\
	hello_free(&standby);							\
} while (0)

static void test_match(void)
{
	struct hello primary, standby;
	struct why why;

	fill(&primary);
	fill(&standby);
	standby.blocks.blocks[0].hva = 0x7f0000000000;
	standby.qemu_major = 10;
	tap_ok(!hello_match(&primary, &standby, &why) &&
	       primary.blocks.blocks[0].hva == 0x7f0000000000,
	       "what fits is accepted, also a newer QEMU, and gets its addresses");
	hello_free(&primary);
	hello_free(&standby);

	DIFFERS(strcpy(standby.machine, "pc-i440fx-7.2"), "machine");
	DIFFERS(standby.ram_bytes = 512 * MIB, "RAM");
	DIFFERS(standby.nr_vcpus = 1, "vCPU");
	DIFFERS(standby.qemu_major = 6, "older");
	DIFFERS(devices_add(&standby.devices, "pc-dimm dimm1"), "only the standby's QEMU has a device pc-dimm dimm1");
	DIFFERS(devices_add(&primary.devices, "pc-dimm dimm1"), "only the primary's QEMU has a device pc-dimm dimm1");
	DIFFERS(devices_add(&primary.devices, "virtio-rng-pci"), "virtio-rng-pci");
	DIFFERS(devices_free(&primary.devices), "virtio-net-pci net0");
	DIFFERS(strcpy(standby.name, "web"), "name is 'mail', the standby's 'web'");
	DIFFERS(standby.name[0] = '\0', "name is 'mail', the standby's ''");
	DIFFERS(standby.uuid[0] = '1', "UUID is 00000000-");
	DIFFERS(standby.fence = true, "--fence-command");
	DIFFERS(primary.fence = true, "--fence-command");
	DIFFERS(standby.blocks.blocks[0].size = 128 * MIB, "pc.ram");
	DIFFERS(strcpy(standby.blocks.blocks[1].name, "other"), "pc.bios");
}

/* What does not fit into a frame is known before anybody is connected to. */
static void test_large(void)
{
	char name[DEVICES_NAME_LEN];
	struct hello hello;
	struct why why;

	fill(&hello);
	tap_ok(!hello_fits(&hello, &why), "the usual list of devices fits");
	for (int i = 0; i < 508; i++) {
		snprintf(name, sizeof(name), "virtio-net-pci %0111d", i);
		if (devices_add(&hello.devices, name))
			tap_die("device %d", i);
	}
	tap_ok(hello_fits(&hello, &why) == -E2BIG && strstr(why.text, "too many devices"),
	       "one that is too long is refused: %s", why.text);
	hello_free(&hello);
}

int main(void)
{
	struct hello hello;
	char *text;

	fill(&hello);
	text = hello_write(&hello, KEY);
	hello_free(&hello);
	if (!text)
		tap_die("no memory");
	test_round_trip(text);
	test_damaged(text);
	test_forged(text);
	test_rdma();
	test_match();
	test_large();
	free(text);
	return tap_done();
}
