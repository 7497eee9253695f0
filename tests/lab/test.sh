#!/bin/bash
# All checks in stages: `./dev test` is this script. Each stage says how long it took and what it
# counted; failures with their output, skips with their reasons and the counts come at the end.
#   ./dev test [--long]          all stages, but for those of NOT_BEGUN_AFTER that never ran here
#   ./dev test [--long] all      all stages: what CI does; without --long see NOT_BEGUN_AFTER
#   ./dev test [--long] STAGE... those
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/build.sh"
. "$LAB_DIR/report.sh"
. "$LAB_DIR/kernel-log.sh"
. "$LAB_DIR/beside.sh"
. "$LAB_DIR/late.sh"

STAGES=(deps build lint chart unit vm-7.2 vm-6.12 systemd cluster api asan tsan tidy)
UNIT_LIMIT=120      # seconds a unit test program may take; more under a sanitizer
VM_LIMIT=600        # the same for one that needs a kernel or an API server, unless NAME.timeout says otherwise
VM_TOTAL_LIMIT=2700 # seconds that all of them may take in one VM
RESULTS=$REPO/build/results
trap end_what_was_begun EXIT

# What takes more than five minutes is shorter without --long, and says so.
LONG=''
wanted=() limited=''
for argument in "$@"; do
  if [[ $argument == --long ]]; then LONG=1; else wanted+=("$argument"); fi
