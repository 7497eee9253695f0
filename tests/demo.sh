#!/bin/bash
# The main job, mode by mode: apply a manifest, keep an application writing, SIGKILL the server, watch the device come back
# by itself, verify every byte. Needs root, ublk_drv and the programs on PATH: `./dev demo` sees to all of it.
set -euo pipefail

mib=${DEMO_MIB:-256}
dir=$(mktemp -d /tmp/ublk-demo.XXXXXX)
mkdir -p "$dir"/{volumes,pool,run,state}
export UBLK_SOCKET=$dir/run/agent.sock
ublk-node run --volumes "$dir/volumes" --pool "default=$dir/pool" --state "$dir/state" --run "$dir/run" \
  --spawner "$dir/run/spawner.sock" --socket "$UBLK_SOCKET" >"$dir/agent.log" 2>&1 &
agent=$!
finish() {
  local status=$?
  ((status == 0)) || tail -n 30 "$dir/agent.log" >&2
  for name in $(ublkctl get -o name 2>/dev/null | sed 's|.*/||'); do
    ublkctl stop "$name" --force >/dev/null 2>&1 || true
  done
  kill "$agent" 2>/dev/null || true
  wait "$agent" 2>/dev/null || true
  # The spawner outlives its agent on purpose; this one was ours.
  fuser -k -KILL "$dir/run/spawner.sock" >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap finish EXIT

manifest() { # MODE
  cat <<X
apiVersion: ublk.dev/v1alpha1
kind: UblkVolume
metadata:
  name: demo-${1,,}
spec:
  size: ${mib}Mi
  recovery:
    mode: $1
  backend:
    file:
      path: demo-${1,,}.img
X
}

for _ in $(seq 200); do [[ -S $UBLK_SOCKET ]] && break; sleep 0.05; done
echo "kernel $(uname -r); each volume: $mib MiB in a file, 16 writers, SIGKILL of its ublk-server"
modes=(Reissue Queue FailIO None)
for mode in "${modes[@]}"; do
  name=demo-${mode,,}
  manifest "$mode" | ublkctl apply -f - >/dev/null
  if ! ublkctl wait "$name" --for=Ready --timeout 30s >/dev/null 2>"$dir/why"; then
    reason=$(ublkctl get "$name" -o json | jq -r '.status.conditions[] | select(.type == "Ready") | .reason + ": " + .message')
    printf '%-8s not here: %s\n' "$mode" "$reason"
    continue
  fi
  pid=$(ublkctl get "$name" -o json | jq -r .status.serverPID)
  reopen=()
  [[ $mode == None ]] && reopen=(--reopen)
  ublk-witness --device "/dev/ublk/by-name/$name" --kill "$pid" --name "$mode" --mib "$mib" "${reopen[@]}"
done
