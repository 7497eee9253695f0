#!/bin/bash
# Tries the parts of the lab that decide what counts as a failure: a mistake here would let every other
# test pass unseen. Needs no VM and no compiler; takes about two seconds.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$LAB_DIR/report.sh"
. "$LAB_DIR/kernel-log.sh"
. "$LAB_DIR/beside.sh"
. "$LAB_DIR/late.sh"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
wrong=0
# expect NAME WANT GOT
expect() { [[ $2 == "$3" ]] || { printf 'lab selftest: %s: expected "%s", got "%s"\n' "$1" "$2" "$3"; wrong=$((wrong + 1)); }; }

# Stand-ins for GoogleTest programs: they get the same arguments and may write the same report.
# shellcheck disable=SC2016
stand_in() { printf '#!/bin/bash\njson=${2#--gtest_output=json:}\n%s\n' "$2" >"$dir/$1"; chmod +x "$dir/$1"; }
report='{"testsuites":[{"testsuite":[
  {"name":"Works","status":"RUN","result":"COMPLETED","classname":"A"},
  {"name":"Waits","status":"RUN","result":"SKIPPED","classname":"A"},
  {"name":"Sleeps","status":"NOTRUN","result":"SUPPRESSED","classname":"A"}%s]}]}'
breaks=',{"name":"Breaks/1","status":"RUN","result":"COMPLETED","classname":"A","failures":[{}]}'
# shellcheck disable=SC2059
{ printf "$report" '' >"$dir/good.json"; printf "$report" "$breaks" >"$dir/bad.json"; }
stand_in good "cp $dir/good.json \"\$json\"; printf '[ RUN      ] A.Waits\nx.cc:1: Skipped\nno such kernel\n[  SKIPPED ] A.Waits (0 ms)\n'"
stand_in bad "cp $dir/bad.json \"\$json\"; printf '[ RUN      ] A.Breaks/1\nbecause\n[  FAILED  ] A.Breaks/1 (0 ms)\n'; exit 1"
stand_in crashes "printf '[ RUN      ] A.Crashes\n'; kill -ABRT \$\$"
stand_in hangs "printf '[ RUN      ] A.Hangs\n'; sleep 100"
echo 1 >"$dir/hangs.timeout"
stand_in complains "cp $dir/good.json \"\$json\"; exit 66"

start=$(now_ms)
"$LAB_DIR/gtest.sh" "$dir/out" 2 300 "$dir"/{good,bad,crashes,hangs,complains} >/dev/null
expect "NAME.timeout overrides the limit" yes "$( (($(now_ms) - start < 120000)) && echo yes)"

report_gtests s "$dir/out" good bad crashes hangs complains gone
names=$(for entry in "${FAILURES[@]}"; do echo "${entry%%$'\n'*}"; done)
expect "passes" 3 "$PASSED"
expect "failures" 5 "$FAILED"
expect "skips" 6 "$SKIPPED"
expect "a failed test is named" 1 "$(grep -c '^s: bad A.Breaks/1$' <<<"$names")"
expect "a failed test's output is kept" 1 "$(printf '%s\n' "${FAILURES[@]}" | grep -c '^because$')"
expect "a crash is named" 1 "$(grep -c '^s: crashes (ended with status 134' <<<"$names")"
expect "a hang is named" 1 "$(grep -c '^s: hangs (no end' <<<"$names")"
expect "a hang's test is shown" 1 "$(printf '%s\n' "${FAILURES[@]}" | grep -c 'A.Hangs')"
expect "a bad exit status counts although all passed" 1 "$(grep -c '^s: complains .* status 66' <<<"$names")"
expect "a program that never ran counts" 1 "$(grep -c '^s: gone (did not run)$' <<<"$names")"
expect "a skip has its reason" 1 "$(printf '%s\n' "${SKIPS[@]}" | grep -c '^s: A.Waits: no such kernel$' || true)"
NOT_RUN=(cluster asan)
expect "what did not run is said beside the counts" "Not run: cluster asan" "$(print_report | tail -n 2 | head -n 1)"
expect "the last line is the counts" "3 passed, 5 failed, 6 skipped" "$(print_report | tail -n 1)"
SKIPPED=0
expect "no skips, shorter counts" "3 passed, 5 failed" "$(print_report | tail -n 1)"

