// SPDX-License-Identifier: GPL-2.0
/* devstate: a device state that a peer sends; one that is taken becomes a stream. */
#include <sys/stat.h>
#include <unistd.h>

#include "devstate.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *state = (uint8_t *)fuzz_text(data, size);
	struct ramblock_table none;
	struct why why = { .text = "" };
	struct stat st;
	int fd;

	/* fuzz_text()'s NUL is not of it. */
	state = realloc(state, size ? size : 1);
	devstate_sections(state, size);
	if (devstate_check(state, size, &why)) {
		MUST(why.text[0]);
	} else {
		ramblock_init(&none);
		fd = devstate_build("pc-q35-7.2", &none, state, size, &why);
		MUST(fd >= 0);
		MUST(!fstat(fd, &st) && st.st_size > 0);
		close(fd);
		ramblock_free(&none);
	}
	free(state);
	return 0;
}
