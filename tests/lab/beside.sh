# Work that mostly waits for something goes on beside other work: one stage begins it, and the one that reports it waits for
# its end. Sourced; RESULTS is a folder.
# shellcheck shell=bash

declare -A BESIDE=()            # process groups by stage
# begin STAGE COMMAND...
begin() {
  local stage=$1; shift
  rm -f "$RESULTS/$stage.took"
  processor_ticks >"$RESULTS/$stage.ticks"
  # A signal to the group is for the command: this shell stays until that has ended.
  # shellcheck disable=SC2016
  setsid bash -c 'trap : TERM; took=$1; shift; "$@"; status=$?; echo "$SECONDS" >"$took"; exit "$status"' begin "$RESULTS/$stage.took" "$@" </dev/null &
  BESIDE[$stage]=$!
}
# finish STAGE: the command's status. `start` and `ticks` are set so that the stage has taken what the command did.
finish() {
  local status=0
  wait "${BESIDE[$1]}" || status=$?
  unset "BESIDE[$1]"
  # shellcheck disable=SC2034  # both used by who sources this
  ticks=$(<"$RESULTS/$1.ticks")
  # shellcheck disable=SC2034
  [[ ! -s $RESULTS/$1.took ]] || start=$(($(now_ms) - $(<"$RESULTS/$1.took") * 1000))
  return $status
}
# end_what_was_begun: by a signal to all of its processes; when this returns it is over.
end_what_was_begun() {
  local group
  for group in "${BESIDE[@]}"; do kill -- "-$group" 2>/dev/null || true; done
  ((!${#BESIDE[@]})) || wait "${BESIDE[@]}" || true
}
