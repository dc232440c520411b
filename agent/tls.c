// SPDX-License-Identifier: GPL-2.0
/*
 * tls: the handshake, a step whenever the socket allows one, and its keys into the
 * kernel. The way to get at the keys is that of ktls-utils (RFC 8446's traffic keys as
 * gnutls_record_get_state() tells them; Documentation/networking/tls.rst).
 */
#include <errno.h>
#include <gnutls/gnutls.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tls.h"

/* Of old headers. */
#ifndef SOL_TLS
#define SOL_TLS	282
#endif

/* No record but data comes after the handshake: no tickets, no new keys. */
#define TLS_PRIORITY \
	"NONE:+VERS-TLS1.3:+CHACHA20-POLY1305:+AEAD:+GROUP-X25519:+ECDHE-PSK:+SIGN-ALL" \
	":%DISABLE_TLS13_COMPAT_MODE"

struct tls {
	struct loop *loop;
	int fd;
	const struct key *key;
	bool dialled;
	gnutls_session_t session;
	gnutls_psk_client_credentials_t client;
	gnutls_psk_server_credentials_t server;
	char theirs[KEY_ID_LEN];	/* another key's name, where they said it */
	void (*done)(void *arg, const char *why);
	void *arg;
};

/*
 * Both ends of a connection of our own, over the loopback interface. Returns 0 or -errno;
 * then nothing is to be closed.
 */
static int tls_try_pair(int fds[2])
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(in);
	int door, err = 0;

	door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fds[1] = -1;
	if (door < 0 || fds[0] < 0 || bind(door, (struct sockaddr *)&in, sizeof(in)) ||
	    listen(door, 1) || getsockname(door, (struct sockaddr *)&in, &len) ||
	    connect(fds[0], (struct sockaddr *)&in, sizeof(in)))
		err = -errno;
	if (!err)
		fds[1] = accept4(door, NULL, NULL, SOCK_CLOEXEC);
	if (!err && fds[1] < 0)
		err = -errno;
	if (err && fds[0] >= 0)
		close(fds[0]);
	if (door >= 0)
		close(door);
	return err;
}

int tls_available(struct why *why)
{
	/* With zeros as keys. */
	struct tls12_crypto_info_chacha20_poly1305 info = {
		.info.version = TLS_1_3_VERSION,
		.info.cipher_type = TLS_CIPHER_CHACHA20_POLY1305,
	};
	gnutls_priority_t priority;
	int fds[2], err;

	err = gnutls_priority_init(&priority, TLS_PRIORITY, NULL);
	if (err)
		return why_set(why, ENOTSUP, "GnuTLS on this host must not use what we need (%s): is ChaCha20-Poly1305 or PSK turned off in its configuration?",
			       gnutls_strerror(err));
	gnutls_priority_deinit(priority);
	err = tls_try_pair(fds);
	if (err)
		return why_set(why, -err, "cannot try TLS on the loopback interface: %s", strerror(-err));
	if (setsockopt(fds[0], SOL_TCP, TCP_ULP, "tls", sizeof("tls")))
		err = why_set(why, errno, "this kernel has no TLS (%s): 'modprobe tls', or a kernel with CONFIG_TLS",
			      strerror(errno));
	else if (setsockopt(fds[0], SOL_TLS, TLS_TX, &info, sizeof(info)))
		err = why_set(why, errno, "this kernel has no TLS 1.3 with ChaCha20-Poly1305 (%s): 'modprobe chacha20poly1305', or a kernel with CONFIG_CRYPTO_CHACHA20POLY1305",
			      strerror(errno));
	close(fds[0]);
	close(fds[1]);
	return err;
}

static ssize_t tls_push(gnutls_transport_ptr_t ptr, const void *data, size_t len)
{
	struct tls *tls = ptr;
	ssize_t n = send(tls->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0)
		gnutls_transport_set_errno(tls->session, errno);
	return n;
}

static ssize_t tls_pull(gnutls_transport_ptr_t ptr, void *data, size_t len)
{
	struct tls *tls = ptr;
	ssize_t n = recv(tls->fd, data, len, MSG_DONTWAIT);

	if (n < 0)
		gnutls_transport_set_errno(tls->session, errno);
	return n;
}

/* Of the side that was called: the key for the name that the other side says. */
static int tls_find_key(gnutls_session_t session, const char *name, gnutls_datum_t *key)
{
	struct tls *tls = gnutls_session_get_ptr(session);

	if (strcmp(name, tls->key->id)) {
		if (strlen(name) == KEY_ID_LEN - 1 &&
		    strspn(name, "0123456789abcdef") == KEY_ID_LEN - 1)
			strcpy(tls->theirs, name);
		return -1;
	}
	key->data = gnutls_malloc(KEY_BYTES);
	if (!key->data)
		return -1;
	memcpy(key->data, tls->key->bytes, KEY_BYTES);
	key->size = KEY_BYTES;
	return 0;
}

/* Returns 0 or an error of GnuTLS. */
static int tls_credentials(struct tls *tls)
{
	/* GnuTLS makes a copy. */
	gnutls_datum_t key = { .data = (unsigned char *)tls->key->bytes, .size = KEY_BYTES };
	int err;

	if (!tls->dialled) {
		err = gnutls_psk_allocate_server_credentials(&tls->server);
		if (err)
			return err;
		gnutls_psk_set_server_credentials_function(tls->server, tls_find_key);
		return gnutls_credentials_set(tls->session, GNUTLS_CRD_PSK, tls->server);
	}
	err = gnutls_psk_allocate_client_credentials(&tls->client);
	if (err)
		return err;
	err = gnutls_psk_set_client_credentials(tls->client, tls->key->id, &key,
						GNUTLS_PSK_KEY_RAW);
	if (err)
		return err;
	return gnutls_credentials_set(tls->session, GNUTLS_CRD_PSK, tls->client);
}

