#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The module reads like kernel code: sparse and checkpatch.pl --strict have nothing
# to say. compat/ is about kernel versions, so checkpatch may not mind those there.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
lab=$top/tools/lab/lab
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0
count=0

result() # OK TEXT FILE: a line, and what was said where it is not ok
{
	count=$((count + 1))
	if [[ $1 = 0 ]]; then
		echo "ok $count - $2"
	else
		failed=1
		echo "not ok $count - $2"
		sed 's/^/# /' "$3"
	fi
}

"$top/tools/need-packages" sparse perl xz-utils

cp -r "$top/Kbuild" "$top/kmod" "$top/uapi" "$tmp"
find "$tmp" -name '*.o' -delete
if ! make -C "$("$lab" kernel-build-dir)" M="$tmp" C=2 CHECK=sparse W=1 modules \
	>"$tmp/sparse.log" 2>&1; then
	bad=1
elif grep -E 'kmod/.*(warning|error):' "$tmp/sparse.log" >"$tmp/sparse.said"; then
	bad=1
	mv "$tmp/sparse.said" "$tmp/sparse.log"
else
	bad=0
fi
result $bad "sparse and W=1 on the module" "$tmp/sparse.log"

# Debian ships checkpatch.pl only inside the kernel's source.
source=$("$lab" package linux-source-6.1)
if [[ ! -x $source/checkpatch.pl ]]; then
	tar -xf "$source/usr/src/linux-source-6.1.tar.xz" -C "$tmp" --strip-components=2 \
		linux-source-6.1/scripts/{checkpatch.pl,spelling.txt,const_structs.checkpatch}
	mv "$tmp/spelling.txt" "$tmp/const_structs.checkpatch" "$tmp/checkpatch.pl" "$source"
fi

cd "$top"
for file in kmod/*.[ch] kmod/compat/*.[ch] uapi/*.h; do
	ignore=FILE_PATH_CHANGES
	# The form that TRACE_EVENT() has everywhere in the kernel.
	[[ $file = kmod/trace.h ]] && ignore+=,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT
	[[ $file = kmod/compat/* ]] && ignore+=,LINUX_VERSION_CODE,CONSTANT_COMPARISON
	bad=0
	perl "$source/checkpatch.pl" --strict --no-tree --terse --no-summary --ignore "$ignore" \
		-f "$file" >"$tmp/said" 2>&1 || bad=1
	result $bad "checkpatch --strict $file" "$tmp/said"
done

echo "1..$count"
exit $failed
