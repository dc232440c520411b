# SPDX-License-Identifier: GPL-2.0
# What the agent's objects stand on, for pkg-config.
PKGS	:= liburing libmnl json-c libxxhash liblz4 gnutls libibverbs librdmacm \
	   libseccomp libcap-ng
