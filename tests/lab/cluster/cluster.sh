#!/bin/bash
# A Kubernetes cluster to play with and to test on: `./dev cluster` is this script.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../deps.sh"
CLUSTER_LAB=$LAB_DIR/cluster
. "$LAB_DIR/apt.sh"
. "$LAB_DIR/image.sh"
. "$LAB_DIR/qemu.sh"
. "$LAB_DIR/kernel-log.sh"

usage() {
  cat <<'USAGE'
usage: ./dev cluster COMMAND [ARGS...]

A Kubernetes of one node: the control plane as processes of this machine on loopback, the node vm1 a VM whose kernel
has ublk. Needs root. All of it is built at first use.

  up                    build what is missing, start it, wait until the node is Ready; quick when it is up
  down                  end every process of it and delete its data; logs stay until the next up
  status                what runs; exit status 0 when all does, 1 when something does not, 3 when it is down
  kubectl ARGS...       kubectl, as the cluster's administrator
  helm ARGS...          Helm, the same
  env                   shell commands that put this kubectl, helm and KUBECONFIG into your shell
  load-image FILE.tar   put a docker-archive or OCI archive into the node's containerd
  node [COMMAND...]     run a shell command as root on the node, with its input, output and exit status (255: no node)
  node-cut              the node's power goes off now; what was not flushed may be lost, and on its disks drop1 and drop2
                        (/dev/disk/by-id/virtio-drop1) is lost
  node-start            power on again, with the same disk; waits until it is Ready
  node-reboot           an orderly reboot from inside; waits until it is Ready
  stop COMPONENT        end one of etcd, kube-apiserver, kube-controller-manager, kube-scheduler
  start COMPONENT       and start it again
  build                 only build what `up` needs

  UBLK_CLUSTER_DIR      its data and logs (default ~/.cache/ublk-operator/cluster/default)
  UBLK_CLUSTER_PORT     first of the five ports it takes on 127.0.0.1 (default 16443). With both set to others there
                        can be a second cluster beside the first; the same ones must be set for each command.
  UBLK_CLUSTER_MEMORY, UBLK_CLUSTER_CPUS   of the node (default 4G, 2)
USAGE
}

STATE=$(realpath -m "${UBLK_CLUSTER_DIR:-$CACHE_ROOT/cluster/default}")
API_PORT=${UBLK_CLUSTER_PORT:-16443}
[[ $API_PORT =~ ^[1-9][0-9]{3,4}$ ]] || fail 64 "UBLK_CLUSTER_PORT wants a port number from 1024 on, not '$API_PORT'"
ETCD_PORT=$((API_PORT + 1)) ETCD_PEER_PORT=$((API_PORT + 2)) SSH_PORT=$((API_PORT + 3)) KUBELET_PORT=$((API_PORT + 4))
. "$CLUSTER_LAB/archive.sh"
. "$CLUSTER_LAB/processes.sh"
. "$CLUSTER_LAB/programs.sh"
. "$CLUSTER_LAB/node-image.sh"
. "$CLUSTER_LAB/control-plane.sh"
. "$CLUSTER_LAB/node.sh"
EVERYTHING=("${COMPONENTS[@]}" "${DROPPING_DISKS[@]/#/$NODE-}" "$NODE")

# As tools of this cluster they keep what they cache with it, and read nothing of the user's other clusters.
as_admin() {
  KUBECONFIG=$STATE/kubeconfig KUBECACHEDIR=$STATE/tools/kubectl HELM_CACHE_HOME=$STATE/tools/helm/cache \
    HELM_CONFIG_HOME=$STATE/tools/helm/config HELM_DATA_HOME=$STATE/tools/helm/data "$@"
}
kubectl() { as_admin "$KUBERNETES/kubectl" "$@"; }

# What the running cluster was made of: the recipe may have changed since.
remember_programs() { declare -p KUBERNETES ETCD HELM LAB_QEMU | sed 's/^declare /declare -g /' >"$STATE/programs"; }
recall_programs() {
  [[ -f $STATE/programs ]] || return 0
  # shellcheck disable=SC1091
  . "$STATE/programs"
  [[ -d $KUBERNETES && -d $ETCD && -d $HELM && -x ${LAB_QEMU[0]} ]] ||
    say "what the cluster was made of is gone from the cache: ./dev cluster down, and up again"
}

build_all() {
  install_missing "${LAB_PACKAGES[@]}" "${CLUSTER_PACKAGES[@]}"
  cluster_programs
  node_image
}

# with_state COMMAND...: one command at a time may start or end processes.
with_state() {
  mkdir -p "$STATE"
  exec {STATE_LOCK_FD}>"$STATE/lock"
  flock -w 900 "$STATE_LOCK_FD" || fail 1 "another ./dev cluster command has been at work in $STATE for 15 minutes"
  "$@"
}

# count_running: sets RUNNING to how many of the processes there are.
count_running() {
  local name
  RUNNING=0
  for name in "${EVERYTHING[@]}"; do ! running "$name" || RUNNING=$((RUNNING + 1)); done
}
must_be_up() { running kube-apiserver || fail 3 "the cluster is not up (no API server): ./dev cluster up"; }

