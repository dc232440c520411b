// SPDX-License-Identifier: GPL-2.0
/*
 * A plug on a tap: frames that a "guest" sends through the tap come out of the
 * bridge behind it when their segment is released, once each, in order, and not
 * before; everything is as it was after close and after a killed agent.
 *
 * Runs in a network namespace of its own:
 *
 *	this program -> tap0 -> bridge br0 -> veth0 -> veth1 <- packet socket
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plug.h"
#include "tap.h"

#define ETHERTYPE	0x88b5		/* for local experiments */

/* For an arrival: plenty. For the absence of one: what arrives does so at once. */
#define ARRIVE_MS	2000
#define ABSENT_MS	200

static int tap, sock;


static void skip(const char *text)
{
	printf("1..0 # SKIP %s\n", text);
	exit(TAP_SKIP);
}

static bool run(const char *command)
{
	int ret = system(command);

	return WIFEXITED(ret) && !WEXITSTATUS(ret);
}

static void make_net(void)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	struct sockaddr_ll ll = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETHERTYPE),
	};

	if (unshare(CLONE_NEWNET))
		skip("needs root for a network namespace");
	tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (tap < 0)
		skip("no /dev/net/tun");
	strcpy(ifr.ifr_name, "tap0");
	if (ioctl(tap, TUNSETIFF, &ifr))
		tap_die("TUNSETIFF: %s", strerror(errno));
	if (!run("ip link add br0 type bridge && ip link add veth0 type veth peer name veth1 &&"
		 " ip link set tap0 master br0 && ip link set veth0 master br0 &&"
		 " for i in br0 veth0 veth1 tap0; do ip link set $i up || exit 1; done"))
		skip("no bridge or veth in this kernel, or no iproute2");
	ll.sll_ifindex = (int)if_nametoindex("veth1");
	sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETHERTYPE));
	if (sock < 0 || bind(sock, (struct sockaddr *)&ll, sizeof(ll)))
		tap_die("packet socket: %s", strerror(errno));
}

static void send_frame(uint32_t number)
{
	unsigned char frame[64] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1,
		ETHERTYPE >> 8, ETHERTYPE & 0xff,
	};

	memcpy(frame + ETH_HLEN, &number, sizeof(number));
	if (write(tap, frame, sizeof(frame)) != sizeof(frame))
		tap_die("write to the tap: %s", strerror(errno));
}

static void send_frames(uint32_t first, uint32_t last)
{
	for (uint32_t i = first; i <= last; i++)
		send_frame(i);
}

/* The number of the next frame that comes out; 0: none did. */
static uint32_t next_frame(int ms)
{
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	unsigned char frame[2048];
	uint32_t number;

	if (poll(&pfd, 1, ms) != 1)
		return 0;
	if (recv(sock, frame, sizeof(frame), 0) < ETH_HLEN + 4)
		return 0;
	memcpy(&number, frame + ETH_HLEN, sizeof(number));
	return number;
}

static bool arrive(uint32_t first, uint32_t last)
{
	for (uint32_t i = first; i <= last; i++)
		if (next_frame(ARRIVE_MS) != i)
			return false;
	return true;
}

static bool silent(void)
{
	return !next_frame(ABSENT_MS);
}

static uint64_t held(struct plug *p)
{
	struct plug_held h;

	return plug_held(p, &h, NULL) ? UINT64_MAX : h.packets;
}

/* No ifb, no redirect; the ingress qdisc is there or not. */
static bool as_before(bool ingress)
{
	return run("! ip -o link | grep -q vmr") &&
	       run("! tc filter show dev tap0 ingress 2>/dev/null | grep -q mirred") &&
	       run("tc qdisc show dev tap0 | grep -q clsact") == ingress;
}

static void test_segments(struct plug *p)
{
	struct why why;

	send_frames(1, 20);
	tap_ok(arrive(1, 20) && silent(), "an open plug lets everything through, once");

	tap_ok(!plug_buffer(p, &why), "hold");
	send_frames(21, 40);
	tap_ok(silent() && held(p) == 20, "20 frames are held");
	tap_ok(!plug_release_one(p, &why) && silent() && held(p) == 20,
	   "no closed segment: nothing is released");

	tap_ok(!plug_buffer(p, &why), "close the segment");
	send_frames(41, 45);
	tap_ok(plug_buffer(p, &why) == -EBUSY, "a second closed segment is refused");
	tap_ok(silent() && held(p) == 25, "nothing leaves before the release");
	tap_ok(!plug_release_one(p, &why) && arrive(21, 40) && silent(),
	   "the closed segment leaves, in order, once");
	tap_ok(held(p) == 5, "the next one is held");

	tap_ok(!plug_buffer(p, &why) && !plug_release_one(p, &why) && arrive(41, 45) && silent(),
	   "the next one leaves");
	tap_ok(!plug_buffer(p, &why) && !plug_release_one(p, &why) && silent(), "an empty segment");
	send_frames(46, 46);
	tap_ok(silent() && !plug_buffer(p, &why) && !plug_release_one(p, &why) && arrive(46, 46) &&
	   silent(), "a frame after an empty segment");

	for (uint32_t i = 0; i < 200; i++) {
		send_frames(100 + i * 10, 100 + i * 10 + 9);
		if (plug_buffer(p, &why))
			break;
		send_frame(9000 + i);
		if (plug_release_one(p, &why) || (i && next_frame(ARRIVE_MS) != 9000 + i - 1) ||
		    !arrive(100 + i * 10, 100 + i * 10 + 9))
			break;
		if (i == 199)
			tap_ok(silent() && held(p) == 1, "200 epochs: each frame with its segment");
	}
	if (held(p) != 1)
		tap_ok(false, "200 epochs: each frame with its segment");
	tap_ok(!plug_release_all(p, &why) && arrive(9199, 9199), "all go");
	send_frames(50, 60);
	tap_ok(arrive(50, 60) && silent(), "and what comes then");
	tap_ok(!plug_buffer(p, &why), "hold again");
	send_frames(61, 70);
	tap_ok(silent() && held(p) == 10, "held again");
}

