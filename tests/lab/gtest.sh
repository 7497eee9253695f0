#!/bin/bash
# Runs GoogleTest programs, each with a time limit, and keeps what they say:
#   gtest.sh OUT JOBS LIMIT PROGRAM...
# leaves OUT/NAME.json (GoogleTest's own report), OUT/NAME.log and OUT/NAME.status ("STATUS SECONDS",
# where STATUS is an exit status or "stuck": not even SIGKILL ended it). PROGRAM.timeout, if there,
# overrides LIMIT (seconds). Runs on the build host and, with JOBS 1, inside the lab's VM, where it
# also removes what a program left running. Exit status 0 whatever the tests say: see report.sh.
set -u

out=$1 jobs=$2 default_limit=$3
shift 3
in_vm=${UBLK_LAB_KERNEL:-}
mkdir -p "$out"

# Sets REPLY to the pids there are now, apart from the kernel's threads (which have no executable).
# No process is started for it: under emulation each costs milliseconds.
user_processes() {
  local dir
  REPLY=' '
  for dir in /proc/[0-9]*; do
    [[ ! -e $dir/exe ]] || REPLY+="${dir#/proc/} "
  done
}

# kill_new BEFORE: ends what is running now and was not in BEFORE, but for udev's workers.
kill_new() {
  local pid
  user_processes
  for pid in $REPLY; do
    [[ $1 == *" $pid "* || /proc/$pid/exe -ef /bin/udevadm ]] || kill -KILL "$pid" 2>/dev/null
  done
}

run_one() {
  local program=$1 name=${1##*/} limit=$default_limit pid alarm status start before left
  [[ ! -r $program.timeout ]] || limit=$(<"$program.timeout")
  start=$EPOCHREALTIME
  if [[ $in_vm ]]; then
    user_processes
    before=$REPLY
    echo "lab: test $name" >/dev/kmsg
  fi
  # A new session: nothing it starts can reach this shell or the next program.
  setsid timeout -k 10 "$limit" "$program" --gtest_color=no "--gtest_output=json:$out/$name.json" \
    >"$out/$name.log" 2>&1 </dev/null &
  pid=$!
  [[ $in_vm ]] || trap 'kill -- "-$pid" 2>/dev/null; exit 143' TERM
  sleep $((limit + 30)) & alarm=$!
  { wait -n "$pid" "$alarm"; } 2>/dev/null
  status=$?
  if kill -0 "$pid" 2>/dev/null; then status=stuck; else kill "$alarm" 2>/dev/null; fi
  if [[ $in_vm ]]; then
    kill_new "$before"
    left=$(compgen -G '/dev/ublkc*' | xargs)
    [[ -z $left ]] || echo "lab: left behind by $name: $left" | tee -a "$out/$name.log"
  fi
  awk -v s="$status" -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN {printf "%s %.1f\n", s, b - a}' >"$out/$name.status"
  printf '  %-40s %8.1f s  %s\n' "$name" "$(cut -d' ' -f2 "$out/$name.status")" \
    "$(if [[ $status == 0 ]]; then echo ok; else echo "status $status"; fi)"
}

for program in "$@"; do
  if ((jobs == 1)); then
    run_one "$program"
  else
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
    run_one "$program" &
  fi
done
wait
exit 0
