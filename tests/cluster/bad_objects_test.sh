#!/bin/bash
# Objects that the real API server must refuse, each with a sentence that names the field; and their neighbours that it
# must take. Wants a cluster that is up: ./dev cluster up.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
# shellcheck disable=SC2317
leave() {
  kubectl delete ublkvolume bad good --ignore-not-found --wait=false >/dev/null 2>&1 || true
  wake_controller >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
use_cluster
check "the chart is installed" have_chart
check "the controller rests" rest_controller

BASE='{"apiVersion": "ublk.dev/v1alpha1", "kind": "UblkVolume", "metadata": {"name": "bad"},
  "spec": {"size": "1Gi", "backend": {"file": {"path": "bad.img"}}}}'
# changed JQ [NAME]: the base manifest with that change.
changed() { jq --arg name "${2:-bad}" ".metadata.name = \$name | $1" <<<"$BASE"; }
apply() { changed "$@" | kubectl apply -f -; }
# The server's whole judgement, and nothing of the object left.
dry_run() { changed "$@" | kubectl apply --dry-run=server -f -; }

# refused SENTENCE JQ: a new object with that change.
refused() { check "refused: $2" fails_with "$1" dry_run "$2"; }
taken() { check "taken: $1" dry_run "$1"; }
# refused_change SENTENCE FROM TO: an object with the change FROM becomes one with TO.
refused_change() { check "refused: $2 -> $3" refuses_change "$@"; }
refuses_change() {
  apply "$2" good
  fails_with "$1" apply "$3" good
  kubectl delete ublkvolume good
}
taken_change() { check "taken: $1 -> $2" takes_change "$@"; }
takes_change() {
  apply "$1" good
  apply "$2" good
  kubectl delete ublkvolume good
}

