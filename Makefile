# SPDX-License-Identifier: GPL-2.0
#
#	make			module (for the running kernel, or KDIR=) and agent
#	make demo		a guest survives its host, in the lab; LINK=rdma: by RDMA
#	make check		every test
#	make bench		what checkpoints cost, in the lab; bench-quick is shorter
#	make check-kernels	the module's tests on each kernel that is supported
#	make check-intel	the module's tests on an Intel processor, emulated
#	make check-debug	the module's tests on a debug kernel (KASAN, lockdep, ...)
#	make install		module, agent and man page
#
# demo and check install what they need, and build the module for the lab's kernel.

KDIR	?= /lib/modules/$(shell uname -r)/build
O	?= $(CURDIR)/build
LAB	:= tools/lab/lab
SERVICE	?= tools/demo/services/redis
# How the hosts of the demo talk: tcp or rdma.
LINK	?= tcp
PREFIX	?= /usr/local
# To the kernel's build O= says something else; what else is given goes on to it.
MAKEOVERRIDES := $(filter-out O=%,$(MAKEOVERRIDES))
# As many things at once as there are processors, unless told otherwise.
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif


BUILD_PACKAGES := gcc make pkg-config libc6-dev liburing-dev libmnl-dev \
	libjson-c-dev libxxhash-dev liblz4-dev libgnutls28-dev libibverbs-dev \
	librdmacm-dev libseccomp-dev libcap-ng-dev
LAB_PACKAGES := gcc-12 libelf-dev ibverbs-providers
KERNELS := 6.1 6.12 7.2

.PHONY: all module agent install clean deps lab-deps lab-build demo check \
	check-intel check-kernels check-debug $(KERNELS:%=module-%) module-debug \
	bench-build bench bench-quick

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

# The module for one of the lab's kernels, where it is in nobody's way.
# lab-deps: one at a time asks apt for packages.
$(KERNELS:%=module-%) module-debug: module-%: lab-deps
	@mkdir -p "$(O)/$@"
	@find Kbuild kmod uapi -name '*.[ch]' -o -name Kbuild | \
		xargs cp -u --parents -t "$(O)/$@"
	@$(MAKE) --no-print-directory -C "$$($(LAB) kernel-build-dir --kernel $*)" \
		M="$(abspath $(O))/$@" modules

demo: lab-build
	LINK=$(LINK) tools/demo/demo $(SERVICE)

check: lab-build module-6.12 module-7.2
	selftests/run

check-intel: lab-build
	selftests/run --cpu intel

check-kernels: $(KERNELS:%=module-%) agent
	@$(MAKE) --no-print-directory -C selftests O="$(abspath $(O))"
	selftests/run $(KERNELS:%=--on %)

bench-build: lab-build
	@tools/need-packages linux-perf libzstd-dev
	@$(MAKE) --no-print-directory -C bench O="$(abspath $(O))"

bench: bench-build
	bench/run
	bench/wire
	bench/link
	bench/latency
	bench/adapt
	$(O)/bench/codec

bench-quick: bench-build
	bench/run --quick

# The debug kernel is compiled when it is needed first; that takes a while.
check-debug: module-debug
	@$(MAKE) --no-print-directory -C selftests O="$(abspath $(O))"
	selftests/run --on debug

clean:
	rm -rf "$(O)"
	-test -d "$(KDIR)" && $(MAKE) -C "$(KDIR)" M="$(CURDIR)" clean
