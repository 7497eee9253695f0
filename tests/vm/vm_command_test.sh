#!/bin/bash
# What `./dev vm` promises to who runs something with it: --counts FILE as in tests/cluster.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR/../cluster
. "$(dirname "${BASH_SOURCE[0]}")/../cluster/checks.sh"
VM=$LAB_DIR/vm.sh

output_and_status() {
  local said status=0
  said=$("$VM" --timeout 100 -c 'echo out; echo err >&2; type -P ublkctl; exit 3') || status=$?
  same "out err /build/bin/ublkctl" "$(xargs <<<"$said")"
  same 3 "$status"
}
# A job that writes on would stand still, and the caller of `./dev vm ... | head` wait for its time limit.
unread() {
  set +o pipefail
  "$VM" --timeout 100 -c 'while true; do echo line || exit; sleep 0.01; done' | head -n 1 >"$WORK/line"
  local status=("${PIPESTATUS[@]}")
  same "141 0" "${status[*]}"
  same line "$(cat "$WORK/line")"
}
wrong_arguments() {
  fails_with "no kernel 5.4 in the lab; it has:" "$VM" --kernel 5.4 true
  fails_with "no such program: ./nothing" "$VM" ./nothing
}

check "wrong arguments are refused before anything boots" wrong_arguments
check "a job's output and exit status are the command's" output_and_status
check "it ends when nobody reads its output any more" unread
((!FAILED))
