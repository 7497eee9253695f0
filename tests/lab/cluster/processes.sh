# Processes that outlive the command that started them, and that are ended by nobody else. Sourced.
# shellcheck shell=bash

# In STATE/run each has a file with its process id and start time: an id alone may since be another's.

# start_process NAME COMMAND...: in the background, with its output in STATE/log/NAME.log.
start_process() {
  local name=$1; shift
  (
    # The lock is this command's, not the process's.
    [[ -z ${STATE_LOCK_FD:-} ]] || exec {STATE_LOCK_FD}>&-
    # A session of its own, so that neither ^C nor a closed terminal reaches it.
    exec setsid "$@" </dev/null >>"$STATE/log/$name.log" 2>&1
  ) &
  printf '%s %s\n' $! "$(start_time $!)" >"$STATE/run/$name"
  disown                              # no word from bash when it is killed
}

# start_daemon NAME PIDFILE COMMAND...: the same for one that goes into the background by itself, and writes its process id
# into PIDFILE once it is ready.
start_daemon() {
  local name=$1 file=$2 pid; shift 2
  if ! (
    [[ -z ${STATE_LOCK_FD:-} ]] || exec {STATE_LOCK_FD}>&-
    exec setsid --wait "$@" </dev/null >>"$STATE/log/$name.log" 2>&1
  ) || ! await 20 test -s "$file"; then
    last_words "$name"
    fail 1 "$name did not start; the end of its output is above."
  fi
  pid=$(<"$file")
  printf '%s %s\n' "$pid" "$(start_time "$pid")" >"$STATE/run/$name"
}

# start_time PID: in ticks since the machine booted; nothing for a process that is gone or only waits to be reaped.
start_time() {
  local stat fields
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} == Z ]] || printf '%s\n' "${fields[19]}"
}

# running NAME: sets PID if it is.
running() {
  local started
  PID=''
  { read -r PID started <"$STATE/run/$1"; } 2>/dev/null || return 1
  [[ -n $started && $(start_time "$PID") == "$started" ]]
}

# stop_process NAME [SIGNAL]: TERM and a little patience, or the signal that leaves no choice.
stop_process() {
  if running "$1"; then
    kill -s "${2:-TERM}" "$PID" 2>/dev/null || true
    if ! await 10 is_gone "$1"; then
      say "$1 (process $PID) is still there after 10 s: killing it"
      kill -s KILL "$PID" 2>/dev/null || true
      await 10 is_gone "$1" || fail 1 "$1 (process $PID) survived SIGKILL for 10 s; its log: $STATE/log/$1.log"
    fi
  fi
  rm -f "$STATE/run/$1"
}
is_gone() { ! running "$1"; }

# last_words NAME: the end of its log, for a message that says it failed.
last_words() { tail -n 15 "$STATE/log/$1.log" >&2 || true; }
