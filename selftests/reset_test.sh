#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# reset_test: a guest reboots while it is protected, which changes its memory slots and
# the ROMs in them; protection goes on, the standby's memory stays the primary's, and
# the guest survives its host afterwards, also in the middle of another reboot. TAP.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

agent_options=(--insecure)
hosts_up
must guest_start a
must guest_start b -incoming defer
must guest_up a

agent_env=(VMREPL_DEBUG_HASH=1)
must standby_start --timeout 5000 --fence-command "lab-power off a"
must primary_start --timeout 5000 --interval 1000 --fence-command "lab-power off b"
check "the guest is protected" protected || die "not protected"
from=$(lines "$work/a.guest")
began=$(lines "$work/primary.log")
check "it is reset" qmp a '{"execute":"system_reset"}'
# Its first line may come behind one that the reset has cut off.
check "it boots again" wait_line "$work/a.guest" 'guest: up' 240 $((from + 1))
must wait_line "$work/a.guest" 'guest: serves' 120 $((from + 1))
check "it serves" client_start 3
check "checkpoints go on" epochs 5
check "without a new sync" says_no grep -E "$(event resync)|$(event lost)" "$work/primary.log"
note "checkpoints during the reboot: $(tail -n "+$began" "$work/primary.log" | grep -c "$(event epoch)")"

# The next reboot is under way when the host dies: its firmware or kernel is at work.
from=$(lines "$work/primary.log")
check "it is reset again" qmp a '{"execute":"system_reset"}'
check "checkpoints are made of it" wait_count "$work/primary.log" "$(event epoch)" 3 $((from + 1))
"$lab" kill a
check "b runs it" wait_line "$work/standby.log" "$(event promoted)" 60
check "the reboot ends there" wait_line "$work/b.guest" '^guest: serves' 120
check "the standby's memory was the primary's at every checkpoint" memory_equal
check "it serves from b" client_start
check "and goes on" served 10
done_testing
