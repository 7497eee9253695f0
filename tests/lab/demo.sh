#!/bin/bash
# `./dev demo` is this script: builds, then shows tests/demo.sh where there is a ublk kernel.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/build.sh"
. "$LAB_DIR/apt.sh"
. "$LAB_DIR/image.sh"
. "$LAB_DIR/place.sh"
# On a new machine the VM is fetched while the compiler works: that is waiting for the most part.
fetching=''
# shellcheck disable=SC2317
cleanup() { [[ -z $fetching ]] || kill -- "-$fetching" 2>/dev/null || true; }
trap cleanup EXIT
install_missing "${BUILD_PACKAGES[@]}"
if ! can_run_here; then
  lab_deps
  set -m       # a process group of its own, which can be ended as one
  lab_image & fetching=$!
  set +m
fi
step "building" build_preset release "${PROGRAMS[@]}"
[[ -z $fetching ]] || wait "$fetching"
fetching=''
run_where_ublk_is -- "$REPO/tests/demo.sh" "$@"
