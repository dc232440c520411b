// SPDX-License-Identifier: GPL-2.0
/* qmp: what comes over QEMU's socket, in one piece or in two. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "qmpsocket.h"

/* Less than a socket takes at once. */
#define MOST	65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qmpsocket s = { 0 };
	struct json_object *msg;
	size_t first, i;
	int fds[2], got;

	if (!size || size > MOST)
		return 0;
	MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds));
	MUST(!qmpsocket_adopt(&s, fds[0]));
	first = data[0] * size / 256;
	for (i = 0; i < 2; i++) {
		size_t len = i ? size - first : first;

		MUST(!len || write(fds[1], data + (i ? first : 0), len) == (ssize_t)len);
		if (i)
			close(fds[1]);
		while ((got = qmpsocket_next(&s, &msg)) > 0) {
			MUST(json_object_is_type(msg, json_type_object));
			json_object_put(msg);
		}
		if (got)
			break;
	}
	MUST(got == -EPIPE || got == -EPROTO);
	if (!i)
		close(fds[1]);
	qmpsocket_close(&s);
	return 0;
}
