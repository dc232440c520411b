# SPDX-License-Identifier: GPL-2.0
#
#	make			module (for the running kernel, or KDIR=) and agent
#	make demo		a guest survives its host, in the lab
#	make check		every test
#	make install		module, agent and man page
#
# demo and check install what they need, and build the module for the lab's kernel.

KDIR	?= /lib/modules/$(shell uname -r)/build
O	?= $(CURDIR)/build
LAB	:= tools/lab/lab
SERVICE	?= tools/demo/services/redis
PREFIX	?= /usr/local


BUILD_PACKAGES := gcc make pkg-config libc6-dev liburing-dev libmnl-dev \
	libjson-c-dev libxxhash-dev
LAB_PACKAGES := gcc-12 libelf-dev

.PHONY: all module agent install clean deps lab-deps lab-build demo check

all: module agent

module:
	@test -d "$(KDIR)" || { echo "make: no kernel headers at $(KDIR): install linux-headers for the running kernel, or give KDIR=" >&2; exit 1; }
	$(MAKE) -C "$(KDIR)" M="$(CURDIR)" modules

agent:
	$(MAKE) -C agent O="$(abspath $(O))"

install: all
	$(MAKE) -C "$(KDIR)" M="$(CURDIR)" modules_install
	install -D -m 755 "$(O)/vmrepl-agent" "$(DESTDIR)$(PREFIX)/sbin/vmrepl-agent"
	install -D -m 644 agent/vmrepl-agent.8 "$(DESTDIR)$(PREFIX)/share/man/man8/vmrepl-agent.8"

# dpkg-query answers at once where all is there; only else is apt asked.
deps:
	@tools/need-packages $(BUILD_PACKAGES)

lab-deps: deps
	@tools/need-packages $(LAB_PACKAGES)
	@$(LAB) prepare

# The module for the lab's kernel, whatever runs here.
lab-build: lab-deps
	@$(MAKE) --no-print-directory module KDIR="$$($(LAB) kernel-build-dir)"
	@$(MAKE) --no-print-directory agent
	@$(MAKE) --no-print-directory -C selftests O="$(abspath $(O))"
	@$(MAKE) --no-print-directory -C tools/demo/services/redis O="$(abspath $(O))/services/redis"

demo: lab-build
	tools/demo/demo $(SERVICE)

check: lab-build
	selftests/run

clean:
	rm -rf "$(O)"
	-test -d "$(KDIR)" && $(MAKE) -C "$(KDIR)" M="$(CURDIR)" clean