up() {
  local start
  count_running
  if ((RUNNING == ${#EVERYTHING[@]})) && kubectl get --raw /readyz >/dev/null 2>&1; then
    say "the cluster is up already; ./dev cluster down ends it"
    return
  fi
  if ((RUNNING)); then
    say "only $RUNNING of ${#EVERYTHING[@]} processes of the cluster are there: starting afresh"
    down
  fi
  build_all
  start=$(now_ms)
  delete_data
  rm -rf "$STATE/log"
  mkdir -p "$STATE"/{run,log,tools}
  remember_programs
  # An unfinished start must not be left behind: whoever calls this again would find half a cluster.
  trap down EXIT
  make_identities
  make_node
  boot_node
  start_control_plane
  say "control plane ready: $(seconds "$start") s"
  wait_for_node
  trap - EXIT
  say "cluster up, node $NODE Ready: $(seconds "$start") s. Try: ./dev cluster kubectl get nodes -o wide"
}

delete_data() { rm -rf "$STATE"/{etcd,pki,node,run,tools,hosts,kubeconfig,programs}; }

down() {
  local name bugs had=''
  [[ ! -d $STATE/run ]] || had=1
  # Nothing of it is needed again, so nobody is asked twice; the node goes first, so that nobody misses the others.
  for name in "$NODE" "$NODE-ssh" "${DROPPING_DISKS[@]/#/$NODE-}" kube-scheduler kube-controller-manager kube-apiserver etcd; do stop_process "$name" KILL; done
  delete_data
  if [[ $had ]]; then say "the cluster is down; its logs: $STATE/log"; else say "the cluster is down already"; fi
  [[ -f $STATE/log/kernel.log ]] || return 0
  bugs=$(kernel_bugs "$STATE/log/kernel.log")
  [[ -z $bugs ]] || { say "the node's kernel reported a bug:"; printf '%s\n' "$bugs" >&2; }
}

status() {
  local name
  count_running
  for name in "${EVERYTHING[@]}"; do
    if running "$name"; then printf '%-24s process %s\n' "$name" "$PID"; else printf '%-24s not running\n' "$name"; fi
  done
  ((RUNNING)) || exit 3
  printf 'KUBECONFIG=%s\n' "$STATE/kubeconfig"
  kubectl get nodes --request-timeout=5s || exit 1
  ((RUNNING == ${#EVERYTHING[@]})) || exit 1
}

load_image() {
  [[ $# == 1 && -f $1 ]] || fail 64 "usage: ./dev cluster load-image FILE.tar"
  running "$NODE" || fail 3 "the node is off: ./dev cluster node-start"
  # By the shared folder: what the connection carries is encrypted, which an emulated machine does slowly.
  local file=$STATE/node/share/image.$$.tar
  cp --reflink=auto "$1" "$file"
  trap 'rm -f "$STATE/node/share/image.$$.tar"' EXIT
  node_ssh -n "$NODE" ctr -n k8s.io images import "/lab/share/${file##*/}"
}

node_cut() {
  local disk
  # They go with it; until they do nothing more reaches them.
  for disk in "${DROPPING_DISKS[@]/#/$NODE-}"; do ! running "$disk" || kill -s STOP "$PID"; done
  for disk in "$NODE" "${DROPPING_DISKS[@]/#/$NODE-}" "$NODE-ssh"; do stop_process "$disk" KILL; done
  say "the node's power is off"
}

node_start() {
  local start
  must_be_up
  start=$(now_ms)
  ! running "$NODE" || { say "the node is running already"; return; }
  boot_node
  wait_for_node
  say "node $NODE Ready: $(seconds "$start") s"
}

node_reboot() {
  local start old
  must_be_up
  running "$NODE" || fail 3 "the node is off: ./dev cluster node-start"
  start=$(now_ms)
  old=$(node_boot_id)
  [[ $old ]] || fail 1 "the node does not answer. Its power can still be cut: ./dev cluster node-cut"
  node_ssh -n "$NODE" systemctl reboot || true          # the connection may end first
  stop_process "$NODE-ssh" KILL
  wait_for_node "$old"
  say "node $NODE rebooted and Ready: $(seconds "$start") s"
}

component() {
  [[ " ${COMPONENTS[*]} " == *" $2 "* ]] || fail 64 "no component '$2'; there are: ${COMPONENTS[*]}"
  [[ -d $STATE/run ]] || fail 3 "the cluster is down: ./dev cluster up"
  if [[ $1 == stop ]]; then stop_process "$2"; return; fi
  ! running "$2" || { say "$2 is running already"; return; }
  start_component "$2"
  [[ $2 != kube-apiserver && $2 != etcd ]] || ! running kube-apiserver || ! running etcd || wait_for_api
}

print_environment() {
  printf 'export %s=%q\n' KUBECONFIG "$STATE/kubeconfig"
  # shellcheck disable=SC2016
  printf 'PATH=%q:$PATH\n' "$KUBERNETES:$HELM"
}

command=${1:-help}
(($# == 0)) || shift
case $command in
  up | down | node-* | start | stop | build)
    [[ $(id -u) == 0 ]] || fail 1 "the cluster needs root, for the node's file system and the API server's own hosts file" ;;
esac
recall_programs
case $command in
  up | down) with_state "$command" ;;
  status) status ;;
  kubectl) must_be_up; as_admin exec "$KUBERNETES/kubectl" "$@" ;;
  helm) must_be_up; as_admin exec "$HELM/helm" "$@" ;;
  env) must_be_up; print_environment ;;
  load-image) load_image "$@" ;;
  node) running "$NODE" || fail 255 "the node is off"; node_ssh "$NODE" "$@" ;;
  node-cut) with_state node_cut ;;
  node-start) with_state node_start ;;
  node-reboot) with_state node_reboot ;;
  start | stop) with_state component "$command" "${1:-}" ;;
  build) build_all ;;
  help | -h | --help) usage ;;
  *) usage >&2; fail 64 "no command '$command'" ;;
esac
