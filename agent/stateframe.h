/* SPDX-License-Identifier: GPL-2.0 */
/*
 * stateframe: a STATE frame that is being made: a piece of a checkpoint's device state,
 * encoded where that pays.
 */
#ifndef VMREPL_STATEFRAME_H
#define VMREPL_STATEFRAME_H

#include <stddef.h>
#include <stdint.h>

#include "encoder.h"
#include "link.h"

/**
 * struct stateframe - one of them
 * @tx:   to be sent; it frees the frame when it is done
 * @iov:  @tx's: header, @head, data
 * @head: what the data is
 * @data: where it is encoded
 */
struct stateframe {
	struct link_tx tx;
	struct iovec iov[3];
	struct frame_state head;
	uint8_t data[];
};

/*
 * The piece at @at of the @len bytes of @state, which must stay until it is sent; the
 * next one is @head.bytes further. @encoder: NULL, it goes as it is. Returns NULL where
 * there is no memory.
 */
struct stateframe *stateframe_new(struct encoder *encoder, const uint8_t *state, size_t at,
				  size_t len);

#endif /* VMREPL_STATEFRAME_H */
