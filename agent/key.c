// SPDX-License-Identifier: GPL-2.0
/*
 * key: read whole or refused, written whole or not at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "key.h"

#define KEY_DIGITS	(2 * KEY_BYTES)

static int key_name(struct key *key, struct why *why)
{
	uint8_t sum[32];
	unsigned int i;

	if (gnutls_hash_fast(GNUTLS_DIG_SHA256, key->bytes, sizeof(key->bytes), sum))
		return why_set(why, EIO, "cannot make a SHA-256 sum");
	for (i = 0; i < (KEY_ID_LEN - 1) / 2; i++)
		sprintf(key->id + 2 * i, "%02x", sum[i]);
	return 0;
}

/* Whether nobody else could have read or written it. */
static int key_private(int fd, const char *path, struct why *why)
{
	struct stat st;

	if (fstat(fd, &st))
		return why_set(why, errno, "cannot look at %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return why_set(why, EINVAL, "%s is no file", path);
	if (st.st_uid && st.st_uid != geteuid())
		return why_set(why, EPERM, "%s belongs to user %u; chown root it, after a look at it",
			       path, (unsigned int)st.st_uid);
	if (st.st_mode & 077)
		return why_set(why, EPERM, "others can read or write %s (mode %04o): make a new key, with vmrepl-agent keygen",
			       path, st.st_mode & 07777);
	return 0;
}

int key_load(struct key *key, const char *path, struct why *why)
{
	/* One more, to see that there is no more. */
	char text[KEY_DIGITS + 2];
	gnutls_datum_t hex = { .data = (unsigned char *)text, .size = KEY_DIGITS };
	size_t size = sizeof(key->bytes);
	ssize_t n;
	int fd, err;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return why_set(why, errno, "cannot read the key %s: %s%s", path, strerror(errno),
			       errno == EACCES ? "; run as root" : "");
	err = key_private(fd, path, why);
	if (err)
		goto out;
	n = read(fd, text, sizeof(text));
	if (n < 0)
		err = why_set(why, errno, "cannot read the key %s: %s", path, strerror(errno));
	else if (n != KEY_DIGITS + 1 || text[KEY_DIGITS] != '\n' ||
		 gnutls_hex_decode(&hex, key->bytes, &size) || size != sizeof(key->bytes))
		err = why_set(why, EINVAL, "%s is no key: that is a line of %d hexadecimal digits; vmrepl-agent keygen makes one",
			      path, KEY_DIGITS);
	else
		err = key_name(key, why);
	explicit_bzero(text, sizeof(text));
out:
	close(fd);
	if (err)
		explicit_bzero(key, sizeof(*key));
	return err;
}

static int key_random(struct key *key, struct why *why)
{
	if (getrandom(key->bytes, sizeof(key->bytes), 0) != sizeof(key->bytes))
		return why_set(why, EIO, "the kernel gives no random bytes");
	return key_name(key, why);
}

/* Returns 0 or -errno. */
static int key_write(const struct key *key, int fd)
{
	char text[KEY_DIGITS + 2];
	unsigned int i;
	int err = 0;

	for (i = 0; i < KEY_BYTES; i++)
		sprintf(text + 2 * i, "%02x", key->bytes[i]);
	text[KEY_DIGITS] = '\n';
	errno = ENOSPC;
	if (write(fd, text, KEY_DIGITS + 1) != KEY_DIGITS + 1 || fsync(fd))
		err = -errno;
	explicit_bzero(text, sizeof(text));
	return err;
}

int key_make(struct key *key, const char *path, struct why *why)
{
	char copy[PATH_MAX];
	int fd, err;

	err = key_random(key, why);
	if (err)
		return err;
	if ((size_t)snprintf(copy, sizeof(copy), "%s", path) >= sizeof(copy))
		return why_set(why, ENAMETOOLONG, "the path is too long");
	if (mkdir(dirname(copy), 0700) && errno != EEXIST)
		return why_set(why, errno, "cannot make the directory of %s: %s", path,
			       strerror(errno));
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EEXIST)
		return why_set(why, EEXIST, "%s is there already, and maybe in use; remove it first, if it is not",
			       path);
	if (fd < 0)
		return why_set(why, errno, "cannot make %s: %s", path, strerror(errno));
	err = key_write(key, fd);
	close(fd);
	if (err) {
		unlink(path);
		why_set(why, -err, "cannot write %s: %s", path, strerror(-err));
	}
	return err;
}
