#!/bin/bash
# `./dev demo` is this script: builds, then shows tests/demo.sh where there is a ublk kernel.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/build.sh"
. "$LAB_DIR/place.sh"
install_missing "${BUILD_PACKAGES[@]}"
step "building" build_preset release "${PROGRAMS[@]}"
run_where_ublk_is -- "$REPO/tests/demo.sh" "$@"
