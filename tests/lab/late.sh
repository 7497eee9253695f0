# What takes long is not begun late: CI ends a run after 90 minutes without an answer, and is to have one within 60. Sourced.
# shellcheck shell=bash

# What takes more than five minutes at its first run, and after how many minutes since the begin of `./dev test all` it is left out: where it
# never ran before, and where it did. The first run of cluster and api compiles Kubernetes, and a cluster takes about as long as all before
# it; asan, tsan and tidy compile all of this again.
declare -A NOT_BEGUN_AFTER=([cluster]="40 40" [api]="40 40" [asan]="45 70" [tsan]="45 70" [tidy]="45 70")

# first_took STAGE: the seconds that its first whole run here took, with nothing of it in the cache; nothing where it never ran.
first_took() { cat "$CACHE_ROOT/times/$1" 2>/dev/null || true; }
# remember_first STAGE SECONDS: kept with the cache.
remember_first() {
  mkdir -p "$CACHE_ROOT/times"
  printf '%s\n' "$2" >"$CACHE_ROOT/times/$1"
}
# too_late STAGE MILLISECONDS: why it is left out so long after the run's begin; fails when it is not.
too_late() {
  local first known minutes
  [[ -v NOT_BEGUN_AFTER[$1] ]] || return 1
  read -r first known <<<"${NOT_BEGUN_AFTER[$1]}"
  minutes=$first
  [[ ! $(first_took "$1") ]] || minutes=$known
  (($2 > minutes * 60000)) || return 1
  printf '%s minutes had passed when its turn came: %s does it\n' "$minutes" "\`./dev test $1\`"
}
