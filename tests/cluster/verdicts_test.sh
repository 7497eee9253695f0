#!/bin/bash
# What the API server cannot know of an object ends as a condition and an event that says what to do, said by the controller
# or the node. And what a change of a spec comes to, and what a recovery costs the API server.
# Wants a cluster that is up (./dev cluster up) and an image of what is to be tested (./dev image).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
. "$(dirname "${BASH_SOURCE[0]}")/operator.sh"
# shellcheck disable=SC2317
leave() {
  on_node 'pkill -f "^sleep 7319"' >/dev/null 2>&1 || true
  kubectl delete ublkvolume -l test=verdicts --wait=false >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
use_cluster

# applied NAME JQ: a volume with that change.
applied() {
  jq --arg name "$1" ".metadata.name = \$name | $2" <<<'{"apiVersion": "ublk.dev/v1alpha1", "kind": "UblkVolume",
    "metadata": {"labels": {"test": "verdicts"}}, "spec": {"size": "16Mi", "reclaimPolicy": "Delete"}}' |
    jq --arg path "$1.img" 'if .spec.backend then . else .spec.backend.file.path = $path end' | kubectl apply -f -
}
# told NAME CONDITION REASON TEXT: condition and event of the volume say so, and what to do, which has TEXT in it.
told() {
  kubectl wait "ublkvolume/$1" --for="jsonpath={.status.conditions[?(@.type==\"$2\")].reason}=$3" --timeout=60s
  kubectl get ublkvolume "$1" -o json | jq -e --arg type "$2" --arg text "$4" \
    '.status.conditions[] | select(.type == $type and .status == "False") | .message | contains($text)'
  await 30 event_says "$1" "$4"
  kubectl delete ublkvolume "$1" --timeout=60s
}
event_says() {
  kubectl get events -A --field-selector "involvedObject.kind=UblkVolume,involvedObject.name=$1,type=Warning" -o json |
    jq -e --arg text "$2" 'any(.items[]; .message | contains($text))'
}
# judged NAME REMEDY CONDITION REASON JQ
judged() { check "$1: $3 says $4, and what to do" judge "${@:2}"; }
judge() {
  applied judged "$4"
  told judged "$2" "$3" "$1"
}
new_shape() {
  applied shape '.'
  kubectl wait ublkvolume/shape --for=condition=Ready --timeout=60s
  on_node 'sleep 7319 </dev/ublk/by-name/shape >/dev/null 2>&1 &'
  kubectl patch ublkvolume shape --type merge -p '{"spec": {"size": "32Mi", "recovery": {"mode": "Queue"}}}'
  kubectl wait ublkvolume/shape --for=condition=NeedsRecreate --timeout=60s
  kubectl wait ublkvolume/shape --for=condition=Ready --timeout=5s
  same "$((16 << 20))" "$(on_node 'blockdev --getsize64 /dev/ublk/by-name/shape')"
  on_node 'pkill -f "^sleep 7319"'
  kubectl wait ublkvolume/shape --for=condition=NeedsRecreate=False --timeout=60s
  kubectl wait ublkvolume/shape --for=condition=Ready --timeout=60s
  same "$((32 << 20))" "$(on_node 'blockdev --getsize64 /dev/ublk/by-name/shape')"
}
status_writes() {
  kubectl get --raw /metrics | awk '/^apiserver_request_total\{/ && /resource="ublkvolumes"/ && /subresource="status"/ && !/verb="GET"/ {n += $2}
    END {print n + 0}'
}
# Of one volume whose server is killed, five times.
two_writes() {
  local before writes
  wait_ready 1
  before=$(status_writes)
  for _ in $(seq 5); do
    cp "$WORK/said" "$WORK/said-before"
    on_node "pkill -KILL -f '$SERVER'"
    wait_recovered_since "$WORK/said-before" 1
    await 30 written
  done
  writes=$(($(status_writes) - before))
  printf '%s writes of status in five recoveries\n' "$writes"
  ((writes >= 5 && writes <= 10))
}
# written: the API server has the recovery that the node said.
written() { same "$(cut -f 4 "$WORK/said")" "$(kubectl get ublkvolume shape -o jsonpath='{.status.recoveryCount}')"; }
removed() {
  kubectl delete ublkvolume -l test=verdicts --timeout=60s
  gives "" on_node 'ls /dev/ublk/by-name'
}

check "installed with Helm" install
NODE=$(kubectl get ublknodes -o jsonpath='{.items[0].metadata.name}')
judged "a pool that no node has" 'spec.backend.file.pool' Bound NoPool '.spec.backend.file = {path: "judged.img", pool: "gold"}'
judged "a size that no node has" 'free some space' Bound NoSpace '.spec.size = "900Ti"'
ON_NODE=".spec.nodeName = \"$NODE\""
judged "a pool that its node has not" 'node.pools' Ready BackendUnavailable \
  "$ON_NODE | .spec.backend.file = {path: \"judged.img\", pool: \"gold\"}"
judged "a size that its node has not" 'provisioning to Thin' Ready BackendUnavailable \
  "$ON_NODE | .spec.size = \"1Ti\" | .spec.backend.file = {path: \"judged.img\", provisioning: \"Thick\"}"
check "a new shape waits until the device is not open, and comes then" new_shape
check "a recovery costs two writes of status at most" two_writes
check "removed, and nothing is left" removed
((!FAILED))
