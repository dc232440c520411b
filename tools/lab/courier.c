// SPDX-License-Identifier: GPL-2.0
/* courier: frames, and the machine's side: "run this in a lab host". */

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <unistd.h>

#include "courier.h"

#define EXIT_TIMEOUT	124
#define EXIT_GONE	125

static struct termios saved_terminal;

int courier_read(int fd, void *data, size_t length)
{
	char *p = data;
	ssize_t n;

	while (length) {
		n = read(fd, p, length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (!n) {
			errno = EPIPE;
			return -1;
		}
		p += n;
		length -= n;
	}
	return 0;
}

int courier_write(int fd, const void *data, size_t length)
{
	const char *p = data;
	ssize_t n;

	while (length) {
		n = write(fd, p, length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		p += n;
		length -= n;
	}
	return 0;
}

int courier_send(int fd, enum courier_type type, const void *data, size_t length)
{
	struct courier_frame frame = { .type = type, .length = length };

	if (length > COURIER_MAX) {
		errno = E2BIG;
		return -1;
	}
	if (courier_write(fd, &frame, sizeof(frame)))
		return -1;
	return courier_write(fd, data, length);
}

int courier_receive(int fd, struct courier_frame *frame, char *payload)
{
	if (courier_read(fd, frame, sizeof(*frame)))
		return -1;
	if (frame->length > COURIER_MAX) {
		errno = EPROTO;
		return -1;
	}
	if (courier_read(fd, payload, frame->length))
		return -1;
	payload[frame->length] = 0;
	return 0;
}

static void restore_terminal(void)
{
	tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_terminal);
}

static int terminal_size(struct courier_size *size)
{
	struct winsize w;

	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &w))
		return -1;
	size->rows = w.ws_row;
	size->columns = w.ws_col;
	return 0;
}

static void raw_terminal(void)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &saved_terminal))
		return;
	atexit(restore_terminal);
	raw = saved_terminal;
	cfmakeraw(&raw);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
}

static int connect_to(int port)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		fprintf(stderr, "lab: the host does not answer: %s\n", strerror(errno));
		exit(EXIT_GONE);
	}
	return fd;
}

/* Carries bytes both ways until the command has ended. */
static int carry(int conn, int timeout, int want_input, int want_tty)
{
	struct itimerspec limit = { .it_value.tv_sec = timeout };
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	static char payload[COURIER_MAX + 1];
	struct courier_frame frame;
	struct courier_size size;
	struct pollfd polled[4];
	sigset_t resize;
	uint32_t code;
	ssize_t n;
	int signals;

	sigemptyset(&resize);
	sigaddset(&resize, SIGWINCH);
	sigprocmask(SIG_BLOCK, &resize, NULL);
	signals = signalfd(-1, &resize, SFD_CLOEXEC);
	if (timer < 0 || signals < 0 || timerfd_settime(timer, 0, &limit, NULL)) {
		perror("lab: courier");
		return EXIT_GONE;
	}

	polled[0] = (struct pollfd){ .fd = conn, .events = POLLIN };
	polled[1] = (struct pollfd){ .fd = timer, .events = POLLIN };
	polled[2] = (struct pollfd){ .fd = want_tty ? signals : -1, .events = POLLIN };
	polled[3] = (struct pollfd){ .fd = want_input ? STDIN_FILENO : -1, .events = POLLIN };

	for (;;) {
		if (poll(polled, 4, -1) < 0) {
			if (errno == EINTR)
				continue;
			perror("lab: courier");
			return EXIT_GONE;
		}
		if (polled[0].revents) {
			if (courier_receive(conn, &frame, payload)) {
				fprintf(stderr, "lab: the host went away while the command ran\n");
				return EXIT_GONE;
			}
			switch (frame.type) {
			case COURIER_OUT:
				if (courier_write(STDOUT_FILENO, payload, frame.length))
					return EXIT_GONE;
				break;
			case COURIER_ERR:
				if (courier_write(STDERR_FILENO, payload, frame.length))
					return EXIT_GONE;
				break;
			case COURIER_EXIT:
				memcpy(&code, payload, sizeof(code));
				return code;
			}
			continue;
		}
		if (polled[1].revents) {
			fprintf(stderr, "lab: the command did not end within %d s and was ended\n",
				timeout);
			return EXIT_TIMEOUT;
		}
		if (polled[2].revents) {
			struct signalfd_siginfo info;

			if (read(signals, &info, sizeof(info)) > 0 && !terminal_size(&size))
				courier_send(conn, COURIER_SIZE, &size, sizeof(size));
		}
		if (polled[3].revents) {
			n = read(STDIN_FILENO, payload, COURIER_MAX);
			if (n < 0)
				n = 0;
			if (courier_send(conn, COURIER_IN, payload, n))
				continue;	/* what the host said last is still to be read */
			if (!n)
				polled[3].fd = -1;
		}
	}
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "timeout", required_argument, NULL, 't' },
		{ "dir", required_argument, NULL, 'd' },
		{ "env", required_argument, NULL, 'e' },
		{ "stdin", no_argument, NULL, 'i' },
		{ "tty", no_argument, NULL, 'p' },
		{ }
	};
	int timeout = 0, want_input = 0, want_tty = 0, conn = -1, failed = 0, i, c;
	struct courier_size size = { 25, 80 };

	signal(SIGPIPE, SIG_IGN);
	conn = connect_to(atoi(argv[1]));
	argc--;
	argv++;
	while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (c) {
		case 't':
			timeout = atoi(optarg);
			break;
		case 'd':
			failed |= courier_send(conn, COURIER_DIR, optarg, strlen(optarg));
			break;
		case 'e':
			failed |= courier_send(conn, COURIER_ENV, optarg, strlen(optarg));
			break;
		case 'p':
			want_tty = 1;
			/* fall through */
		case 'i':
			want_input = 1;
			break;
		default:
			return 2;
		}
	}
	for (i = optind; i < argc && !failed; i++) {
		if (strlen(argv[i]) > COURIER_MAX) {
			fprintf(stderr, "lab: a word of the command is longer than %d bytes\n",
				COURIER_MAX);
			return 2;
		}
		failed |= courier_send(conn, COURIER_ARG, argv[i], strlen(argv[i]));
	}
	if (want_tty) {
		terminal_size(&size);
		failed |= courier_send(conn, COURIER_TTY, &size, sizeof(size));
	}
	failed |= courier_send(conn, COURIER_GO, NULL, 0);
	if (!failed && !want_input)
		failed |= courier_send(conn, COURIER_IN, NULL, 0);
	if (failed) {
		fprintf(stderr, "lab: the host went away before the command ran\n");
		return EXIT_GONE;
	}
	if (want_tty && isatty(STDIN_FILENO))
		raw_terminal();
	return carry(conn, timeout, want_input, want_tty);
}

int main(int argc, char **argv)
{
	if (getpid() == 1)
		return courier_serve();
	if (argc < 3) {
		fprintf(stderr, "usage: courier PORT [--timeout S] [--dir D] [--env N=V]... [--stdin] [--tty] CMD ARGS...\n");
		return 2;
	}
	return run(argc, argv);
}
