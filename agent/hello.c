// SPDX-License-Identifier: GPL-2.0
/*
 * hello: JSON, because it is once a connection and people read it in captures.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devstate.h"
#include "frame.h"
#include "hello.h"
#include "link.h"
#include "options.h"

/*
 * What @fence, @timeout_ms, the key for sums, streams and RDMA, which come later, can make
 * the text longer by; of a sentence each byte may need two.
 */
#define HELLO_LATER	(24u + 16u + PAGESUMS_KEY_LEN + 80u + 2 * HELLO_WHY_LEN)

static uint64_t hello_big_bytes(const struct ramblock_table *t)
{
	uint64_t bytes = 0;
	unsigned int i;

	for (i = 0; i < t->nr; i++)
		if (t->blocks[i].big)
			bytes += t->blocks[i].size;
	return bytes;
}

/* A text of a QMP answer; what the other side would not take is replaced. */
static void hello_copy_text(struct json_object *o, const char *field, char *text, size_t size)
{
	struct json_object *v;
	char *p;

	text[0] = '\0';
	if (!json_object_object_get_ex(o, field, &v) || !json_object_is_type(v, json_type_string))
		return;
	snprintf(text, size, "%s", json_object_get_string(v));
	for (p = text; *p; p++)
		if (*p < 0x20 || *p > 0x7e)
			*p = '?';
}

/* Who the VM is, in the words of its operator. */
static int hello_read_identity(struct hello *hello, struct qmp *qmp, struct why *why)
{
	struct json_object *o = NULL;
	int err;

	err = qmp_command(qmp, "query-name", NULL, &o, why);
	if (err)
		return err;
	hello_copy_text(o, "name", hello->name, sizeof(hello->name));
	json_object_put(o);
	o = NULL;
	err = qmp_command(qmp, "query-uuid", NULL, &o, why);
	if (err)
		return err;
	hello_copy_text(o, "UUID", hello->uuid, sizeof(hello->uuid));
	json_object_put(o);
	return 0;
}

int hello_read(struct hello *hello, struct qmp *qmp, struct why *why)
{
	struct json_object *cpus = NULL;
	int err;

	memset(hello, 0, sizeof(*hello));
	ramblock_init(&hello->blocks);
	snprintf(hello->qemu, sizeof(hello->qemu), "%s", qmp_version(qmp));
	qmp_version_parts(qmp, &hello->qemu_major, &hello->qemu_minor);
	err = devstate_machine(qmp, hello->machine, sizeof(hello->machine), why);
	if (err)
		return err;
	err = hello_read_identity(hello, qmp, why);
	if (err)
		return err;
	err = qmp_command(qmp, "query-cpus-fast", NULL, &cpus, why);
	if (err)
		return err;
	if (json_object_is_type(cpus, json_type_array))
		hello->nr_vcpus = json_object_array_length(cpus);
	json_object_put(cpus);
	err = devices_read(&hello->devices, qmp, why);
	if (err)
		return err;
	err = ramblock_read(&hello->blocks, qmp, why);
	if (err)
		return err;
	hello->ram_bytes = hello_big_bytes(&hello->blocks);
	return hello_fits(hello, why);
}

void hello_free(struct hello *hello)
{
	devices_free(&hello->devices);
	ramblock_free(&hello->blocks);
}

static void hello_add_u64(struct json_object *o, const char *name, uint64_t v)
{
	json_object_object_add(o, name, json_object_new_uint64(v));
}

static void hello_add_token(struct json_object *o, const uint8_t *token)
{
	char text[2 * FRAME_TOKEN_BYTES + 1];
	unsigned int i;

	for (i = 0; i < FRAME_TOKEN_BYTES; i++)
		snprintf(text + 2 * i, 3, "%02x", token[i]);
	json_object_object_add(o, "token", json_object_new_string(text));
}

static struct json_object *hello_write_streams(const struct hello *hello)
{
	struct json_object *o = json_object_new_object();

	hello_add_u64(o, "nr", hello->streams);
	hello_add_token(o, hello->streams_token);
	return o;
}

static struct json_object *hello_write_rdma(const struct hello *hello)
{
	struct json_object *o = json_object_new_object();

	if (hello->rdma_why[0])
		json_object_object_add(o, "why", json_object_new_string(hello->rdma_why));
	if (!hello->offered)
		return o;
	hello_add_u64(o, "port", hello->offer.port);
	hello_add_u64(o, "slots", hello->offer.slots);
	hello_add_u64(o, "key", hello->offer.key);
	hello_add_u64(o, "address", hello->offer.address);
	hello_add_token(o, hello->offer.token);
	return o;
}

