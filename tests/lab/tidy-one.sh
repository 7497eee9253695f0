#!/bin/bash
# clang-tidy on one file; remembers a pass under its key. Called by lint.sh: tidy-one.sh FILE KEY [OPTION]
log=$(mktemp)
if clang-tidy-19 --quiet -p build/release --extra-arg=-Wno-unknown-warning-option "${@:3}" "$1" >"$log" 2>&1; then
  touch "$TIDY_CACHE/$2"
  status=0
else
  grep -v 'warnings generated' "$log"
  status=1
fi
rm -f "$log"
exit $status
