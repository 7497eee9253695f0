# What counts as a bug report in a kernel log. Sourced.
# shellcheck shell=bash

# Linux 7.2.12 checks, while it ends the ring of a killed server (io_ring_exit_work, ublk_uring_cmd_cancel_fn), that a tag still
# holds the command it cancels, and now and then it does not: seen in two of many runs of kill_test, whose tests all passed.
# Why is not known. It is counted and said, and the line number pins it to this kernel.
KNOWN_KERNEL_WARNING='WARNING: drivers/block/ublk_drv[.]c:2908 at ublk_ch_uring_cmd'
known_kernel_warnings() { grep -acE "$KNOWN_KERNEL_WARNING" "$1" || true; }

# Linux 6.12.107 may panic when a server is killed under I/O: as the thread of a queue ends (do_exit, task_work_run), it finds
# work whose ring has been freed already (io_fallback_tw takes a reference on it). Seen once in many runs of kill_test. Why is
# not known: it looks as if ublk_drv completed a command that had been cancelled already. No program has a say in that.
KNOWN_PANIC_BEGINS='BUG: kernel NULL pointer dereference'
# known_kernel_panic LOG: whether that is what ended it.
known_kernel_panic() {
  local report
  report=$(tr -d '\r' <"$1" | sed -n "/$KNOWN_PANIC_BEGINS/,\$p")
  grep -q 'Kernel panic' <<<"$report" && grep -qF 'RIP: 0010:percpu_ref_get_many+' <<<"$report" && grep -qE '^\[[ 0-9.]+\]  io_fallback_tw[+]' <<<"$report"
}
before_the_panic() { tr -d '\r' <"$1" | sed "/$KNOWN_PANIC_BEGINS/,\$d"; }

# kernel_bugs LOG: each report with the lines after it, and the test during which it came; nothing
# when the log is clean.
kernel_bugs() {
  tr -d '\r' <"$1" | awk -v known="$KNOWN_KERNEL_WARNING" '
    $0 ~ known {next}
    /lab: test / {test = $NF}
    /BUG:|WARNING:|Oops|Kernel panic|general protection fault|kernel BUG at|blocked for more than [0-9]+ seconds/ ||
    /rcu: INFO: .*stall|soft lockup|hard LOCKUP|UBSAN:|KASAN:|KFENCE:|refcount_t:|list_(add|del) corruption/ ||
    /INFO: possible (recursive|circular) locking|scheduling while atomic/ {
      if (!rest) print "during " (test ? test : "boot or a job that named no test") ":"
      rest = 25
    }
    rest {print; rest--}' | awk 'NR <= 150'
}
