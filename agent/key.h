/* SPDX-License-Identifier: GPL-2.0 */
/*
 * key: the secret that the hosts of a cluster share, in a file of its owner's.
 *
 * The file is one line of 64 hexadecimal digits: 256 random bits.
 */
#ifndef VMREPL_KEY_H
#define VMREPL_KEY_H

#include <stdint.h>

#include "why.h"

#define KEY_FILE_DEFAULT	"/etc/vmrepl/key"
#define KEY_BYTES		32
#define KEY_ID_LEN		17

/**
 * struct key - a secret
 * @bytes: it
 * @id:    what it is called where people and the other side see it: 16 digits of its
 *         SHA-256, which tell nothing of it
 */
struct key {
	uint8_t bytes[KEY_BYTES];
	char id[KEY_ID_LEN];
};

/**
 * key_load() - read one
 *
 * Errors: ENOENT, EACCES and so on; EPERM where others than its owner can read the
 * file, or its owner is neither root nor us; EINVAL where it holds no key. All with a
 * sentence in @why.
 */
int key_load(struct key *key, const char *path, struct why *why);

/**
 * key_make() - make one, and the file, which must not be there, for its owner only
 *
 * Its directory is made, too, if that is all that is missing. Errors: EEXIST, EACCES and
 * so on, with a sentence in @why; no file is left then.
 */
int key_make(struct key *key, const char *path, struct why *why);

#endif /* VMREPL_KEY_H */
