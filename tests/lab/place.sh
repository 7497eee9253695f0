# Where demo and bench run: on this machine if its kernel has ublk, else in the lab's VM. Sourced.
# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

host_has_ublk() {
  [[ -c /dev/ublk-control ]] || { [[ $(id -u) == 0 ]] && modprobe -q ublk_drv 2>/dev/null && [[ -c /dev/ublk-control ]]; }
}
can_run_here() { [[ $(id -u) == 0 ]] && host_has_ublk; }

# run_where_ublk_is VM_OPTION... -- SCRIPT ARGS...
run_where_ublk_is() {
  local options=()
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
  if can_run_here; then
    say "this machine's kernel $(uname -r) has ublk: running ${1#"$REPO"/} here"
    PATH=$REPO/build/release/bin:$PATH exec "$@"
  fi
  say "this machine's kernel $(uname -r) has no ublk, or this is not root: running ${1#"$REPO"/} in the lab's VM"
  exec "$LAB_DIR/vm.sh" "${options[@]}" "$@"
}
