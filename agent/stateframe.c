// SPDX-License-Identifier: GPL-2.0
#include <stdlib.h>

#include "stateframe.h"

static void stateframe_done(struct link_tx *tx, bool sent)
{
	(void)sent;
	/* @tx is the first member. */
	free(tx);
}

struct stateframe *stateframe_new(struct encoder *encoder, const uint8_t *state, size_t at,
				  size_t len)
{
	size_t n = len - at < ENCODER_PIECE ? len - at : ENCODER_PIECE;
	struct stateframe *frame = calloc(1, sizeof(*frame) + (encoder ? n : 0));
	size_t size = 0;

	if (!frame)
		return NULL;
	frame->head.bytes = (uint32_t)n;
	if (encoder)
		frame->head.kind = encoder_state(encoder, state + at, at, n, frame->data, &size);
	frame->tx.iov = frame->iov;
	frame->tx.n = 3;
	frame->tx.done = stateframe_done;
	frame->iov[1].iov_base = &frame->head;
	frame->iov[1].iov_len = sizeof(frame->head);
	frame->iov[2].iov_base = size ? frame->data : (void *)(uintptr_t)(state + at);
	frame->iov[2].iov_len = size ? size : n;
	return frame;
}