log() { printf '[    1.0] %s\r\n' "lab: test first" "$@" >"$dir/kernel.log"; kernel_bugs "$dir/kernel.log"; }
expect "a clean kernel log" "" "$(log 'usb: hello' 'lab: test second')"
for line in 'WARNING: CPU: 0 PID: 1 at block/x.c:1' 'BUG: kernel NULL pointer dereference' 'Oops: 0000 [#1]' \
  'INFO: task dd:12 blocked for more than 120 seconds.' 'Kernel panic - not syncing: x' \
  'watchdog: BUG: soft lockup - CPU#0'; do
  expect "noticed: $line" "during first:" "$(log "$line" | head -n 1)"
done

panic() {
  printf '[  144.%s] %s\r\n' 014115 'BUG: kernel NULL pointer dereference, address: 0000000000000000' 016050 "RIP: 0010:$1+0x23/0x30" \
    021161 ' <TASK>' 021424 " $2+0x63/0xd4" 026528 'Kernel panic - not syncing: Fatal exception' >>"$dir/kernel.log"
  if known_kernel_panic "$dir/kernel.log"; then echo known; fi
}
log 'usb: hello' >/dev/null
expect "a known panic" known "$(panic percpu_ref_get_many io_fallback_tw)"
expect "nothing before it" "" "$(kernel_bugs <(before_the_panic "$dir/kernel.log"))"
log 'Oops: 0000 [#1]' >/dev/null
expect "another before it is not hidden" "during first:" "$(panic percpu_ref_get_many io_fallback_tw >/dev/null; kernel_bugs <(before_the_panic "$dir/kernel.log") | head -n 1)"
log 'usb: hello' >/dev/null
expect "a panic elsewhere is not known" "" "$(panic percpu_ref_get_many io_ring_exit_work)"

# A quarter of what was wanted: 1,500 used (nice, interrupts and softirqs too), 500 stolen. Idle and waiting are neither.
printf 'cpu  1800 100 400 9000 800 100 100 800 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n' >"$dir/stat"
expect "stolen time" 25 "$(percent_stolen "1000 300" "$dir/stat")"
expect "too little wanted to say" 0 "$(percent_stolen "2500 300" "$dir/stat")"

# What is left out of a run that is late.
CACHE_ROOT=$dir/times-cache
late() { too_late "$1" $(($2 * 60000)) >/dev/null && echo late; }
expect "a first cluster within its time" "" "$(late cluster 39)"
expect "a first cluster that would reach CI's limit" late "$(late cluster 41)"
expect "a first sanitizer" late "$(late asan 46)"
remember_first asan 12.3
expect "it is known what its first run took" 12.3 "$(first_took asan)"
expect "one that ran before compiles little" "" "$(late asan 46)"
expect "but is not begun at any time" late "$(late asan 71)"
expect "what is short is always begun" "" "$(late unit 89)"

# The cache: a builder that fails leaves nothing behind, one that succeeds runs once.
LAB_CACHE=$dir/cache
builds() { echo x >>"$dir/builds"; touch "$1/done"; }
breaks() { touch "$1/half"; false; }
twice() { cached thing k builds; cached thing k builds; [[ -f $REPLY/done ]]; }
set +e
(set -e; with_cache_lock cached thing other breaks) >/dev/null 2>&1
expect "a failed build fails" 1 $?
(set -e; with_cache_lock twice)
expect "a build succeeds" 0 $?
set -e
expect "a failed build leaves no result" "" "$(compgen -G "$LAB_CACHE/thing-other" || true)"
expect "what it began is cleared away" "" "$(compgen -G "$LAB_CACHE/tmp.*" || true)"
expect "a build runs once" 1 "$(wc -l <"$dir/builds")"

# Work beside other work: its status is kept until somebody asks, and nothing of it outlives who began it.
RESULTS=$dir
begin short bash -c 'exit 7'
# shellcheck disable=SC2016
begin long bash -c 'trap "touch $1/cleared" EXIT; trap "exit 143" TERM; touch "$1/begun"; sleep 100' long "$dir" 2>/dev/null
await 10 test -e "$dir/begun"
status=0; finish short || status=$?
expect "its status is the command's" 7 "$status"
end_what_was_begun
expect "what was begun has cleared up when its end is over" yes "$([[ -e $dir/cleared ]] && echo yes)"

((!wrong)) && echo "lab selftest: ok"