# size
refused 'spec.size: Required value' 'del(.spec.size)'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = "10GB"'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = "ten"'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = "-1Gi"'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = "0.5"'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = "0"'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = 10'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = -4096'
refused 'spec.size in body should match' '.spec.size = "5000m"'
refused 'spec.size must be a multiple of spec.logicalBlockSize' '.spec.size = 4097'
refused 'spec.size must be a multiple of spec.logicalBlockSize' '.spec.size = "5000"'
refused 'spec.size must be a multiple of spec.logicalBlockSize' '.spec.size = "6656" | .spec.logicalBlockSize = 4096'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = "100Ei"'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = "9223372036854775808"'
refused 'spec.size must be a quantity of whole bytes' '.spec.size = "1.0000000001Gi"'
refused 'spec.size' '.spec.size = 1.5'
refused 'spec.size' '.spec.size = true'
refused 'spec.size: Too long' '.spec.size = "1\("0" * 40)Gi"'
taken '.spec.size = "4Ki"'
taken '.spec.size = 4096'
taken '.spec.size = "1.5Gi"'
taken '.spec.size = "2.75Ti"'
taken '.spec.size = "0.0009765625Ei"'
taken '.spec.size = "9223372036854774784"'
taken '.spec.size = "1e10"'
taken '.spec.size = "+1Gi"'
taken '.spec.size = "7E"'
refused_change 'spec.size cannot shrink' '.' '.spec.size = "1023Mi"'
refused_change 'spec.size cannot shrink' '.' '.spec.size = 4096'
taken_change '.' '.spec.size = "2Gi"'
taken_change '.' '.spec.size = "1024Mi"'
taken_change '.' '.spec.size = 2147483648'
taken_change '.spec.size = 1073741824' '.'
refused_change 'spec.size cannot shrink' '.spec.size = 2147483648' '.'
taken_change '.' '.spec.size = "1.5Gi"'
refused_change 'spec.size cannot shrink' '.spec.size = "1.5Gi"' '.spec.size = "1.25Gi"'
refused_change 'spec.size must be a quantity' '.' '.spec.size = "two"'
# backend
refused 'spec.backend: Required value' 'del(.spec.backend)'
refused 'spec.backend must name exactly one backend' '.spec.backend = {}'
refused 'spec.backend must name exactly one backend' '.spec.backend.null = {}'
refused 'spec.backend must name exactly one backend' '.spec.backend = {null: null}'
refused 'unknown field "spec.backend.fiel"' '.spec.backend.fiel = {}'
refused 'spec.backend.file.path: Required value' 'del(.spec.backend.file.path)'
refused 'spec.backend.file.path in body should be at least 1 chars long' '.spec.backend.file.path = ""'
refused 'spec.backend.file.path is absolute' '.spec.backend.file.path = "/etc/passwd"'
refused 'spec.backend.file.path ends in' '.spec.backend.file.path = "folder/"'
refused 'spec.backend.file.path has an empty part' '.spec.backend.file.path = "a//b"'
refused 'spec.backend.file.path has a part' '.spec.backend.file.path = "../b"'
refused 'spec.backend.file.path has a part' '.spec.backend.file.path = "a/./b"'
refused 'spec.backend.file.path has a part' '.spec.backend.file.path = "a/.."'
refused 'spec.backend.file.path has a part of more than 255' '.spec.backend.file.path = "a" * 256'
refused 'spec.backend.file.path: Too long' '.spec.backend.file.path = "a/" * 2048 + "b"'
refused 'spec.backend.file.path holds a control character' '.spec.backend.file.path = "a\nb"'
refused 'spec.backend.file.pool must be the name of a pool' '.spec.backend.file.pool = "Fast"'
refused 'spec.backend.file.pool must be the name of a pool' '.spec.backend.file.pool = ""'
refused 'spec.backend.file.pool: Too long' '.spec.backend.file.pool = "a" * 64'
refused 'spec.backend.file.provisioning: Unsupported value' '.spec.backend.file.provisioning = "Fat"'
refused 'spec.backend.file.directIO' '.spec.backend.file.directIO = "yes"'
taken '.spec.backend = {null: {}}'
taken '.spec.backend.file.path = "a/..b/c.."'
taken '.spec.backend.file.path = "a" * 255'
taken '.spec.backend.file.path = ".hidden"'
refused_change 'spec.backend cannot change from one kind to another' '.' '.spec.backend = {null: {}}'
refused_change 'spec.backend cannot change from one kind to another' '.spec.backend = {null: {}}' '.'
refused_change 'spec.backend.file.path cannot change' '.' '.spec.backend.file.path = "other.img"'
refused_change 'spec.backend.file.pool cannot change' '.' '.spec.backend.file.pool = "fast"'
taken_change '.' '.spec.backend.file.directIO = true | .spec.backend.file.provisioning = "Thick"'
# recovery
refused 'spec.recovery.mode: Unsupported value' '.spec.recovery.mode = "reissue"'
refused 'spec.recovery.deadline must be a duration' '.spec.recovery.deadline = "0s"'
refused 'spec.recovery.deadline must be a duration' '.spec.recovery.deadline = "30"'
refused 'spec.recovery.deadline must be a duration' '.spec.recovery.deadline = "-3s"'
refused 'spec.recovery.deadline must be a duration' '.spec.recovery.deadline = "577h"'
refused 'spec.recovery.deadline' '.spec.recovery.deadline = 30'
refused 'spec.recovery.onDeadline FailDevice needs spec.recovery.deadline' '.spec.recovery.onDeadline = "FailDevice"'
refused 'spec.recovery.onDeadline: Unsupported value' '.spec.recovery.onDeadline = "Panic"'
refused 'spec.recovery.maxRestarts in body should be greater than or equal to 1' '.spec.recovery.maxRestarts = 0'
refused 'spec.recovery.maxRestarts in body should be less than or equal to 1000000' '.spec.recovery.maxRestarts = 1000001'
refused 'spec.recovery.backOff.initial must be a duration' '.spec.recovery.backOff.initial = "0s"'
refused 'spec.recovery.backOff.max must be a duration' '.spec.recovery.backOff.max = "soon"'
refused 'spec.recovery.backOff.initial is longer than spec.recovery.backOff.max' '.spec.recovery.backOff.initial = "31s"'
taken '.spec.recovery = {mode: "Queue", deadline: "1m30s", onDeadline: "FailDevice", backOff: {initial: "1.5s", max: "1h"}}'
taken '.spec.recovery.mode = "None"'
taken_change '.' '.spec.recovery.mode = "FailIO"'
# geometry
refused 'spec.queues in body should be greater than or equal to 1' '.spec.queues = 0'
refused 'spec.queues in body should be less than or equal to 4096' '.spec.queues = 4097'
refused 'spec.queueDepth in body should be less than or equal to 4096' '.spec.queueDepth = 5000'
refused 'spec.queueDepth' '.spec.queueDepth = "64"'
refused 'spec.maxIOSize must be a multiple of 4Ki' '.spec.maxIOSize = "6Ki"'
refused 'spec.maxIOSize must be a multiple of 4Ki' '.spec.maxIOSize = "33Mi"'
refused 'spec.maxIOSize must be a multiple of 4Ki' '.spec.maxIOSize = 0'
refused 'spec.queues x spec.queueDepth x spec.maxIOSize' '.spec.queues = 64 | .spec.queueDepth = 128'
refused 'spec.queues x spec.queueDepth x spec.maxIOSize' '.spec.maxIOSize = "32Mi"'
refused 'spec.queues x spec.queueDepth x spec.maxIOSize' '.spec.maxIOSize = 33554432'
refused 'spec.logicalBlockSize: Unsupported value' '.spec.logicalBlockSize = 513'
taken '.spec.queues = 64'
taken '.spec.maxIOSize = 4096'
taken '.spec.maxIOSize = "0.5Mi"'
taken '.spec.maxIOSize = "32Mi" | .spec.queueDepth = 32'
taken '.spec.logicalBlockSize = 4096'
# the rest
refused 'spec.faultInjection.latency must be a duration' '.spec.faultInjection.latency = "61s"'
refused 'spec.faultInjection.latency must be a duration' '.spec.faultInjection.latency = "much"'
refused 'spec.device.mode must be an octal number' '.spec.device.mode = "0888"'
refused 'spec.device.mode must be an octal number' '.spec.device.mode = "1777"'
refused 'spec.device.mode' '.spec.device.mode = 432'
refused 'spec.device.owner must be the name of an account' '.spec.device.owner = "no body"'
refused 'spec.device.owner must be the name of an account' '.spec.device.owner = "4294967295"'
refused 'spec.device.group must be the name of a group' '.spec.device.group = -1'
refused 'spec.reclaimPolicy: Unsupported value' '.spec.reclaimPolicy = "Recycle"'
refused 'spec.running' '.spec.running = "false"'
refused 'unknown field "spec.sise"' '.spec.sise = 1'
refused 'spec: Required value' 'del(.spec)'
refused 'metadata.name has more than 63 characters between two dots' '.metadata.name = "a" * 64'
refused 'spec.nodeName must be the name of a node' '.spec.nodeName = "Node 1"'
taken '.spec.faultInjection = {latency: "60s"}'
taken '.spec.faultInjection.latency = "0"'
taken '.spec.device = {mode: "660", owner: 1000, group: "4294967294"}'
taken '.spec.device = {mode: "0000", owner: "svc-a@EXAMPLE.org", group: "DOM\\users"}'
taken '.metadata.name = "a" * 63 + "." + "b" * 63'
taken '.spec.nodeName = ""'
refused_change 'spec.nodeName cannot change once it is set' '.spec.nodeName = "a"' '.spec.nodeName = "b"'
refused_change 'spec.nodeName cannot change once it is set' '.spec.nodeName = "a"' '.'
taken_change '.' '.spec.nodeName = "a"'
taken_change '.spec.nodeName = ""' '.spec.nodeName = "a"'

