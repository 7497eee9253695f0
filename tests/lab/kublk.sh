#!/bin/bash
# Things of the kernel's own that we compare with, out of Debian's source packages:
#   kublk.sh kublk     prints the path of the kernel selftests' ublk server, a peer for benchmarks
#   kublk.sh headers   prints an include folder with the newest lab kernel's UAPI headers
#   kublk.sh source    prints a folder with SERIES/drivers/block/ublk_drv.c and its neighbours
# Built at first use, afterwards it only prints.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/deps.sh"
. "$LAB_DIR/apt.sh"
. "$LAB_DIR/image.sh"

SOURCE_FILES=(drivers/block/ublk_drv.c include/uapi/linux/ublk_cmd.h Documentation/block/ublk.rst
  tools/testing/selftests/ublk)

# unpack_packages TO PACKAGE[=VERSION]...
unpack_packages() {
  local to=$1 dir=$1.deb deb; shift
  mkdir -p "$dir"
  (cd "$dir" && suite_apt apt-get download -q "$@")
  for deb in "$dir"/*.deb; do dpkg -x "$deb" "$to"; done
  rm -rf "$dir"
}

build_headers() {
  step "reading package lists" suite_apt_update
  step "fetching UAPI headers of kernel ${LAB_KERNELS[0]}" fetch_headers "$1"
}
fetch_headers() {
  local version
  version=$(suite_apt apt-cache madison linux-libc-dev | awk -v s="${LAB_KERNELS[0]}." 'index($3, s) == 1 {print $3}' |
    sort -V | tail -n 1)
  [[ -n $version ]] || fail 1 "no linux-libc-dev ${LAB_KERNELS[0]}.* in the newer suites"
  # liburing of the same suite: kublk wants calls that Debian 12's does not have.
  unpack_packages "$1/tree" "linux-libc-dev=$version" liburing-dev
  mv "$1/tree/usr/include" "$1/include"
  mv "$1/tree/usr/lib/x86_64-linux-gnu/liburing.a" "$1/"
  # On Debian the machine-dependent part lies beside the rest.
  cp -r "$1/include/x86_64-linux-gnu/asm" "$1/include/"
  rm -rf "$1/tree" "$1"/include/*-linux-*
}

build_source() {
  local series
  step "reading package lists" suite_apt_update
  for series in "${LAB_KERNELS[@]}"; do
    step "extracting the ublk driver of $series" extract_source "$series" "$1/$series"
  done
}
extract_source() {
  local series=$1 to=$2 deb=$2.deb
  mkdir -p "$to" "$deb"
  (cd "$deb" && suite_apt apt-get download -q "linux-source-$series")
  # Straight from the package: the unpacked tree would be 1.5 GB. 6.12 has no selftests of ublk yet.
  dpkg-deb --fsys-tarfile "$deb"/*.deb | tar -xO "./usr/src/linux-source-$series.tar.xz" | xz -dc |
    tar -x -C "$to" --strip-components=1 --wildcards "${SOURCE_FILES[@]/#/linux-source-$series/}" ||
    [[ -f $to/drivers/block/ublk_drv.c ]]
  rm -rf "$deb"
}

build_kublk() { step "building kublk" compile_kublk "$1"; }
compile_kublk() {
  local dir=$SOURCE/${LAB_KERNELS[0]}/tools/testing/selftests/ublk sources
  mapfile -t sources < <(printf '%s\n' "$dir"/*.c | grep -v /metadata_size.c)
  gcc -D_GNU_SOURCE -O2 -isystem "$HEADERS/include" -o "$1/kublk" "${sources[@]}" "$HEADERS/liburing.a" -lpthread -lm
}

get_headers() {
  cached headers "$(digest "$LAB_DIR/apt.sh" "${LAB_KERNELS[0]}" "$(declare -f fetch_headers)")" build_headers
  HEADERS=$REPLY
}
get_source() {
  cached source "$(digest "$LAB_DIR/apt.sh" "${LAB_KERNELS[@]}" "${SOURCE_FILES[@]}" "$(declare -f extract_source)")" \
    build_source
  SOURCE=$REPLY
}
get_kublk() {
  get_headers; get_source
  cached kublk "$(digest "$HEADERS" "$SOURCE" "$(declare -f compile_kublk)")" build_kublk
  KUBLK=$REPLY
}

lab_deps
case ${1:-} in
  headers) with_cache_lock get_headers; echo "$HEADERS/include" ;;
  source) with_cache_lock get_source; echo "$SOURCE" ;;
  kublk) install_missing g++; with_cache_lock get_kublk; echo "$KUBLK/kublk" ;;
  *) fail 64 "usage: tests/lab/kublk.sh kublk|headers|source" ;;
esac
