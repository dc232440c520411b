# SPDX-License-Identifier: GPL-2.0
# loads: guests of bench/wire, by what they do. load_NAME makes the image that guest_start
# takes, and sets load_options for it. Needs selftests/hosts.sh.
# shellcheck shell=bash

# A client outside has to write to it.
load_redis() {
	load_options=()
	image=$top/build/selftests-guest
	build_image
}

# The database is made here: initdb would take an emulated guest minutes. It does not run
# as root, so root is somebody else for it.
load_postgres() {
	local root bin database at=/usr/lib/postgresql/15/bin as=(unshare --user --map-user=65534 --map-group=65534)

	load_options=(-m 512M)
	image=$top/build/bench/guest-postgres
	root=$("$lab" package postgresql-15) || return 1
	bin=$root/usr/lib/postgresql/15/bin
	database=$work/database
	(
		export LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu TZ=GMT
		"${as[@]}" "$bin/initdb" -D "$database" -N -A trust -U postgres --locale=C \
			--encoding=UTF8 --wal-segsize=1 &&
			"${as[@]}" "$bin/pg_ctl" -D "$database" -w -l "$work/database.log" \
				-o "-k $work -c listen_addresses= -c fsync=off" start || exit 1
		"${as[@]}" "$bin/pgbench" -h "$work" -U postgres -i -s 1 postgres
		made=$?
		"${as[@]}" "$bin/pg_ctl" -D "$database" -w -m fast stop && exit $made
	) || return 1
	tar -C "$database" -czf "$work/database.tgz" . &&
		"$lab" guest-image --out "$image" --start "$top/bench/guest/postgres" --root "$root" \
			--add "$bin/postgres:$at/postgres" \
			--add "$bin/pgbench:$at/pgbench" \
			--file "$root/usr/share/postgresql/15/timezonesets/Default:/usr/share/postgresql/15/timezonesets/Default" \
			--file "$work/database.tgz:/database.tgz"
}

load_compile() {
	local root

	load_options=(-m 512M)
	image=$top/build/bench/guest-compile
	root=$("$lab" package cpp-12) || return 1
	gcc -E -std=gnu11 -D_GNU_SOURCE -I"$top/uapi" "$top/agent/epoch.c" -o "$work/source.i" &&
		"$lab" guest-image --out "$image" --start "$top/bench/guest/compile" --root "$root" \
			--add "$root/usr/lib/gcc/x86_64-linux-gnu/12/cc1:/usr/bin/cc1" \
			--file "$work/source.i:/source.i"
}
