# Counts and words for what gtest.sh and the lint checks left behind. Sourced.
# shellcheck shell=bash

PASSED=0 FAILED=0 SKIPPED=0
FAILURES=()       # "STAGE: name"
SKIPS=()          # "STAGE: name: reason"
NOT_RUN=()        # stages; why is in SKIPS

pass() { PASSED=$((PASSED + 1)); }
# failed STAGE WHAT [OUTPUT]: counts one; OUTPUT is shown at the end.
failed() {
  FAILED=$((FAILED + 1))
  FAILURES+=("$1: $2"$'\n'"${3:-}")
}
skipped() { SKIPPED=$((SKIPPED + 1)); SKIPS+=("$1: $2: $3"); }

# report_gtests STAGE OUT NAME...: counts the programs' results in OUT.
report_gtests() {
  local stage=$1 out=$2 name status seconds
  shift 2
  for name in "$@"; do
    read -r status seconds 2>/dev/null <"$out/$name.status" || status=missing seconds=0
    report_gtest "$stage" "$out" "$name" "$status" "$seconds"
  done
}

report_gtest() {
  local stage=$1 out=$2 name=$3 status=$4 seconds=$5 result test failures=0
  if ! jq -e . "$out/$name.json" >/dev/null 2>&1; then
    case $status in
      missing) failed "$stage" "$name (did not run)" ;;
      124 | 137 | stuck) failed "$stage" "$name (no end within its time limit, $seconds s)" "$(running_test "$out/$name.log")" ;;
      *) failed "$stage" "$name (ended with status $status before it could report)" "$(tail -n 60 "$out/$name.log")" ;;
    esac
    return
  fi
  while IFS=$'\t' read -r result test; do
    case $result in
      passed) pass ;;
      failed) failures=$((failures + 1)); failed "$stage" "$name $test" "$(test_output "$out/$name.log" "$test")" ;;
      skipped) skipped "$stage" "$test" "$(skip_reason "$out/$name.log" "$test")" ;;
      disabled) skipped "$stage" "$test" "disabled" ;;
    esac
  done < <(jq -r '.testsuites[].testsuite[] | [
      if .status == "NOTRUN" then "disabled" elif (.failures // []) != [] then "failed"
      elif .result == "SKIPPED" then "skipped" else "passed" end, .classname + "." + .name] | @tsv' "$out/$name.json")
  # A sanitizer, or a crash in a destructor at exit, speaks by the exit status only.
  if [[ $status != 0 ]] && ((!failures)); then
    failed "$stage" "$name (its tests passed, but it ended with status $status)" "$(tail -n 60 "$out/$name.log")"
  fi
}

# report_checks STAGE LOG COUNTS: counts what a script with named checks wrote, lines "pass NAME" and "fail NAME" in COUNTS;
# in LOG the same lines, each after what its check printed.
report_checks() {
  local stage=$1 log=$2 counts=$3 verdict check
  [[ -s $counts ]] || { failed "$stage" "${log##*/}: did not run" "$(tail -n 60 "$log")"; return; }
  while read -r verdict check; do
    if [[ $verdict == pass ]]; then pass; else
      failed "$stage" "$check" "$(awk -v end="fail $check (" 'index($0, end) == 1 {exit} /^(pass|fail) / {out = ""; next} {out = out $0 "\n"}
        END {printf "%s", out}' "$log" | tail -n 200)"
    fi
  done <"$counts"
}

# test_output LOG TEST: what the program printed between the start and the end of that test.
test_output() {
  awk -v name="$2" '
    index($0, "[ RUN      ] ") == 1 && substr($0, 14) == name {on = 1}
    on {print}
    on && /^\[  (FAILED |SKIPPED)/ {exit}' "$1" | head -n 200
}
# running_test LOG: the test that had begun last, with its output.
running_test() { tac "$1" | awk '{print} /^\[ RUN /{exit}' | tac | tail -n 60; }
skip_reason() {
  test_output "$1" "$2" | awk '/: Skipped$/ {on = 1; next} /^\[  SKIPPED/ {exit} on && NF {print}' | xargs -0 printf '%s' | tr '\n' ' ' |
    sed 's/ *$//'
}

# print_report: failures with their output, skips with their reasons, and the counts as the last line.
print_report() {
  local entry
  if ((${#SKIPS[@]})); then
    printf '\nSkipped:\n'
    printf '  %s\n' "${SKIPS[@]}"
  fi
  if ((${#FAILURES[@]})); then
    printf '\nFailed:\n'
    for entry in "${FAILURES[@]}"; do
      printf '  %s\n' "${entry%%$'\n'*}"
      [[ -z ${entry#*$'\n'} ]] || printf '%s\n' "${entry#*$'\n'}" | sed 's/^/    | /'
    done
  fi
  printf '\n'
  ((!${#NOT_RUN[@]})) || printf 'Not run: %s\n' "${NOT_RUN[*]}"
  if ((SKIPPED)); then
    printf '%d passed, %d failed, %d skipped\n' "$PASSED" "$FAILED" "$SKIPPED"
  else
    printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
  fi
}
