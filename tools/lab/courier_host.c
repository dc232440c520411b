// SPDX-License-Identifier: GPL-2.0
/*
 * courier in a lab host: pid 1.  Takes commands from the management network,
 * one process for each connection, and reaps what nobody else waits for.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "courier.h"

#define WORDS		1024
#define HANGUP_MS	2000	/* between SIGHUP and SIGKILL when the machine went away */

struct order {
	char *words[WORDS + 1];
	int count;
	int tty;
	struct courier_size size;
};

/* The command's ends that this side holds; -1 where there is none (any more). */
struct ends {
	int in, out, err;
};

static int read_order(int conn, struct order *order)
{
	static char payload[COURIER_MAX + 1];
	struct courier_frame frame;

	for (;;) {
		if (courier_receive(conn, &frame, payload))
			return -1;
		switch (frame.type) {
		case COURIER_ARG:
			if (order->count == WORDS)
				return -1;
			order->words[order->count++] = strdup(payload);
			break;
		case COURIER_ENV:
			putenv(strdup(payload));
			break;
		case COURIER_DIR:
			if (chdir(payload) && chdir("/"))
				return -1;
			break;
		case COURIER_TTY:
			order->tty = 1;
			memcpy(&order->size, payload, sizeof(order->size));
			break;
		case COURIER_GO:
			return order->count ? 0 : -1;
		default:
			return -1;
		}
	}
}

static void resize(int tty, const struct courier_size *size)
{
	struct winsize w = { .ws_row = size->rows, .ws_col = size->columns };

	ioctl(tty, TIOCSWINSZ, &w);
}