done
if ((!${#wanted[@]})); then
  # So that a new machine has its answer within half an hour, what takes long there waits until somebody asks for it.
  for stage in "${STAGES[@]}"; do
    if [[ ! $LONG && -v NOT_BEGUN_AFTER[$stage] && ! $(first_took "$stage") ]]; then
      SKIPS+=("stage $stage: its first run here takes more than 5 minutes: \`./dev test $stage\` does it, and from then on \`./dev test\` too")
      NOT_RUN+=("$stage")
    else
      wanted+=("$stage")
    fi
  done
elif [[ ${wanted[*]} == all ]]; then
  wanted=("${STAGES[@]}")
  [[ $LONG ]] || limited=1
fi
for stage in "${wanted[@]}"; do
  [[ " ${STAGES[*]} " == *" $stage "* ]] || fail 64 "no stage '$stage'; there are: ${STAGES[*]}"
done
# In their order whatever order they were named in, and each once: one may go on beside the next.
named=" ${wanted[*]} " wanted=()
for stage in "${STAGES[@]}"; do
  [[ $named != *" $stage "* ]] || wanted+=("$stage")
done

# logged COMMAND...: run it, output to the stage's log; a failure's last lines become one failed count.
logged() {
  set +e; (set -e; "$@") >"$log" 2>&1; local rc=$?; set -e
  ((!rc)) || failed "$stage" "status $rc (whole log: ${log#"$REPO"/})" "$(why_it_broke "$log")"
  return $rc
}
# why_it_broke LOG: what the failed steps of a build said; of any other log the end.
why_it_broke() {
  awk '/^FAILED: / {on = 1} /^\[[0-9]+\/[0-9]+\]/ {on = 0} on' "$1" | head -n 120 | grep . || tail -n 60 "$1"
}

stage_deps() {
  # Not in a subshell: what is missing is announced while it is being installed.
  all_deps
  note="all packages there"
}

stage_build() { build_stage release; }
# build_stage PRESET [TARGET...]: note says how much work it was.
build_stage() {
  local misses hits misses_after hits_after
  read -r misses hits < <(compiler_work)
  logged build_preset "$@" || return
  read -r misses_after hits_after < <(compiler_work)
  if grep -q 'ninja: no work to do' "$log"; then
    note="warm: nothing to build"
  else
    note="compiled $((misses_after - misses)), from ccache $((hits_after - hits))"
  fi
}

stage_lint() {
  set +e; "$LAB_DIR/lint.sh" --only others --counts "$RESULTS/lint.counts" >"$log" 2>&1; set -e
  report_checks lint "$log" "$RESULTS/lint.counts"
}
stage_tidy() {
  set +e; "$LAB_DIR/lint.sh" --quick --only tidy --counts "$RESULTS/tidy.counts" >"$log" 2>&1; set -e
  # Without a cache all of it takes 25 minutes on two cores.
  SKIPS+=("tidy: clang-tidy's analyzer, and clang-tidy of the tests: \`./dev lint\` does both")
  note=$(sed -n 's/^ *clang-tidy: //p' "$log")
  report_checks tidy "$log" "$RESULTS/tidy.counts"
}

# What users install, without a cluster.
stage_chart() { checks_stage chart_test; }
# checks_stage NAME...: scripts below tests, each with its named checks.
checks_stage() {
  local name script
  for name in "$@"; do
    log=$RESULTS/$name.log
    script=$(compgen -G "tests/*/$name.sh")
    set +e; "$script" --counts "$RESULTS/$name.counts" >"$log" 2>&1; set -e
    report_checks "$stage" "$log" "$RESULTS/$name.counts"
  done
}

# A real cluster, of its own, so that one that is up is left alone: what its API server says, and what applications see
# when the node's pod dies, and what of all that its node goes through.
stage_cluster() {
  export UBLK_CLUSTER_DIR=$RESULTS/cluster-lab UBLK_CLUSTER_PORT=${UBLK_CLUSTER_PORT:-19443}
  # With --long it measures, and does that alone.
  if [[ " ${wanted[*]} " == *" api "* && -f build/release/build.ninja && ! $build_broken && ! $LONG ]]; then begin_api; fi
  logged tests/lab/cluster/cluster.sh up || return 0
  checks_stage bad_objects_test privilege_test
  log=$RESULTS/image.log
  if logged "$REPO/dev" image --no-build; then
    if [[ ! $LONG ]]; then
      export ROUNDS=1 KILLS=2 REBOOT='' LIFECYCLE=short COMPILE=''
      SKIPS+=("cluster: the other rounds of recovery_test: \`./dev test --long cluster\` kills everything ten times")
      SKIPS+=("cluster: one program compiled again, of image_test: \`./dev test --long cluster\`")
      SKIPS+=("cluster: the reboot of node_test: \`./dev test --long cluster\`")
      SKIPS+=("cluster: rollback, uninstall, install.yaml and what comes after them in chart_lifecycle_test: \`./dev test --long cluster\`")
    fi
    checks_stage image_test readme_test recovery_test overlap_test verdicts_test examples_test node_test chart_lifecycle_test
    note=$(sed -n 's/^  \(Reissue .*max [0-9]* ms\)$/\1/p' "$RESULTS/recovery_test.log" | tail -n 1)
  fi
  log=$RESULTS/cluster-down.log
  logged tests/lab/cluster/cluster.sh down || true
  unset UBLK_CLUSTER_DIR
}

# Programs with an API server of their own, which they may kill: no node, no VM. They wait nearly all of their time, so they do
# that beside the stage before.
begin_api() {
  local sizes=()
  install_missing "${CLUSTER_PACKAGES[@]}"
  mapfile -t api_programs < <(test_programs release cluster)
  ((${#api_programs[@]})) || return 0
  [[ ! $LONG ]] || sizes=(UBLK_SCALE_VOLUMES=5000 UBLK_SCALE_NODES=50 UBLK_SCALE_QUIET_SECONDS=300)
  rm -rf "$RESULTS/api"; mkdir -p "$RESULTS/api"
  begin api env UBLK_APISERVER_LOGS="$RESULTS/api/server" "${sizes[@]}" tests/cluster/apiserver.sh \
    "$LAB_DIR/gtest.sh" "$RESULTS/api" 1 "$VM_LIMIT" "${api_programs[@]/#/$REPO/build/release/}" >"$RESULTS/api.log" 2>&1
}
stage_api() {
  local status=0
  out=$RESULTS/$stage
  [[ ${BESIDE[$stage]:-} ]] || begin_api
  ((${#api_programs[@]})) || { skip_stage "there are no tests in build/release/cluster"; return; }
  finish "$stage" || status=$?
  ((!status)) || { failed "$stage" "status $status (whole log: ${log#"$REPO"/})" "$(tail -n 60 "$log")"; return 0; }
  [[ $LONG ]] || SKIPS+=("api: scale_cluster_test with 5000 volumes on 50 nodes: \`./dev test --long api\`; here it has 300 on 10")
  report_gtests "$stage" "$out" "${api_programs[@]##*/}"
  note="${#api_programs[@]} programs; $(sed -n '/^[0-9]* volumes on /p' "$out/scale_cluster_test.log" 2>/dev/null || true)"
}

# unit_stage PRESET LIMIT: the unit tests of that build, two at a time.
unit_stage() {
  local preset=$1 limit=$2 programs start
  out=$RESULTS/$stage
  rm -rf "$out"; mkdir -p "$out"
  if [[ $preset != release ]]; then
    install_missing "${SANITIZER_PACKAGES[@]}"
    logged configure_preset "$preset" || return 0
  fi
  mapfile -t programs < <(test_programs "$preset" unit | { if [[ $preset == tsan ]]; then grep -vxFf <(printf 'unit/%s\n' "${TSAN_LEAVES_OUT[@]}"); else cat; fi; })
  [[ $preset == release ]] || build_stage "$preset" "${programs[@]}" || return 0
  ((${#programs[@]})) || { skip_stage "there are no unit tests in build/$preset"; return; }
  start=$(now_ms)
  (
    cd "$REPO"
    export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
    export UBSAN_OPTIONS=print_stacktrace=1
    # Sanitizers cannot place their shadow where kernels newer than they are randomise addresses.
    setarch -R "$LAB_DIR/gtest.sh" "$out" "$(nproc)" "$limit" "${programs[@]/#/$REPO/build/$preset/}" >"$out/summary"
  )
  report_gtests "$stage" "$out" "${programs[@]##*/}"
  note+="${note:+; }${#programs[@]} programs in $(seconds "$start") s"
}
stage_unit() { unit_stage release "$UNIT_LIMIT"; }
stage_asan() { unit_stage asan $((UNIT_LIMIT * 3)); }
# Not those whose code starts no thread: they have nothing to race with.
TSAN_LEAVES_OUT=(abi_test api_test controller_core_test delay_backend_test driver_test informer_test io_descriptor_test
  kube_config_test preflight_test reconcile_test request_counts_test sd_notify_test server_protocol_test)
stage_tsan() {
  # Read by servers too, whose uid may not look into the repository.
  local suppressions
  suppressions=$(mktemp /tmp/ublk-tsan.XXXXXX)
  install -m 644 "$LAB_DIR/tsan.supp" "$suppressions"
  local -x TSAN_OPTIONS=second_deadlock_stack=1:suppressions=$suppressions
  unit_stage tsan $((UNIT_LIMIT * 5))
  rm -f "$suppressions"
}

# Both kernels at a time, if both are wanted.
begin_vms() {
  local other
  lab_deps
  for other in "${wanted[@]}"; do
    [[ $other == vm-* ]] || continue
    rm -rf "${RESULTS:?}/$other"; mkdir -p "$RESULTS/$other"
    begin_vm "$other" "${vm_programs[@]}"
  done
}
# begin_vm STAGE PROGRAM...: one boot, and in it one after the other.
begin_vm() {
  local out=$RESULTS/$1 stage=$1 program limit total=300; shift
  for program in "$@"; do
    limit=$VM_LIMIT
    [[ ! -r build/release/$program.timeout ]] || limit=$(<"build/release/$program.timeout")
    total=$((total + limit + 40))
  done
  ((total < VM_TOTAL_LIMIT)) || total=$VM_TOTAL_LIMIT
  begin "$stage" "$LAB_DIR/vm.sh" --kernel "${stage#vm-}" --timeout "$total" --results "$out" --tolerate-kernel-bugs \
    "$LAB_DIR/gtest.sh" /results 1 "$VM_LIMIT" "${@/#//build/}" >"$out/summary" 2>"$out/vm.log"
}
# end_vm: shows what the stage's programs say until the VM is down; its status.
end_vm() {
  tail -n +1 -f --pid="${BESIDE[$stage]}" "$out/summary"
  finish "$stage"
}
# go_on_after_panic: a VM for the program during which the kernel panicked, and for those after it. The status of that VM.
go_on_after_panic() {
  local program left=()
  for program in "${vm_programs[@]}"; do
    [[ -e $out/${program##*/}.status ]] || left+=("$program")
  done
  SKIPS+=("$stage: a known panic of this kernel during ${left[0]##*/}, which ran once more with those after it: see tests/lab/kernel-log.sh")
  mv "$out/kernel.log" "$out/kernel-panicked.log"
  begin_vm "$stage" "${left[@]}"
  end_vm
}
vm_stage() {
  local status=0 bugs='' known
  out=$RESULTS/$stage
  if [[ ! ${BESIDE[$stage]:-} ]]; then
    mapfile -t vm_programs < <(test_programs release vm)
    ((${#vm_programs[@]})) || { skip_stage "there are no tests in build/release/vm"; return; }
    begin_vms
  fi
  end_vm || status=$?
  if ((status)) && known_kernel_panic "$out/kernel.log"; then
    bugs=$(kernel_bugs <(before_the_panic "$out/kernel.log"))
    status=0
    go_on_after_panic || status=$?
  fi
  report_gtests "$stage" "$out" "${vm_programs[@]##*/}"
  ((!status)) || failed "$stage" "the VM did not reach its end (status $status)" "$(tail -n 40 "$out/vm.log")"
  bugs+=$(kernel_bugs "$out/kernel.log")
  known=$(known_kernel_warnings "$out/kernel.log")
  ((!known)) || SKIPS+=("$stage: a known warning of this kernel, $known times: see tests/lab/kernel-log.sh")
  [[ -z $bugs ]] || failed "$stage" "the kernel reported a bug" "$bugs"
  [[ $stage != vm-7.2 ]] || checks_stage vm_command_test
  note="kernel $(grep -aoE 'job starts after .*' "$out/kernel.log" | tr -d '\r' | sed 's/.* on //'), ${#vm_programs[@]} programs"
}
stage_vm-7.2() { vm_stage; }
stage_vm-6.12() { vm_stage; }

# Two boots of one disk, with a power-off in between that finds mounted file systems, a writer and a
# server that has just been killed. That the machine comes down is the last test of each day.
stage_systemd() {
  local disk day status
  out=$RESULTS/$stage
  rm -rf "$out"; mkdir -p "$out"
  logged env DESTDIR="$out/root" cmake --install build/release || return 0
  disk=$out/disk.qcow2
  for day in FirstDay SecondDay; do
    mkdir -p "$out/$day"
    [[ $day != FirstDay ]] || tar -cf "$out/$day/install.tar" -C "$out/root" --owner=0 --group=0 .
    status=0
    "$LAB_DIR/vm.sh" --systemd --overlay "$disk" --timeout 400 --results "$out/$day" tests/vm/systemd_day.sh "$day" >"$out/$day/job.log" 2>"$out/$day/vm.log" || status=$?
    report_gtests "$stage" "$out/$day" systemd_test
    if ((status)); then
      failed "$stage" "$day.TheMachineComesDownWithinItsTime (status $status)" "$(tail -n 60 "$out/$day/job.log" "$out/$day/vm.log")"
    else
      pass
      note+="${note:+, }$(sed -nE 's/.*(down [0-9.]+ s after the job).*/\1/p' "$out/$day/vm.log")"
    fi
  done
  rm -rf "$disk" "$out/root" "$out/FirstDay/install.tar"
}

# slowed TICKS: said of a time since then that measures the machine's neighbours too; nothing below a tenth.
slowed() {
  local percent
  percent=$(percent_stolen "$1")
  ((percent < 10)) || printf '; the machine got %s %% of the processor time it wanted' $((100 - percent))
}

# skip_stage REASON: listed at the end, not counted as a test.
skip_stage() { SKIPS+=("stage $stage: $1"); NOT_RUN+=("$stage"); note="skipped: $1"; }

cd "$REPO"
mkdir -p "$RESULTS"
begin=$(now_ms) begin_ticks=$(processor_ticks)
build_broken=''
for stage in "${wanted[@]}"; do
  note='' log=$RESULTS/$stage.log start=$(now_ms) ticks=$(processor_ticks)
  before=$PASSED/$FAILED/$SKIPPED
  printf '== %s\n' "$stage"
  case $stage in
    deps | build | chart | cluster) ;;
    asan | tsan) ;;
    *) # These look at what the release build made.
      [[ $build_broken || -f build/release/build.ninja ]] || logged build_preset release || build_broken=1 ;;
  esac
  if [[ $build_broken && $stage =~ ^(lint|tidy|unit|vm-.*|systemd|cluster|api)$ ]]; then
    skip_stage "the release build is broken"
  elif [[ $limited && ! ${BESIDE[$stage]:-} ]] && why=$(too_late "$stage" $(($(now_ms) - begin))); then
    skip_stage "$why"
  else
    "stage_$stage" || [[ $stage != build ]] || build_broken=1
  fi
  if [[ $note == skipped:* ]]; then printf '== %s: %s\n' "$stage" "$note"; continue; fi
  IFS=/ read -r p f s <<<"$before"
  took=$(seconds "$start")
  cold=$(first_took "$stage")
  if [[ ! $cold ]] && ((FAILED == f)); then remember_first "$stage" "$took"; fi
  printf '== %s: %s s%s, %d passed, %d failed, %d skipped%s%s\n' "$stage" "$took" "${cold:+ (the first time here: $cold s)}" \
    $((PASSED - p)) $((FAILED - f)) $((SKIPPED - s)) "${note:+ ($note)}" "$(slowed "$ticks")"
done
printf '\nAll stages: %s s%s\n' "$(seconds "$begin")" "$(slowed "$begin_ticks")"
print_report
((!FAILED))
