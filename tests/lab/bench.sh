#!/bin/bash
# `./dev bench [NAME [ARGS...]]` is this script: runs tests/bench/NAME.sh, or all of them, where there is
# a ublk kernel. Results go to build/results/bench.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/build.sh"
. "$LAB_DIR/place.sh"
if (($#)); then
  scripts=("$REPO/tests/bench/$1.sh"); shift
  [[ -f ${scripts[0]} ]] || fail 64 "no such benchmark: ${scripts[0]#"$REPO"/}; there are: $(cd "$REPO/tests/bench" && echo *.sh)"
else
  scripts=("$REPO"/tests/bench/*.sh)
  [[ -f ${scripts[0]} ]] || fail 64 "there are no benchmarks in tests/bench"
fi
install_missing "${BUILD_PACKAGES[@]}"
step "building" build_preset release "${PROGRAMS[@]}"
kublk=$("$LAB_DIR/kublk.sh" kublk)      # the kernel's own ublk server, to compare with
status=0
for script in "${scripts[@]}"; do
  (UBLK_RESULTS=$REPO/build/results/bench PATH=$(dirname "$kublk"):$PATH \
    run_where_ublk_is --timeout 3600 --add "$kublk" --results "$REPO/build/results/bench" -- "$script" "$@") || status=$?
done
exit "$status"
