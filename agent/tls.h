/* SPDX-License-Identifier: GPL-2.0 */
/*
 * tls: TLS 1.3 on a connected TCP socket. GnuTLS makes the handshake, the kernel does
 * the rest: after it the socket is read and written as before, also by io_uring.
 *
 * Both sides prove that they have the key (PSK with ECDHE, RFC 8446 section 2.2); what
 * they agree on is forgotten with the connection, so that a key that is stolen later
 * opens nothing that was recorded. The cipher is ChaCha20-Poly1305, which a connection
 * may use as long as it lasts: AES-GCM would want new keys after 2^24.5 records (RFC
 * 8446 section 5.5; 388 GB), and kernels before 6.14 cannot change them.
 *
 * All calls and callbacks are in the loop's thread.
 */
#ifndef VMREPL_TLS_H
#define VMREPL_TLS_H

#include <stdbool.h>

#include "key.h"
#include "loop.h"
#include "why.h"

struct tls;

/*
 * Whether the kernel can: tries it, so that its modules are there when they are needed.
 * Returns 0, or -errno with a sentence in @why.
 */
int tls_available(struct why *why);

/**
 * tls_begin() - make the handshake
 * @fd:      connected, nothing read or written yet; stays the caller's
 * @key:     must stay until @done
 * @dialled: we made the connection
 * @done:    called once, never from within: NULL, and the socket is ready; or a sentence
 *           about the other side, and the socket is of no more use. shutdown(2) of the
 *           socket brings it about
 *
 * Returns false where there is no memory.
 */
bool tls_begin(struct loop *loop, int fd, const struct key *key, bool dialled,
	       void (*done)(void *arg, const char *why), void *arg);

#endif /* VMREPL_TLS_H */
