#!/bin/bash
# The recovery pause: SIGKILL of the server until its application gets a request completed again (ublk-witness: 8 readers of
# 4 KiB, who try again a millisecond after an error), for every mode and backend, and beside it a hand-written loop around the
# kernel's own `kublk recover` of a device in the same mode (None, which has nothing to recover: `kublk add` of a new device), with
# kublk's target of the same kind: null, or loop, which does direct I/O to a file. The two alternate in one boot, so that machines compare by the ratio; absolute times mean
# little without KVM.
#   tests/bench/recovery.sh [KILLS]      prints the table of docs/recovery.md; default 20 kills a row
# Needs root, ublk_drv, and on PATH the project's programs and kublk: `./dev bench recovery` sees to that.
set -euo pipefail

kills=${1:-20}
dir=$(mktemp -d /tmp/ublk-bench.XXXXXX)
mkdir -p "$dir"/{volumes,pool,run,state}
export UBLK_SOCKET=$dir/run/agent.sock
ublk-node --log-level warn run --volumes "$dir/volumes" --pool "default=$dir/pool" --state "$dir/state" \
  --run "$dir/run" --spawner "$dir/run/spawner.sock" --socket "$UBLK_SOCKET" 2>"$dir/agent.log" &
agent=$!
peer=
finish() {
  local status=$?
  ((status == 0)) || tail -n 30 "$dir/agent.log" >&2
  for name in $(ublkctl get -o name 2>/dev/null | sed 's|.*/||'); do ublkctl stop "$name" --force >/dev/null 2>&1 || true; done
  kill "$agent" 2>/dev/null || true
  fuser -k -KILL "$dir/run/spawner.sock" >/dev/null 2>&1 || true
  [[ -z $peer ]] || kublk del -n "$peer" >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap finish EXIT
for _ in $(seq 200); do [[ -S $UBLK_SOCKET ]] && break; sleep 0.05; done

volume() { # NAME MODE BACKEND
  local backend="null: {}"
  [[ $3 == null ]] || backend="{file: {path: $1.img, directIO: $([[ $3 == file-direct ]] && echo true || echo false)}}"
  [[ $3 == null ]] && backend="{null: {}}"
  printf 'apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata: {name: %s}\nspec:\n  size: 64Mi\n  recovery: {mode: %s}\n  backend: %s\n' \
    "$1" "$2" "$backend" | ublkctl apply -f - >/dev/null
  ublkctl wait "$1" --for=Ready --timeout 30s >/dev/null
}
pause_of() { # NAME MODE
  local reopen=() pid
  [[ $2 == None ]] && reopen=(--reopen)
  pid=$(ublkctl get "$1" -o json | jq -r .status.serverPID)
  ublk-witness --device "/dev/ublk/by-name/$1" --kill "$pid" --pause-only --threads 8 --mib 64 "${reopen[@]}"
  ublkctl wait "$1" --for=Ready --timeout 30s >/dev/null
}

# --- the peer: kublk, and the loops a careful person would write around it
peer_options=()  # recover wants to be told the same again
peer_start() { # sets peer
  kublk add "${peer_options[@]}" >"$dir/kublk.out"
  peer=$(sed -n 's/.*dev id \([0-9]*\).*/\1/p' "$dir/kublk.out" | head -n 1)
  [[ -n $peer ]] || { cat "$dir/kublk.out" >&2; return 1; }
  ln -sfn "/dev/ublkb$peer" "$dir/peer-disk"
}
peer_pid() { kublk list -n "$peer" | sed -n 's/.*daemon pid \([0-9]*\).*/\1/p' | head -n 1; }
peer_pause() { # MODE
  local pid witness old=$peer reopen=()
  [[ $1 == None ]] && reopen=(--reopen)
  pid=$(peer_pid)
  ublk-witness --device "$dir/peer-disk" --kill "$pid" --pause-only --threads 8 --mib 64 "${reopen[@]}" >"$dir/peer.pause" &
  witness=$!
  # Somebody notices that the server is dead, and recovers until it works.
  while kill -0 "$pid" 2>/dev/null; do :; done
  if [[ $1 == None ]]; then
    # There is nothing to recover. When the old disk is gone no I/O of the old server is left: the next device may be made.
    while [[ -e /dev/ublkb$old ]]; do :; done
    peer_start
  else
    until kublk recover -n "$peer" "${peer_options[@]}" >"$dir/recover.out" 2>&1; do :; done
  fi
  wait "$witness"
  cat "$dir/peer.pause"
  [[ $1 != None ]] || kublk del -n "$old" >/dev/null 2>&1 || true
}

row() { # MODE BACKEND FILE PEER_FILE
  local i; local -A v
  for i in 3 4; do read -r "v[min$i]" "v[median$i]" "v[max$i]" < <(sort -g "${!i}" | awk '{v[NR] = $1} END {print v[1], v[int((NR + 1) / 2)], v[NR]}'); done
  awk -v a="${v[max3]}" -v b="${v[median4]}" -v head="| $1 | $2 | $(wc -l <"$3")" \
    -v ours="${v[min3]} ${v[median3]} ${v[max3]}" -v loop="${v[min4]} ${v[median4]} ${v[max4]}" 'BEGIN {
      split(ours " " loop, n, " "); printf "%s", head; for (i = 1; i <= 6; i++) printf " | %.0f", n[i]; printf " | %.2f |\n", a / b}'
}

echo "kernel $(uname -r), $(nproc) CPUs, $(systemd-detect-virt 2>/dev/null || true); ms, 8 readers of 4 KiB"
echo
echo "| mode | backend | kills of each | min | median | max | the loop: min | median | max | max / its median |"
echo "|---|---|---|---|---|---|---|---|---|---|"
modes=(Reissue Queue FailIO None)
[[ $(uname -r) == 6.12* ]] && modes=(Reissue Queue None)
truncate -s 64M "$dir/pool/peer.img"
for mode in "${modes[@]}"; do
  case $mode in
    Reissue) recovery=(-r 1 -i 1) ;;
    Queue) recovery=(-r 1) ;;
    FailIO) recovery=(-r 1 -e 1) ;;
    None) recovery=() ;;
  esac
  for backend in null file file-direct; do
    peer_options=(-t null -q 1 -d 64 "${recovery[@]}")
    [[ $backend == null ]] || peer_options=(-t loop -q 1 -d 64 "${recovery[@]}" "$dir/pool/peer.img")
    peer_start
    name=bench-${mode,,}-$backend
    volume "$name" "$mode" "$backend"
    for ((i = 0; i < kills; i++)); do
      pause_of "$name" "$mode" >>"$dir/$name"
      peer_pause "$mode" >>"$dir/peer-$name"
    done
    row "$mode" "$backend" "$dir/$name" "$dir/peer-$name"
    ublkctl delete "$name" >/dev/null
    kublk del -n "$peer" >/dev/null
    peer=
  done
done
