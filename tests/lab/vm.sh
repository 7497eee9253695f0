#!/bin/bash
# Runs one job as root in a throw-away VM whose kernel has ublk. `./dev vm` is this script.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/deps.sh"
. "$LAB_DIR/apt.sh"
. "$LAB_DIR/image.sh"
. "$LAB_DIR/qemu.sh"

STATUS_USAGE=64          # wrong arguments
STATUS_NO_VERDICT=70     # the VM ended (panic, power cut) before the job did
STATUS_KERNEL_BROKE=71   # the job said 0, but its kernel reported a bug
STATUS_TIMEOUT=124
STATUS_UNREAD=141        # as of a program that SIGPIPE ended

usage() {
  cat <<'USAGE'
usage: ./dev vm [OPTIONS] PROGRAM [ARGS...]     a file of this machine, or a bare name found inside
       ./dev vm [OPTIONS] -c 'SHELL COMMANDS'

Runs PROGRAM (a script or executable of this machine) as root in a VM with a ublk kernel and passes
its output and exit status on. In the VM: /repo is this repository and /build the build folder (both
read-only, /build/bin on PATH), $UBLK_RESULTS is a folder that survives. The VM's disk does not.

  --kernel 7.2|6.12   kernel series (default 7.2)
  --preset NAME       which build/NAME becomes /build (default release)
  --systemd           boot systemd as PID 1 and run PROGRAM from a unit (slower); ublk_drv is not loaded
                      then, and PROGRAM may itself power off or reboot the VM: that counts as success
  --timeout S         kill the VM after S seconds, status 124 (default 600)
  --mem M, --cpus N   memory in QEMU's notation (default 4G), virtual CPUs (default 2)
  --results DIR       the folder behind $UBLK_RESULTS (default: one that is deleted afterwards)
  --env NAME=VALUE    set a variable for PROGRAM (repeatable)
  --add FILE          put a copy of FILE into /job/bin, which is on PATH (repeatable)
  --disk FILE         add a raw disk: /dev/vdb, /dev/vdc... (repeatable; it is written to)
  --overlay FILE      keep the VM's disk in this qcow2 file (made if missing), so that the next boot
                      with it sees what this one wrote; in the VM `lab-cut [STATUS]` cuts the power
  --append PARAMS     more kernel parameters (lab.udev=0: no udevd)
  --tolerate-kernel-bugs   only report a kernel BUG, WARNING or hung task, do not fail for it
  --verbose           also show the kernel's log

Exit status: the program's; 64 usage; 70 the VM ended before the program did; 71 the program
succeeded but the kernel reported a bug; 124 timeout; 141 nobody reads its output any more.
USAGE
}

kernel=${LAB_KERNELS[0]} preset=release flavour=fast timeout=600 memory=4G cpus=2
results='' overlay='' verbose='' tolerate='' parameters='' environment=() added=() disks=() command=()
while (($#)); do
  case $1 in
    --kernel) kernel=${2:?}; shift 2 ;;
    --preset) preset=${2:?}; shift 2 ;;
    --systemd) flavour=systemd; shift ;;
    --timeout) timeout=${2:?}; shift 2 ;;
    --mem) memory=${2:?}; shift 2 ;;
    --cpus) cpus=${2:?}; shift 2 ;;
    --results) results=${2:?}; shift 2 ;;
    --env) environment+=("${2:?}"); shift 2 ;;
    --add) added+=("${2:?}"); shift 2 ;;
    --disk) disks+=("${2:?}"); shift 2 ;;
    --overlay) overlay=${2:?}; shift 2 ;;
    --append) parameters=${2:?}; shift 2 ;;
    --tolerate-kernel-bugs) tolerate=1; shift ;;
    --verbose) verbose=1; shift ;;
    -c) command=(/bin/bash -c "${2:?}" job "${@:3}"); break ;;
    -h | --help) usage; exit ;;
    --) shift; break ;;
    -*) fail $STATUS_USAGE "unknown option $1 (see ./dev vm --help)" ;;
    *) break ;;
  esac