static void tls_free(struct tls *tls)
{
	if (tls->session)
		gnutls_deinit(tls->session);
	if (tls->client)
		gnutls_psk_free_client_credentials(tls->client);
	if (tls->server)
		gnutls_psk_free_server_credentials(tls->server);
	free(tls);
}

static void tls_end(struct tls *tls, const char *why)
{
	void (*done)(void *arg, const char *why) = tls->done;
	void *arg = tls->arg;

	tls_free(tls);
	done(arg, why);
}

/* Returns 0 or -errno. */
static int tls_to_kernel(struct tls *tls, bool read)
{
	struct tls12_crypto_info_chacha20_poly1305 info = {
		.info.version = TLS_1_3_VERSION,
		.info.cipher_type = TLS_CIPHER_CHACHA20_POLY1305,
	};
	gnutls_datum_t iv, key;
	int err = 0;

	if (gnutls_record_get_state(tls->session, read, NULL, &iv, &key, info.rec_seq) ||
	    iv.size != sizeof(info.iv) || key.size != sizeof(info.key))
		return -EPROTO;
	memcpy(info.iv, iv.data, sizeof(info.iv));
	memcpy(info.key, key.data, sizeof(info.key));
	if (setsockopt(tls->fd, SOL_TLS, read ? TLS_RX : TLS_TX, &info, sizeof(info)))
		err = -errno;
	explicit_bzero(&info, sizeof(info));
	return err;
}

static void tls_agreed(struct tls *tls)
{
	char why[WHY_LEN];
	int err = 0;

	/* Nothing else was offered; but this is what all hangs on. */
	if (gnutls_auth_get_type(tls->session) != GNUTLS_CRD_PSK)
		err = -EKEYREJECTED;
	if (!err && setsockopt(tls->fd, SOL_TCP, TCP_ULP, "tls", sizeof("tls")))
		err = -errno;
	if (!err)
		err = tls_to_kernel(tls, false);
	if (!err)
		err = tls_to_kernel(tls, true);
	if (err)
		snprintf(why, sizeof(why), "our kernel does not take over TLS: %s", strerror(-err));
	tls_end(tls, err ? why : NULL);
}

static void tls_failed(struct tls *tls, int err)
{
	char why[WHY_LEN];

	if (err == GNUTLS_E_UNEXPECTED_PACKET || err == GNUTLS_E_UNEXPECTED_PACKET_LENGTH ||
	    err == GNUTLS_E_RECORD_OVERFLOW || err == GNUTLS_E_UNSUPPORTED_VERSION_PACKET) {
		/* It would not understand an alert, and maybe take it for something. */
		tls_end(tls, "it does not speak TLS: it is no vmrepl-agent, or is --insecure");
		return;
	}
	if (tls->theirs[0]) {
		snprintf(why, sizeof(why), "it has another key (%s; ours is %s): copy one file to both hosts",
			 tls->theirs, tls->key->id);
		gnutls_alert_send(tls->session, GNUTLS_AL_FATAL, GNUTLS_A_UNKNOWN_PSK_IDENTITY);
		tls_end(tls, why);
		return;
	}
	if (err == GNUTLS_E_FATAL_ALERT_RECEIVED)
		snprintf(why, sizeof(why), "it does not take our key %s (%s): copy one file to both hosts",
			 tls->key->id, gnutls_alert_get_name(gnutls_alert_get(tls->session)));
	else if (err == GNUTLS_E_PREMATURE_TERMINATION || err == GNUTLS_E_PULL_ERROR ||
		 err == GNUTLS_E_PUSH_ERROR)
		snprintf(why, sizeof(why), "it closed the connection%s",
			 tls->dialled ? ": is it a vmrepl-agent, and not --insecure?" : "");
	else
		snprintf(why, sizeof(why), "no TLS with it: %s", gnutls_strerror(err));
	gnutls_alert_send_appropriate(tls->session, err);
	tls_end(tls, why);
}

static void tls_step(void *arg, int res)
{
	struct tls *tls = arg;
	int err;

	(void)res;
	err = gnutls_handshake(tls->session);
	if (err < 0 && !gnutls_error_is_fatal(err))
		loop_poll(tls->loop, tls->fd,
			  gnutls_record_get_direction(tls->session) ? POLLOUT : POLLIN,
			  tls_step, tls);
	else if (err)
		tls_failed(tls, err);
	else
		tls_agreed(tls);
}

bool tls_begin(struct loop *loop, int fd, const struct key *key, bool dialled,
	       void (*done)(void *arg, const char *why), void *arg)
{
	struct tls *tls = calloc(1, sizeof(*tls));

	if (!tls)
		return false;
	tls->loop = loop;
	tls->fd = fd;
	tls->key = key;
	tls->dialled = dialled;
	tls->done = done;
	tls->arg = arg;
	if (gnutls_init(&tls->session, (dialled ? GNUTLS_CLIENT : GNUTLS_SERVER) |
			GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS) ||
	    gnutls_priority_set_direct(tls->session, TLS_PRIORITY, NULL) ||
	    tls_credentials(tls)) {
		tls_free(tls);
		return false;
	}
	gnutls_session_set_ptr(tls->session, tls);
	gnutls_transport_set_ptr(tls->session, tls);
	gnutls_transport_set_push_function(tls->session, tls_push);
	gnutls_transport_set_pull_function(tls->session, tls_pull);
	gnutls_handshake_set_timeout(tls->session, GNUTLS_INDEFINITE_TIMEOUT);
	loop_poll(loop, fd, dialled ? POLLOUT : POLLIN, tls_step, tls);
	return true;
}
