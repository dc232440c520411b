/* SPDX-License-Identifier: GPL-2.0 */
#ifndef LAB_COURIER_H
#define LAB_COURIER_H

#include <stdint.h>

/*
 * What courier (on the machine) and courier (pid 1 of a lab host) say to each
 * other over one TCP connection for each command: a stream of frames, each a
 * header and LENGTH bytes.  Integers are little endian, which both ends are.
 */
#define COURIER_PORT	1		/* inside a lab host */
#define COURIER_MAX	65536		/* payload of one frame, bytes */

enum courier_type {
	/* machine to host, before GO */
	COURIER_ARG = 'A',		/* one word of the command, no NUL */
	COURIER_ENV = 'E',		/* NAME=VALUE */
	COURIER_DIR = 'D',		/* working directory; "/" if not there */
	COURIER_TTY = 'T',		/* wants a terminal; struct courier_size */
	COURIER_GO = 'G',		/* run it */
	/* machine to host, after GO */
	COURIER_IN = 'I',		/* standard input; empty: end of file */
	COURIER_SIZE = 'W',		/* the terminal was resized */
	/* host to machine */
	COURIER_OUT = 'O',		/* standard output */
	COURIER_ERR = 'R',		/* standard error */
	COURIER_EXIT = 'X',		/* uint32_t, as a shell counts; the last frame */
};

struct courier_frame {
	uint32_t type;			/* enum courier_type */
	uint32_t length;		/* of what follows, at most COURIER_MAX */
};

struct courier_size {
	uint16_t rows;
	uint16_t columns;
};

/* Whole reads and writes; 0, or -1 with errno (EPIPE: the other side is gone). */
int courier_read(int fd, void *data, size_t length);
int courier_write(int fd, const void *data, size_t length);
int courier_send(int fd, enum courier_type type, const void *data, size_t length);
/* Reads one frame; payload gets a NUL behind it and needs COURIER_MAX + 1 bytes. */
int courier_receive(int fd, struct courier_frame *frame, char *payload);

/* The host's side: pid 1, never returns unless it cannot listen. */
int courier_serve(void);

#endif
