# Helpers every lab script starts from: where things are, how a chore speaks, how a slow
# result gets into the cache exactly once. Sourced, never run.
# shellcheck shell=bash

LAB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$LAB_DIR/../.." && pwd)
CACHE_ROOT=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ublk-operator
LAB_CACHE=${UBLK_LAB_CACHE:-$CACHE_ROOT/lab}
LAB_CACHE=$(realpath -m "$LAB_CACHE")

say()  { printf '%s\n' "lab: $*" >&2; }
# fail STATUS WHAT...: what failed, on what, why, what to do; then leave.
fail() { local status=$1; shift; printf '%s\n' "lab: error: $*" >&2; exit "$status"; }

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
# await SECONDS COMMAND...: until COMMAND succeeds. For what sends no event.
await() {
  local end=$(($(now_ms) + $1 * 1000)); shift
  until "$@"; do
    (($(now_ms) < end)) || return 1
    sleep 0.2
  done
}
# seconds SINCE_MS: time since then as "12.3".
seconds() { local d=$(($(now_ms) - $1)); printf '%d.%d' $((d / 1000)) $((d % 1000 / 100)); }
# processor_ticks [FILE]: this machine's processor time so far, "USED STOLEN": stolen is what it wanted while its host ran others.
processor_ticks() { awk '$1 == "cpu" {print $2 + $3 + $4 + $7 + $8, $9}' "${1:-/proc/stat}"; }
# percent_stolen TICKS [FILE]: of the processor time wanted since processor_ticks said TICKS, the percentage that was stolen; 0
# where less than ten seconds were wanted.
percent_stolen() {
  local used stolen used_now stolen_now
  read -r used stolen <<<"$1"
  read -r used_now stolen_now < <(processor_ticks "${2:-/proc/stat}")
  used=$((used_now - used)) stolen=$((stolen_now - stolen))
  echo $((used + stolen >= 1000 ? 100 * stolen / (used + stolen) : 0))
}

# step NAME COMMAND...: run it quietly, say how long it took; its output only when it fails.
# The command runs in a subshell with errexit. Never call step (or cached, or with_cache_lock) in a
# condition or before ||: bash would silently switch errexit off inside.
step() {
  local name=$1 start log status; shift
  start=$(now_ms); log=$(mktemp)
  say "$name ..."
  set +e
  (set -e; "$@") >"$log" 2>&1
  status=$?
  set -e
  if ((status)); then
    tail -n 40 "$log" >&2; rm -f "$log"
    fail 1 "$name failed with status $status (command: $1); its last lines are above." \
      "Nothing half-done was kept: mend the cause and run it again."
  fi
  rm -f "$log"
  say "$name: $(seconds "$start") s"
}

# digest FILE|STRING...: one short hash of all of them; names of existing files stand for their content.
digest() {
  local part
  for part in "$@"; do
    if [[ -f $part ]]; then sha256sum <"$part"; else printf '%s\n' "$part"; fi
  done | sha256sum | cut -c1-16
}

# with_cache_lock COMMAND...: one builder at a time; the others wait and then find the result.
# The lock is given up when this process ends, however it ends. Nested calls are harmless.
with_cache_lock() {
  if [[ -n ${LAB_LOCK_FD:-} ]]; then "$@"; return; fi
  mkdir -p "$LAB_CACHE"
  exec {LAB_LOCK_FD}>"$LAB_CACHE/lock"
  if ! flock -n "$LAB_LOCK_FD"; then
    say "another run is building the lab in $LAB_CACHE; waiting for it"
    flock "$LAB_LOCK_FD"
  fi
  "$@"
  exec {LAB_LOCK_FD}>&-
  unset LAB_LOCK_FD
}

# cached KIND KEY BUILDER...: the folder LAB_CACHE/KIND-KEY, made by `BUILDER... TMPDIR` when it is
# not there. It appears under its name only when complete, so an interrupted build leaves nothing
# that could be taken for a result. Call it under with_cache_lock. Sets REPLY.
cached() {
  local kind=$1 result=$LAB_CACHE/$1-$2 tmp; shift 2
  if [[ ! -d $result ]]; then
    rm -rf "$LAB_CACHE/tmp.$kind".*     # leftovers of a killed build: we hold the lock
    tmp=$(mktemp -d "$LAB_CACHE/tmp.$kind.XXXXXX")
    chmod 755 "$tmp"
    "$@" "$tmp"
    # What this kind had before, once unused for two hours (until then an overlay may rest on it).
    find "$LAB_CACHE" -maxdepth 1 -type d -name "$kind-*" -mmin +120 -exec rm -rf {} +
    mv -T "$tmp" "$result"
  fi
  touch "$result"                       # in use: see above
  REPLY=$result
}
