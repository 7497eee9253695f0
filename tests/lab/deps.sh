#!/bin/bash
# The Debian packages this project's chores need: `./dev deps` installs those that are missing.
# Sourced, it gives install_missing and the lists.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

BUILD_PACKAGES=(g++ cmake ninja-build ccache pkg-config liburing-dev libcpprest-dev libyaml-cpp-dev libspdlog-dev
  libfmt-dev libgtest-dev libgmock-dev nlohmann-json3-dev libcli11-dev libcap-dev libcap2-bin prometheus-cpp-dev)
SANITIZER_PACKAGES=(clang-19 libclang-rt-19-dev)
LINT_PACKAGES=(clang-format-19 clang-tidy-19 shellcheck jq)
LAB_PACKAGES=(qemu-system-x86 qemu-utils mmdebstrap debian-archive-keyring cpio kmod e2fsprogs busybox-static xz-utils
  zstd jq util-linux)
CLUSTER_PACKAGES=(gcc libc6-dev openssh-client openssl nbdkit jq)
# promtool
CHART_PACKAGES=(prometheus jq)
IMAGE_PACKAGES=(buildah binutils kmod jq)

# install_missing PACKAGE...: does nothing, quickly, when all are there.
install_missing() {
  local missing
  mapfile -t missing < <(comm -23 <(printf '%s\n' "$@" | sort -u) \
    <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u))
  ((${#missing[@]})) || return 0
  [[ $(id -u) == 0 ]] || fail 1 "missing Debian packages: ${missing[*]}. Install them, or run this as root."
  step "installing ${missing[*]}" apt_install "${missing[@]}"
}

apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=300 update -qq
  apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$@"
}

lab_deps() { install_missing "${LAB_PACKAGES[@]}"; }
all_deps() { install_missing "${BUILD_PACKAGES[@]}" "${SANITIZER_PACKAGES[@]}" "${LINT_PACKAGES[@]}" "${LAB_PACKAGES[@]}" "${CLUSTER_PACKAGES[@]}" \
  "${CHART_PACKAGES[@]}" "${IMAGE_PACKAGES[@]}"; }

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  start=$(now_ms)
  all_deps
  say "all packages are there ($(seconds "$start") s)"
fi