static void execute(const struct order *order, int in, int out, int err)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	if (order->tty)
		ioctl(in, TIOCSCTTY, 0);
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	close_range(3, ~0U, 0);
	execvp(order->words[0], order->words);
	fprintf(stderr, "lab: %s: %s\n", order->words[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static pid_t start(const struct order *order, struct ends *ends)
{
	int in[2], out[2], err[2], slave;
	pid_t pid;

	if (order->tty) {
		ends->in = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (ends->in < 0 || grantpt(ends->in) || unlockpt(ends->in))
			return -1;
		slave = open(ptsname(ends->in), O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (slave < 0)
			return -1;
		resize(ends->in, &order->size);
		ends->out = dup(ends->in);
		ends->err = -1;
		pid = fork();
		if (!pid)
			execute(order, slave, slave, slave);
		close(slave);
	} else {
		if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
			return -1;
		pid = fork();
		if (!pid)
			execute(order, in[0], out[1], err[1]);
		close(in[0]);
		close(out[1]);
		close(err[1]);
		*ends = (struct ends){ .in = in[1], .out = out[0], .err = err[0] };
	}
	fcntl(ends->in, F_SETFL, O_NONBLOCK | fcntl(ends->in, F_GETFL));
	fcntl(ends->out, F_SETFL, O_NONBLOCK | fcntl(ends->out, F_GETFL));
	if (ends->err >= 0)
		fcntl(ends->err, F_SETFL, O_NONBLOCK | fcntl(ends->err, F_GETFL));
	return pid;
}

/* Passes on what is there now; returns 0 when there may be more, -1 at the end. */
static int pass(int conn, enum courier_type type, int *fd)
{
	static char data[COURIER_MAX];
	ssize_t n = read(*fd, data, sizeof(data));

	if (n > 0)
		return courier_send(conn, type, data, n);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -1;
	close(*fd);
	*fd = -1;
	return -1;
}

static void hang_up(pid_t pid, int pidfd)
{
	struct pollfd ended = { .fd = pidfd, .events = POLLIN };

	kill(-pid, SIGHUP);
	if (poll(&ended, 1, HANGUP_MS) <= 0)
		kill(-pid, SIGKILL);
}

/* One command from order to exit code. */
static void session(int conn)
{
	static char payload[COURIER_MAX + 1];
	struct order order = { };
	struct ends ends;
	struct courier_frame frame = { };
	struct pollfd p[5];
	size_t done = 0;
	uint32_t code;
	int status, pidfd;
	pid_t pid;

	if (read_order(conn, &order))
		return;
	pid = start(&order, &ends);
	if (pid < 0) {
		static const char sorry[] = "lab: the host cannot start another command\n";

		code = 126;
		courier_send(conn, COURIER_ERR, sorry, sizeof(sorry) - 1);
		courier_send(conn, COURIER_EXIT, &code, sizeof(code));
		return;
	}
	pidfd = syscall(SYS_pidfd_open, pid, 0);

	for (;;) {
		/* Input that the command has not taken yet holds back the next frame. */
		int pending = frame.length > done;

		p[0] = (struct pollfd){ .fd = conn, .events = pending ? 0 : POLLIN };
		p[1] = (struct pollfd){ .fd = ends.out, .events = POLLIN };
		p[2] = (struct pollfd){ .fd = ends.err, .events = POLLIN };
		p[3] = (struct pollfd){ .fd = pidfd, .events = POLLIN };
		p[4] = (struct pollfd){ .fd = pending ? ends.in : -1, .events = POLLOUT };
		if (poll(p, 5, -1) < 0)
			continue;
		if (p[1].revents)
			pass(conn, COURIER_OUT, &ends.out);
		if (p[2].revents)
			pass(conn, COURIER_ERR, &ends.err);
		if (p[4].revents) {
			ssize_t n = write(ends.in, payload + done, frame.length - done);

			if (n >= 0)
				done += n;
			else if (errno != EAGAIN)
				done = frame.length;
		}
		if (p[3].revents)
			break;
		if (p[0].revents) {
			if ((p[0].revents & (POLLERR | POLLHUP)) && pending) {
				hang_up(pid, pidfd);
				return;
			}
			if (courier_receive(conn, &frame, payload)) {
				hang_up(pid, pidfd);
				return;
			}
			done = frame.length;
			if (frame.type == COURIER_SIZE) {
				resize(ends.in, (struct courier_size *)payload);
			} else if (frame.type == COURIER_IN && frame.length) {
				done = ends.in < 0 ? frame.length : 0;
			} else if (frame.type == COURIER_IN && !order.tty) {
				close(ends.in);
				ends.in = -1;
			}
		}
	}
	waitpid(pid, &status, 0);
	while (ends.out >= 0 && !pass(conn, COURIER_OUT, &ends.out))
		;
	while (ends.err >= 0 && !pass(conn, COURIER_ERR, &ends.err))
		;
	code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	courier_send(conn, COURIER_EXIT, &code, sizeof(code));
}

static int listen_on(int port)
{
	struct sockaddr_in at = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_ANY),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	/* Only the management network may give orders. */
	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "mgmt0", 6) ||
	    bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 64)) {
		close(fd);
		return -1;
	}
	return fd;
}

int courier_serve(void)
{
	struct pollfd p[2];
	struct signalfd_siginfo info;
	sigset_t child;
	int conn;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	p[0] = (struct pollfd){ .fd = listen_on(COURIER_PORT), .events = POLLIN };
	p[1] = (struct pollfd){ .fd = signalfd(-1, &child, SFD_CLOEXEC), .events = POLLIN };
	if (p[0].fd < 0 || p[1].fd < 0) {
		fprintf(stderr, "lab: courier cannot listen: %s\n", strerror(errno));
		return 1;
	}
	printf("lab: ready\n");
	fflush(stdout);

	for (;;) {
		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents && read(p[1].fd, &info, sizeof(info)) > 0) {
			while (waitpid(-1, NULL, WNOHANG) > 0)
				;
		}
		if (!p[0].revents)
			continue;
		conn = accept4(p[0].fd, NULL, NULL, SOCK_CLOEXEC);
		if (conn < 0)
			continue;
		if (!fork()) {
			session(conn);
			_exit(0);
		}
		close(conn);
	}
}