char *hello_write(const struct hello *hello, const char *sums_key)
{
	struct json_object *o = json_object_new_object();
	struct json_object *blocks = json_object_new_array();
	struct json_object *devices = json_object_new_array();
	unsigned int i;
	char *text;

	hello_add_u64(o, "protocol", FRAME_VERSION);
	json_object_object_add(o, "agent", json_object_new_string(AGENT_VERSION));
	json_object_object_add(o, "qemu", json_object_new_string(hello->qemu));
	hello_add_u64(o, "qemu-major", (uint64_t)hello->qemu_major);
	hello_add_u64(o, "qemu-minor", (uint64_t)hello->qemu_minor);
	json_object_object_add(o, "machine", json_object_new_string(hello->machine));
	if (hello->name[0])
		json_object_object_add(o, "name", json_object_new_string(hello->name));
	json_object_object_add(o, "uuid", json_object_new_string(hello->uuid));
	hello_add_u64(o, "ram-bytes", hello->ram_bytes);
	hello_add_u64(o, "vcpus", hello->nr_vcpus);
	json_object_object_add(o, "fence", json_object_new_boolean(hello->fence));
	hello_add_u64(o, "timeout-ms", hello->timeout_ms);
	if (sums_key)
		json_object_object_add(o, "sums-key", json_object_new_string(sums_key));
	for (i = 0; i < hello->devices.nr; i++)
		json_object_array_add(devices, json_object_new_string(hello->devices.names[i]));
	json_object_object_add(o, "devices", devices);
	for (i = 0; i < hello->blocks.nr; i++) {
		const struct ramblock *block = &hello->blocks.blocks[i];
		struct json_object *b = json_object_new_object();

		json_object_object_add(b, "name", json_object_new_string(block->name));
		hello_add_u64(b, "bytes", block->size);
		json_object_object_add(b, "ram", json_object_new_boolean(block->big));
		json_object_array_add(blocks, b);
	}
	json_object_object_add(o, "blocks", blocks);
	if (hello->streams)
		json_object_object_add(o, "streams", hello_write_streams(hello));
	if (hello->rdma)
		json_object_object_add(o, "rdma", hello_write_rdma(hello));
	text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return text;
}

int hello_fits(const struct hello *hello, struct why *why)
{
	char *text = hello_write(hello, NULL);
	size_t len = text ? strlen(text) : 0;

	free(text);
	if (!text)
		return why_set(why, ENOMEM, "out of memory");
	if (len + HELLO_LATER > FRAME_JSON_MAX)
		return why_set(why, E2BIG, "the guest has too many devices and memory blocks: the list of them is %zu bytes, %u can be told to the other side; use fewer, or shorter ids",
			       len, FRAME_JSON_MAX);
	return 0;
}

static int hello_get_u64(struct json_object *o, const char *name, uint64_t max, uint64_t *v,
			 struct why *why)
{
	struct json_object *field;

	if (!json_object_object_get_ex(o, name, &field) ||
	    !json_object_is_type(field, json_type_int) || json_object_get_int64(field) < 0)
		return why_set(why, EPROTO, "its greeting has no number '%s'", name);
	*v = (uint64_t)json_object_get_int64(field);
	if (*v > max)
		return why_set(why, EPROTO, "'%s' in its greeting is out of range", name);
	return 0;
}

static int hello_get_bool(struct json_object *o, const char *name, bool *v, struct why *why)
{
	struct json_object *field;

	if (!json_object_object_get_ex(o, name, &field) ||
	    !json_object_is_type(field, json_type_boolean))
		return why_set(why, EPROTO, "its greeting has no boolean '%s'", name);
	*v = json_object_get_boolean(field);
	return 0;
}

/* Only what can go to a terminal and into a stream. */
static int hello_take_text(struct json_object *field, const char *name, char *text, size_t size,
			   struct why *why)
{
	const char *s, *p;

	if (!json_object_is_type(field, json_type_string))
		return why_set(why, EPROTO, "its greeting has no text '%s'", name);
	s = json_object_get_string(field);
	if (!*s || strlen(s) >= size || strlen(s) != (size_t)json_object_get_string_len(field))
		return why_set(why, EPROTO, "'%s' in its greeting is too long or empty", name);
	for (p = s; *p; p++)
		if (*p < 0x20 || *p > 0x7e)
			return why_set(why, EPROTO, "'%s' in its greeting is not plain text", name);
	memcpy(text, s, strlen(s) + 1);
	return 0;
}

static int hello_get_text(struct json_object *o, const char *name, char *text, size_t size,
			  struct why *why)
{
	struct json_object *field = NULL;

	json_object_object_get_ex(o, name, &field);
	return hello_take_text(field, name, text, size, why);
}

