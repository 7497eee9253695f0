#!/bin/bash
# Configures and builds one preset: `./dev build` is this script. Sourced, it gives build_preset.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/deps.sh"

export CCACHE_DIR=${CCACHE_DIR:-$CACHE_ROOT/ccache} CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-5G}
# One cache for all clones of the repository: paths inside it do not count.
export CCACHE_BASEDIR=$REPO CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-time_macros}

# Both may be called in a condition, where errexit is off: they return what failed.
configure_preset() {
  local preset=$1 launcher=()
  # Ninja runs cmake again by itself when a CMake file changes, but another compiler is another build.
  [[ $REPO/build/$preset/build.ninja -nt $REPO/CMakePresets.json ]] && return
  if command -v ccache >/dev/null; then
    launcher=(-D CMAKE_CXX_COMPILER_LAUNCHER=ccache -D CMAKE_C_COMPILER_LAUNCHER=ccache)
  fi
  (cd "$REPO" && cmake --fresh --preset "$preset" "${launcher[@]}")
}
# build_preset PRESET [TARGET...]
build_preset() { configure_preset "$1" && ninja -C "$REPO/build/$1" "${@:2}"; }

# What people run, without the tests: all that the demo and the benchmarks need.
# shellcheck disable=SC2034  # used by those who source this
PROGRAMS=(ublk-node ublk-server ublkctl ublk-witness)

# test_programs PRESET ROOM: paths (relative to the build folder) of the test programs of unit or vm.
# Asked of ninja, so that a program whose source is gone is not run from an old build.
test_programs() {
  ninja -C "$REPO/build/$1" -t targets all | sed -nE "s|^($2/[^:]+): C(XX)?_EXECUTABLE_LINKER.*|\1|p" | sort
}

# compiler_work: "MISSES HITS" of ccache so far.
compiler_work() {
  ccache --print-stats 2>/dev/null |
    awk '$1 == "cache_miss" {m = $2} /^(direct|preprocessed)_cache_hit/ {h += $2} END {print m + 0, h + 0}'
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  preset=release
  while (($#)); do
    case $1 in
      --preset) preset=${2:?}; shift 2 ;;
      -h | --help) echo "usage: ./dev build [--preset release|asan|tsan] [TARGET...]"; exit ;;
      *) break ;;
    esac
  done
  install_missing "${BUILD_PACKAGES[@]}"
  [[ $preset == release ]] || install_missing "${SANITIZER_PACKAGES[@]}"
  build_preset "$preset" "$@"
fi
