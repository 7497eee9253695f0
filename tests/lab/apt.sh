# Debian packages from a newer suite than the machine's own, without touching the machine's apt:
# own sources, lists and archives in the cache, signatures checked against Debian's keyring.
# shellcheck shell=bash

DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# debian_mirror: the Debian mirror this machine uses, from its own apt sources.
debian_mirror() {
  local mirror
  mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{sources,list} 2>/dev/null |
    grep -v '^[[:space:]]*#' | grep -oE '(https?|file|ftp)://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ') || true
  [[ -n $mirror ]] || fail 1 "no Debian mirror found in this machine's apt sources (/etc/apt/sources.list and" \
    "sources.list.d). The lab takes its kernels and packages from there: add a Debian source and try again."
  printf '%s\n' "$mirror"
}

# suite_apt COMMAND ARGS...: apt-get, apt-cache with only the suites below as sources.
suite_apt() {
  local command=$1 dir=$LAB_CACHE/apt; shift
  "$command" -oDir::Etc::SourceList="$dir/sources.list" -oDir::Etc::SourceParts=/dev/null \
    -oDir::State::Lists="$dir/lists" -oDir::Cache="$dir/cache" -oDir::State::status=/dev/null \
    -oAPT::Sandbox::User=root -oAPT::Architecture=amd64 "$@"
}

suite_apt_update() {
  local dir=$LAB_CACHE/apt mirror suite
  mkdir -p "$dir"/{lists/partial,cache/archives/partial}
  mirror=$(debian_mirror)
  for suite in bookworm-backports trixie trixie-updates trixie-backports; do
    printf 'deb [signed-by=%s] %s %s main\n' "$DEBIAN_KEYRING" "$mirror" "$suite"
  done >"$dir/sources.list"
  suite_apt apt-get update -qq
}
