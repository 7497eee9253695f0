#!/bin/bash
# The pods of manifests/examples, as they are, on a cluster with the operator: ./dev cluster up, load-image, helm install.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
. "$LAB_DIR/cluster/archive.sh"
PODS=$REPO/manifests/examples/pods
VOLUME=$REPO/manifests/examples/reissue.yaml
# shellcheck disable=SC2317
leave() {
  kubectl delete -f "$PODS" --ignore-not-found --wait=false >/dev/null 2>&1 || true
  kubectl delete -f "$VOLUME" --ignore-not-found --wait=false >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
use_cluster

# What the examples take from debian:12, out of busybox.
stand_in_for_debian() {
  local root=$WORK/root tool
  mkdir -p "$root"/{bin,tmp}
  cp /bin/busybox "$root/bin/"
  for tool in sh dd head sleep date cat nsenter; do ln -s busybox "$root/bin/$tool"; done
  write_image "$WORK/debian.tar" docker.io/library/debian:12 "$root" /bin/sh
  "$REPO/dev" cluster load-image "$WORK/debian.tar"
}
volume() {
  kubectl apply -f "$VOLUME"
  kubectl wait --for=condition=Ready ublkvolume/pgdata --timeout=120s
}
recoveries() { kubectl get ublkvolume pgdata -o 'jsonpath={.status.recoveryCount}'; }
# runs POD TEXT: it becomes ready and prints TEXT.
runs() {
  kubectl apply -f "$PODS/$1.yaml"
  kubectl wait --for=condition=Ready "pod/$1" --timeout=180s
  kubectl logs "$1" -c app | grep -F "$2"
}
raw() { runs raw "hello from a pod"; }
gone() { kubectl delete -f "$PODS/$1.yaml" --timeout=120s; }
local_block() { runs local-block "hello from a pod"; }
file_system() { runs filesystem 20; }
is_mounted() { "$REPO/dev" cluster node mountpoint -q /var/lib/ublk-mounts/pgdata; }
stays_over_a_server() {
  local before; before=$(recoveries)
  "$REPO/dev" cluster node "kill -KILL $(kubectl get ublkvolume pgdata -o 'jsonpath={.status.serverPID}')"
  kubectl exec filesystem -c app -- sh -c 'date >>/data/log && dd if=/dev/zero of=/data/file bs=1M count=8 conv=fsync'
  kubectl wait "--for=jsonpath={.status.recoveryCount}=$((before + 1))" ublkvolume/pgdata --timeout=60s
}
lines() { kubectl exec filesystem -c app -- cat /data/log | grep -c .; }
file_system_again() {
  local before; before=$(lines)
  gone filesystem
  if is_mounted; then echo "still mounted"; return 1; fi
  file_system
  same $((before + 1)) "$(lines)"       # all that was there, and the new pod's
}
deleted() {
  kubectl delete -f "$VOLUME" --timeout=60s
  gives "" "$REPO/dev" cluster node ls /dev/ublk/by-name
  "$REPO/dev" cluster node test -s /var/lib/ublk-operator/pool/postgresql/pgdata.img   # Retain
  "$REPO/dev" cluster node rm -r /var/lib/ublk-operator/pool/postgresql
}

check "an image that stands in for debian:12" stand_in_for_debian
check "a volume" volume
check "raw: a privileged pod with the device" raw
check "and goes" gone raw
check "local-block: a pod without privilege" local_block
check "and goes" gone local-block
check "filesystem: mounted by one container for another" file_system
check "the mount is the node's" is_mounted
check "a killed server is only a pause to it" stays_over_a_server
check "the next pod finds the same file system" file_system_again
check "and goes" gone filesystem
check "the volume goes, its data stays" deleted
((!FAILED))