static void test_close(bool release)
{
	struct why why;
	struct plug *p = plug_open("tap0", &why);

	tap_ok(p && !plug_buffer(p, &why), "plug and hold");
	send_frames(1, 10);
	tap_ok(silent(), "held");
	if (release)
		tap_ok(!plug_close(p, true, &why) && arrive(1, 10) && silent(),
		   "close with release: everything leaves");
	else
		tap_ok(!plug_close(p, false, &why) && silent(), "close without: it is dropped");
	tap_ok(as_before(false), "nothing is left behind");
	send_frames(11, 12);
	tap_ok(arrive(11, 12) && silent(), "the tap works as before");
}

/* An agent that is killed while it holds. */
static void test_killed(void)
{
	struct why why;
	struct plug *p;
	pid_t pid = fork();

	if (!pid) {
		p = plug_open("tap0", &why);
		_exit(p && !plug_buffer(p, &why) ? 0 : 1);
	}
	int status = 1;

	waitpid(pid, &status, 0);
	tap_ok(!status, "a process dies while it holds");
	send_frames(1, 5);
	tap_ok(silent(), "the plug still holds");
	p = plug_open("tap0", &why);
	tap_ok(!p && errno == EEXIST, "a second plug is refused");
	tap_ok(plug_cleanup("tap0", &why) == 1 && as_before(false) && silent(),
	   "the clean-up removes it and drops what was held");
	tap_ok(plug_cleanup("tap0", &why) == 0, "there is nothing to clean up twice");
	send_frames(6, 8);
	tap_ok(arrive(6, 8) && silent(), "the tap works as before");
}

static void test_others(void)
{
	struct plug *p;
	struct why why;

	run("tc qdisc add dev tap0 clsact");
	p = plug_open("tap0", &why);
	tap_ok(p && !plug_close(p, true, &why) && as_before(true), "an ingress qdisc of others stays");
	run("tc filter add dev tap0 ingress matchall action pass");
	p = plug_open("tap0", &why);
	tap_ok(!p && errno == EBUSY, "ingress filters of others are refused");
	run("tc qdisc del dev tap0 clsact");
	tap_ok(as_before(false), "and nothing is left behind");
	p = plug_open("nosuch", &why);
	tap_ok(!p && errno == ENODEV, "no such interface");
	tap_ok(plug_cleanup("nosuch", &why) == -ENODEV, "no such interface to clean up");
}

static void test_tap_gone(void)
{
	struct plug *p;
	struct why why;

	p = plug_open("tap0", &why);
	tap_ok(p && !plug_buffer(p, &why), "plug and hold");
	send_frames(1, 3);
	close(tap);
	tap_ok(!plug_close(p, true, &why) && run("! ip -o link | grep -q vmr"),
	   "close when the tap has gone");
	run("ip link add vmr4000 type ifb");
	tap_ok(plug_cleanup(NULL, &why) == 1 && run("! ip -o link | grep -q vmr"),
	   "an ifb whose tap has gone is cleaned up");
	tap_ok(plug_cleanup(NULL, &why) == 0, "once");
}

int main(void)
{
	struct why why;
	struct plug *p;

	printf("TAP version 13\n");
	make_net();
	send_frames(1, 2);
	if (!arrive(1, 2))
		tap_die("no frame comes through the bridge");
	p = plug_open("tap0", &why);
	if (!p && (errno == ENOENT || errno == EOPNOTSUPP))
		skip(why.text);
	tap_ok(p, "plug");
	if (!p)
		tap_die("%s", why.text);
	tap_ok(run("grep -q 0 /proc/sys/net/ipv6/conf/all/disable_ipv6 &&"
		   " ! ip -6 -o addr show | grep vmr"),
	       "the kernel gives the ifb no address, for which it would send through the plug");
	test_segments(p);
	tap_ok(!plug_close(p, false, &why) && as_before(false), "unplug");
	test_close(true);
	test_close(false);
	test_killed();
	test_others();
	test_tap_gone();
	return tap_done();
}