static int hello_parse_devices(struct hello *hello, struct json_object *o, struct why *why)
{
	struct json_object *list;
	char name[DEVICES_NAME_LEN];

	if (!json_object_object_get_ex(o, "devices", &list) ||
	    !json_object_is_type(list, json_type_array))
		return why_set(why, EPROTO, "its greeting has no list 'devices'");
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		int err = hello_take_text(json_object_array_get_idx(list, i), "devices", name,
					  sizeof(name), why);

		if (err)
			return err;
		if (devices_add(&hello->devices, name))
			return why_set(why, EPROTO, "its greeting has too many devices");
	}
	return 0;
}

static int hello_parse_blocks(struct hello *hello, struct json_object *o, struct why *why)
{
	struct json_object *blocks;
	size_t i;

	if (!json_object_object_get_ex(o, "blocks", &blocks) ||
	    !json_object_is_type(blocks, json_type_array) ||
	    !json_object_array_length(blocks))
		return why_set(why, EPROTO, "its greeting has no RAM blocks");
	for (i = 0; i < json_object_array_length(blocks); i++) {
		struct json_object *b = json_object_array_get_idx(blocks, i);
		char name[RAMBLOCK_NAME_LEN];
		uint64_t bytes;
		bool big;
		int err;

		if (!json_object_is_type(b, json_type_object))
			return why_set(why, EPROTO, "a RAM block in its greeting is no object");
		err = hello_get_text(b, "name", name, sizeof(name), why);
		if (!err)
			err = hello_get_u64(b, "bytes", 1ull << 46, &bytes, why);
		if (!err)
			err = hello_get_bool(b, "ram", &big, why);
		if (err)
			return err;
		if (ramblock_add(&hello->blocks, name, bytes, big) != (int)i)
			return why_set(why, EPROTO, "RAM block '%s' in its greeting is not valid", name);
	}
	return 0;
}

static int hello_parse_token(struct json_object *o, uint8_t *token, struct why *why)
{
	char text[2 * FRAME_TOKEN_BYTES + 1];
	unsigned int i;
	int err;

	err = hello_get_text(o, "token", text, sizeof(text), why);
	if (err)
		return err;
	if (strspn(text, "0123456789abcdef") != sizeof(text) - 1)
		return why_set(why, EPROTO, "'token' in its greeting is no token");
	for (i = 0; i < FRAME_TOKEN_BYTES; i++)
		sscanf(text + 2 * i, "%2hhx", &token[i]);
	return 0;
}

/* A primary's has a token, too, which says nothing. */
static int hello_parse_streams(struct hello *hello, struct json_object *o, struct why *why)
{
	struct json_object *s;
	int err;

	if (!json_object_object_get_ex(o, "streams", &s))
		return 0;
	if (!json_object_is_type(s, json_type_object))
		return why_set(why, EPROTO, "'streams' in its greeting is no object");
	err = hello_get_u64(s, "nr", LINK_LANES_MAX, &hello->streams, why);
	return err ? err : hello_parse_token(s, hello->streams_token, why);
}

/* What is about RDMA; a standby that is without it says nothing. */
static int hello_parse_rdma(struct hello *hello, struct json_object *o, struct why *why)
{
	uint64_t port, slots, key;
	struct json_object *r;
	int err;

	if (!json_object_object_get_ex(o, "rdma", &r))
		return 0;
	if (!json_object_is_type(r, json_type_object))
		return why_set(why, EPROTO, "'rdma' in its greeting is no object");
	hello->rdma = true;
	if (json_object_object_get_ex(r, "why", NULL))
		return hello_get_text(r, "why", hello->rdma_why, sizeof(hello->rdma_why), why);
	if (!json_object_object_get_ex(r, "port", NULL))
		return 0;
	err = hello_get_u64(r, "port", UINT16_MAX, &port, why);
	if (!err)
		err = hello_get_u64(r, "slots", FABRIC_SLOTS_MAX, &slots, why);
	if (!err)
		err = hello_get_u64(r, "key", UINT32_MAX, &key, why);
	if (!err)
		err = hello_get_u64(r, "address", INT64_MAX, &hello->offer.address, why);
	if (!err)
		err = hello_parse_token(r, hello->offer.token, why);
	if (err)
		return err;
	if (!port || !slots)
		return why_set(why, EPROTO, "what its greeting offers of RDMA is out of range");
	hello->offer.port = (uint16_t)port;
	hello->offer.slots = (uint32_t)slots;
	hello->offer.key = (uint32_t)key;
	hello->offered = true;
	return 0;
}

