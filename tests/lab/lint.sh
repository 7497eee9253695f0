#!/bin/bash
# Formatting, static analysis, shell scripts, documentation: `./dev lint` is this script. With --counts FILE it
# writes a line "pass|fail NAME" for each check. Analysis results are kept by content, so a second run looks only
# at what changed. With --quick, which is what `./dev test` has time for, clang-tidy looks at the
# product's sources without its analyzer, which takes two thirds of the time. --only tidy and --only
# others: clang-tidy, or all but that.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/build.sh"

counts=/dev/null
quick='' only=''
while (($#)); do
  case $1 in
    --counts) counts=$2; shift 2 ;;
    --quick) quick=1; shift ;;
    --only) only=$2; shift 2 ;;
    *) fail 64 "usage: ./dev lint [--quick] [--only tidy|others]" ;;
  esac
done
: >"$counts"
TIDY_CACHE=$CACHE_ROOT/tidy

check_format() {
  local files
  mapfile -t files < <(git ls-files '*.cc' '*.h')
  ((${#files[@]})) || return 0
  printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -n 16 clang-format-19 --dry-run --Werror
  # It leaves comments as they are.
  awk 'length > 100 {print FILENAME ":" FNR ": a line of more than 100 columns"; long = 1} END {exit long}' "${files[@]}"
}

tidy_sources() {
  if [[ $quick ]]; then git ls-files '*.cc' | grep -vE '^tests/|_test\.cc$'; else git ls-files '*.cc'; fi
}

# A translation unit's key is everything its result depends on: the tool and its settings, the command
# line, and the content of every file that the compiler said it had read.
check_tidy() {
  local work settings key file object command todo=() total=0 status=0
  build_preset release >/dev/null || { echo "the release build fails: see ./dev build"; return 1; }
  mkdir -p "$TIDY_CACHE"
  find "$TIDY_CACHE" -type f -mtime +30 -delete
  work=$(mktemp -d)
  mkdir "$work/read"
  (
    cd build/release
    ninja -t deps | awk -v OFS='\t' '/^[^ ]/ {sub(/:.*/, ""); object = $0; next} NF {sub(/^ +/, ""); print object, $0}' \
      >"$work/deps"
    # Each file is hashed once, however many units include it. One that is gone has no line.
    cut -f2 "$work/deps" | sort -u | tr '\n' '\0' | { xargs -0 -n 500 sha256sum 2>/dev/null || true; } | sed 's/  /\t/' >"$work/sums"
  )
  awk -F'\t' -v dir="$work/read" '
    NR == FNR {sum[$2] = $1; next}
    $1 != object {close(out); object = out = $1; gsub("/", "_", out); out = dir "/" out}
    {print sum[$2] >out}' "$work/sums" "$work/deps"
  settings=$({ clang-tidy-19 --version; git ls-files '*.clang-tidy' | tr '\n' '\0' | xargs -0 cat; } | sha256sum)
  while IFS=$'\t' read -r file object command; do
    total=$((total + 1))
    key=$({ printf '%s\n' "$settings" "${command//"$PWD"/}"; cat "$work/read/${object//\//_}"; } | sha256sum | cut -c1-40)
    # What passed the whole analysis passes the quick one.
    if [[ -f $TIDY_CACHE/$key ]]; then touch "$TIDY_CACHE/$key"
    elif [[ $quick && -f $TIDY_CACHE/$key.quick ]]; then touch "$TIDY_CACHE/$key.quick"
    else todo+=("$file $key${quick:+.quick --checks=-clang-analyzer-*}"); fi  # a blank at a line's end would join it with the next
  done < <(jq -r --arg repo "$PWD/" '.[] | select(.file | startswith($repo)) |
    [.file[($repo | length):], (.command | capture(" -o (?<o>[^ ]+)").o), .command] | @tsv' build/release/compile_commands.json |
    grep -Ff <(tidy_sources | sed 's/$/\t/'))
  rm -rf "$work"
  echo "clang-tidy: $total files, $((total - ${#todo[@]})) unchanged since they passed"
  export TIDY_CACHE
  ((!${#todo[@]})) || printf '%s\n' "${todo[@]}" | xargs -P "$(nproc)" -L 1 tests/lab/tidy-one.sh || status=1
  return "$status"
}

shell_scripts() {
  local file
  git ls-files | while read -r file; do
    [[ -f $file && ! -L $file ]] || continue
    if [[ $file == *.sh ]] || head -c 64 "$file" | head -n 1 | grep -qaE '^#!.*\b(bash|sh)\b'; then echo "$file"; fi
  done
}
check_shell_syntax() {
  local file status=0
  while read -r file; do
    if head -n 1 "$file" | grep -q busybox; then sh -n "$file" || status=1; else bash -n "$file" || status=1; fi
  done < <(shell_scripts)
  return "$status"
}
# SC1091: a sourced file that is not on this machine. SC2034: variables that a sourcing script reads.
# SC2317: functions called by a name in a variable.
check_shellcheck() { shell_scripts | xargs -r shellcheck -x -e SC1091,SC2034,SC2317; }

status=0
check() {
  local name=$1 start log rc verdict=pass; shift
  start=$(now_ms)
  log=$(mktemp)
  set +e; (set -e; "$@") >"$log" 2>&1; rc=$?; set -e
  if ((rc)); then verdict=fail status=1; fi
  sed 's/^/  /' "$log"
  rm -f "$log"
  printf '%s %s (%s s)\n' "$verdict" "$name" "$(seconds "$start")"
  printf '%s %s\n' "$verdict" "$name" >>"$counts"
}

cd "$REPO"
install_missing "${BUILD_PACKAGES[@]}" "${LINT_PACKAGES[@]}" jq
if [[ $only != tidy ]]; then
  check "shell syntax" check_shell_syntax
  check "shellcheck" check_shellcheck
  check "documentation" tests/lab/docs.sh
  check "lab selftest" tests/lab/selftest.sh
  check "clang-format" check_format
fi
[[ $only == others ]] || check "clang-tidy" check_tidy
exit $status