done
[[ " ${LAB_KERNELS[*]} " == *" $kernel "* ]] ||
  fail $STATUS_USAGE "no kernel $kernel in the lab; it has: ${LAB_KERNELS[*]}"
[[ $timeout =~ ^[1-9][0-9]*$ ]] || fail $STATUS_USAGE "--timeout wants whole seconds, not '$timeout'"
if ((!${#command[@]})); then
  (($#)) || { usage >&2; exit $STATUS_USAGE; }
  program=''
  if [[ -f $1 ]]; then
    program=$(realpath "$1")
  elif [[ $1 == */* ]]; then
    fail $STATUS_USAGE "no such program: $1"
  fi
fi

lab_deps
lab_image

run=$(mktemp -d "${TMPDIR:-/tmp}/ublk-lab.XXXXXX")
mkdir -p "$run/job/bin" "$run/results" "$run/nothing"
((!${#added[@]})) || cp -t "$run/job/bin" -- "${added[@]}"
results=${results:-$run/results}
mkdir -p "$results"; results=$(realpath "$results")
build=$REPO/build/$preset; [[ -d $build ]] || build=$run/nothing
touch "$run/status" "$run/kernel.log"

qemu_pid='' relay_pid='' tail_pid=''
# shellcheck disable=SC2317
cleanup() {
  local pid
  for pid in $qemu_pid $relay_pid $tail_pid; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A program below the repository or the build keeps its neighbours; any other is copied in.
if ((!${#command[@]})); then
  case $program in
    '') inside=$1 ;;
    "$build"/*) inside=/build/${program#"$build"/} ;;
    "$REPO"/*) inside=/repo/${program#"$REPO"/} ;;
    *) cp "$program" "$run/job/program"; inside=/job/program ;;
  esac
  if [[ -z $program || -x $program ]]; then command=("$inside"); else command=(/bin/bash "$inside"); fi
  command+=("${@:2}")
fi
printf '%s\0' "${command[@]}" >"$run/job/command"
{
  printf 'export UBLK_LAB_KERNEL=%q UBLK_LAB_HOST_REPO=%q\n' "$kernel" "$REPO"
  ((!${#environment[@]})) || printf 'export %q\n' "${environment[@]}"
} >"$run/job/environment"

base=$LAB_IMAGE/root.img
if [[ -n $overlay ]]; then
  # The disk outlives the VM here, so flushes are honoured; the throw-away one ignores them.
  [[ -e $overlay ]] || qemu-img create -q -f qcow2 -b "$base" -F raw "$overlay"
  root_drive="file=$overlay,format=qcow2,cache=writeback"
else
  qemu-img create -q -f qcow2 -b "$base" -F raw "$run/root.qcow2"
  root_drive="file=$run/root.qcow2,format=qcow2,cache=unsafe"
fi
append=$LAB_PARAMETERS
if [[ $flavour == systemd ]]; then
  append+=" init=/lib/systemd/systemd systemd.log_target=kmsg systemd.show_status=0"
fi
mkfifo "$run/out"
lab_machine
# shellcheck disable=SC2054
qemu=("${LAB_MACHINE[@]}" -no-reboot -smp "$cpus" -m "$memory"
  -kernel "$LAB_IMAGE/$kernel/kernel" -initrd "$LAB_IMAGE/$kernel/initrd" -append "$append $parameters"
  -drive "if=virtio,$root_drive"
  -chardev "file,id=kernel,path=$run/kernel.log,append=on" -serial chardev:kernel
  -device virtio-serial-pci
  -chardev "file,id=out,path=$run/out" -device "virtserialport,chardev=out,name=lab.out"
  -chardev "file,id=status,path=$run/status" -device "virtserialport,chardev=status,name=lab.status"
  -virtfs "$(lab_share job "$run/job" on)" -virtfs "$(lab_share repo "$REPO" on)"
  -virtfs "$(lab_share build "$build" on)" -virtfs "$(lab_share results "$results" off)"
  -device virtio-rng-pci)
((!${#disks[@]})) || for disk in "${disks[@]}"; do
  [[ -f $disk || -b $disk ]] || fail $STATUS_USAGE "--disk $disk: no such file; make one with: truncate -s 1G $disk"
  qemu+=(-drive "if=virtio,file=$disk,format=raw,cache=writeback")
done

start=$(now_ms)
cat "$run/out" & relay_pid=$!
if [[ -n $verbose ]]; then tail -n +1 -f "$run/kernel.log" >&2 & tail_pid=$!; fi
"${qemu[@]}" </dev/null >"$run/qemu.log" 2>&1 & qemu_pid=$!

# Wait for QEMU or for the deadline, whichever is first; both are children, so wait -n wakes at once. A relay that fails has
# nobody to write to (`./dev vm ... | head`): the job would stand still at its next line.
sleep "$timeout" & alarm_pid=$!
timed_out='' unread='' ended=''
wait -n -p ended "$qemu_pid" "$alarm_pid" "$relay_pid" || [[ $ended != "$relay_pid" ]] || unread=1
[[ $ended != "$relay_pid" || $unread ]] || wait -n "$qemu_pid" "$alarm_pid" || true
if kill -0 "$qemu_pid" 2>/dev/null; then
  [[ $unread ]] || timed_out=1
  kill -KILL "$qemu_pid"
fi
kill "$alarm_pid" 2>/dev/null || true
qemu_status=0; wait "$qemu_pid" 2>/dev/null || qemu_status=$?
qemu_pid=''
# QEMU never opened the fifo if it failed early: give the relay its end of file.
: <>"$run/out"
wait "$relay_pid" || true; relay_pid=''
elapsed=$(seconds "$start")

. "$LAB_DIR/kernel-log.sh"
job_status=$(<"$run/status")
bugs=$(kernel_bugs "$run/kernel.log")
cp "$run/kernel.log" "$results/kernel.log"
[[ -z $bugs ]] || { say "the kernel reported a bug:"; printf '%s\n' "$bugs" >&2; }
last_lines() { say "last lines of the kernel's log:"; tail -n 25 "$run/kernel.log" | tr -d '\r' >&2; }
# shutdown_report: whether the machine came down in order after the job powered it off, and how fast.
shutdown_report() {
  local log off ended
  log=$(tr -d '\r' <"$run/kernel.log")
  off=$(sed -nE 's/^\[ *([0-9.]+)\] reboot: (Power down|Restarting system).*/\1/p' <<<"$log" | tail -n 1)
  ended=$(sed -nE 's/^.*lab: job ended after ([0-9.]+) s.*/\1/p' <<<"$log" | tail -n 1)
  [[ -n $off && -n $ended ]] || { last_lines; fail $STATUS_NO_VERDICT "the job asked for the end, but the VM did not come down in order"; }
  grep -E 'timed out|Failed to unmount|Waiting for process|Failed to detach|still holding' <<<"$log" >&2 || true
  say "the job ended the VM: down $(awk -v a="$ended" -v b="$off" 'BEGIN {printf "%.1f", b - a}') s after the job, $elapsed s in all"
}

[[ ! $unread ]] || exit $STATUS_UNREAD
if [[ -n $timed_out ]]; then
  last_lines
  fail $STATUS_TIMEOUT "timeout: ${command[*]} did not end within $timeout s on kernel $kernel; the VM was killed." \
    "A higher limit: --timeout S."
fi
case $job_status in
  '')
    ((qemu_status == 0)) || tail -n 5 "$run/qemu.log" >&2
    [[ -n $bugs ]] || last_lines
    fail $STATUS_NO_VERDICT "the VM ended after $elapsed s (QEMU status $qemu_status), before ${command[*]} did." ;;
  poweroff) shutdown_report ;;
  0) ;;
  *) exit "$job_status" ;;
esac
[[ -z $bugs || -n $tolerate ]] || exit $STATUS_KERNEL_BROKE
