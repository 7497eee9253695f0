# What counts as a bug report in a kernel log. Sourced.
# shellcheck shell=bash

# kernel_bugs LOG: each report with the lines after it, and the test during which it came; nothing
# when the log is clean.
kernel_bugs() {
  tr -d '\r' <"$1" | awk '
    /lab: test / {test = $NF}
    /BUG:|WARNING:|Oops|Kernel panic|general protection fault|kernel BUG at|blocked for more than [0-9]+ seconds/ ||
    /rcu: INFO: .*stall|soft lockup|hard LOCKUP|UBSAN:|KASAN:|KFENCE:|refcount_t:|list_(add|del) corruption/ ||
    /INFO: possible (recursive|circular) locking|scheduling while atomic/ {
      if (!rest) print "during " (test ? test : "boot or a job that named no test") ":"
      rest = 25
    }
    rest {print; rest--}' | awk 'NR <= 150'
}