# What was only asked for can be taken back, down to the device's size.
taken_back() {
  apply '.spec.size = "1Gi"' good
  kubectl patch ublkvolume good --subresource=status --type=merge -p '{"status": {"size": "1Gi"}}'
  apply '.spec.size = "2Gi"' good
  fails_with 'spec.size cannot shrink' apply '.spec.size = "1023Mi"' good
  apply '.spec.size = "1Gi"' good
  kubectl delete ublkvolume good
}
check "growth that did not come about is taken back" taken_back

examples() { kubectl apply --dry-run=server -f "$REPO/manifests/examples"; }
check "all examples are taken" examples
defaults() {
  local got
  got=$(changed . | kubectl apply --dry-run=server -o json -f - | jq -cS .spec)
  same '{"backend":{"file":{"directIO":false,"path":"bad.img","pool":"default","provisioning":"Thin"}},"device":{"group":"disk","mode":"0660","owner":"root"},"logicalBlockSize":512,"maxIOSize":"256Ki","queueDepth":64,"queues":1,"readOnly":false,"reclaimPolicy":"Retain","recovery":{"backOff":{"initial":"100ms","max":"30s"},"maxRestarts":10,"mode":"Reissue","onDeadline":"KeepWaiting"},"running":true,"size":"1Gi"}' "$got"
}
check "what is left out gets the documented default" defaults
columns() {
  apply '.spec.nodeName = "a"' good
  same "NAME NODE SIZE MODE STATE READY RECOVERIES AGE" "$(kubectl get ublkvolumes | head -n 1 | xargs)"
  gives "good" kubectl get uv --field-selector spec.nodeName=a -o 'jsonpath={.items[*].metadata.name}'
  gives "" kubectl get uv --field-selector spec.nodeName=b -o 'jsonpath={.items[*].metadata.name}'
  kubectl get ublk
  kubectl delete ublkvolume good
}
check "columns, short name, category, selection by node" columns
((!FAILED))
