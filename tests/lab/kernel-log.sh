# What counts as a bug report in a kernel log. Sourced.
# shellcheck shell=bash

# kernel_bugs LOG: each report with the lines around it; nothing when the log is clean.
kernel_bugs() {
  tr -d '\r' <"$1" | grep -aE -A 25 -e \
    'BUG:|WARNING:|Oops|Kernel panic|general protection fault|kernel BUG at|blocked for more than [0-9]+ seconds|rcu: INFO: .*stall|soft lockup|hard LOCKUP|UBSAN:|KASAN:|KFENCE:|refcount_t:|(list_add|list_del) corruption|INFO: possible (recursive|circular) locking|scheduling while atomic' |
    head -n 120 || true
}