int hello_parse(struct hello *hello, const void *text, size_t len, struct why *why)
{
	struct json_tokener *tok = json_tokener_new_ex(8);
	struct json_object *o;
	uint64_t protocol, major, minor;
	char agent[64];
	int err;

	memset(hello, 0, sizeof(*hello));
	ramblock_init(&hello->blocks);
	if (!tok)
		return why_set(why, ENOMEM, "out of memory");
	o = json_tokener_parse_ex(tok, text, (int)len);
	if (json_tokener_get_error(tok) != json_tokener_success ||
	    !json_object_is_type(o, json_type_object)) {
		err = why_set(why, EPROTO, "its greeting is no JSON object");
		goto out;
	}
	err = hello_get_u64(o, "protocol", UINT32_MAX, &protocol, why);
	if (err)
		goto out;
	if (protocol != FRAME_VERSION) {
		err = why_set(why, EPROTO,
			      "it speaks protocol %llu, we speak %u; install the same vmrepl-agent on both hosts",
			      (unsigned long long)protocol, FRAME_VERSION);
		goto out;
	}
	err = hello_get_text(o, "agent", agent, sizeof(agent), why);
	if (!err)
		err = hello_get_text(o, "qemu", hello->qemu, sizeof(hello->qemu), why);
	if (!err)
		err = hello_get_u64(o, "qemu-major", 1000, &major, why);
	if (!err)
		err = hello_get_u64(o, "qemu-minor", 1000, &minor, why);
	if (!err)
		err = hello_get_text(o, "machine", hello->machine, sizeof(hello->machine), why);
	if (!err && json_object_object_get_ex(o, "name", NULL))
		err = hello_get_text(o, "name", hello->name, sizeof(hello->name), why);
	if (!err)
		err = hello_get_text(o, "uuid", hello->uuid, sizeof(hello->uuid), why);
	if (!err)
		err = hello_get_u64(o, "ram-bytes", 1ull << 46, &hello->ram_bytes, why);
	if (!err)
		err = hello_get_u64(o, "vcpus", 65536, &hello->nr_vcpus, why);
	if (!err)
		err = hello_get_bool(o, "fence", &hello->fence, why);
	if (!err)
		err = hello_get_u64(o, "timeout-ms", 600000, &hello->timeout_ms, why);
	if (!err && json_object_object_get_ex(o, "sums-key", NULL))
		err = hello_get_text(o, "sums-key", hello->sums_key, sizeof(hello->sums_key),
				     why);
	if (!err)
		err = hello_parse_devices(hello, o, why);
	if (!err)
		err = hello_parse_blocks(hello, o, why);
	if (!err)
		err = hello_parse_streams(hello, o, why);
	if (!err)
		err = hello_parse_rdma(hello, o, why);
	if (err)
		goto out;
	if (hello->timeout_ms < 100) {
		err = why_set(why, EPROTO, "'timeout-ms' in its greeting is out of range");
		goto out;
	}
	hello->qemu_major = (int)major;
	hello->qemu_minor = (int)minor;
out:
	json_object_put(o);
	json_tokener_free(tok);
	return err;
}

int hello_match(struct hello *primary, const struct hello *standby, struct why *why)
{
	const char *device;
	bool ours;

	if (strcmp(primary->machine, standby->machine))
		return why_set(why, EINVAL,
			       "machine types differ: %s on the primary, %s on the standby; start the standby's QEMU with -machine %s",
			       primary->machine, standby->machine, primary->machine);
	if (standby->qemu_major < primary->qemu_major)
		return why_set(why, EINVAL,
			       "the standby's QEMU %s is older than the primary's %s; install the same version or a newer one",
			       standby->qemu, primary->qemu);
	device = devices_differ(&primary->devices, &standby->devices, &ours);
	if (device)
		return why_set(why, EINVAL,
			       "only the %s's QEMU has a device %s: start both with the same devices, or plug the same into both",
			       ours ? "primary" : "standby", device);
	if (primary->ram_bytes != standby->ram_bytes)
		return why_set(why, EINVAL,
			       "RAM sizes differ: %llu MiB on the primary, %llu MiB on the standby; start the standby's QEMU with the same -m",
			       (unsigned long long)(primary->ram_bytes >> 20),
			       (unsigned long long)(standby->ram_bytes >> 20));
	if (primary->nr_vcpus != standby->nr_vcpus)
		return why_set(why, EINVAL,
			       "vCPU counts differ: %llu on the primary, %llu on the standby; start the standby's QEMU with the same -smp",
			       (unsigned long long)primary->nr_vcpus,
			       (unsigned long long)standby->nr_vcpus);
	if (primary->fence != standby->fence)
		return why_set(why, EINVAL,
			       "only the %s has a --fence-command; give one to both sides or to neither",
			       primary->fence ? "primary" : "standby");
	if (strcmp(primary->uuid, standby->uuid))
		return why_set(why, EINVAL,
			       "these are two VMs: the primary's UUID is %s, the standby's %s; start the standby's QEMU with the same -uuid",
			       primary->uuid, standby->uuid);
	if (strcmp(primary->name, standby->name))
		return why_set(why, EINVAL,
			       "these are two VMs: the primary's name is '%s', the standby's '%s'; start the standby's QEMU with the same -name",
			       primary->name, standby->name);
	return ramblock_match(&primary->blocks, &standby->blocks, why);
}
