#!/bin/bash
# Applications in pods go on while the node's pod, its processes and the API server die. Wants a cluster that is up
# (./dev cluster up) and an image of what is to be tested (./dev image). Prints how long the applications paused.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
# shellcheck source-path=SCRIPTDIR/../lab
. "$LAB_DIR/cluster/archive.sh"
NAMESPACE=ublk-system
MODES=(Reissue Queue FailIO None)
cluster() { "$REPO/dev" cluster "$@"; }
kube() { kubectl -n "$NAMESPACE" "$@"; }
# shellcheck disable=SC2317
leave() {
  kubectl delete pod,ublkvolume -l test=recovery --all-namespaces --force --grace-period=0 --wait=false >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
use_cluster

name_of() { tr '[:upper:]' '[:lower:]' <<<"$1"; }           # of a mode: its volume, and its application's pod
node_pod() { kube get pods -l app.kubernetes.io/component=node --field-selector=status.phase=Running \
  -o jsonpath='{range .items[?(!@.metadata.deletionTimestamp)]}{.metadata.name}{"\n"}{end}' | head -n 1; }
recoveries() { kubectl get ublkvolume "$1" -o jsonpath='{.status.recoveryCount}'; }
# on_node COMMAND: the same as in a shell on the node.
on_node() { cluster node "$@"; }

install() {
  cluster load-image "$REPO/build/image.tar"
  helm upgrade --install ublk "$REPO/charts/ublk-operator" --namespace "$NAMESPACE" --create-namespace
  kube rollout status deployment/ublk-controller --timeout=180s
  kube rollout status daemonset/ublk-node --timeout=180s
}
load_application() {
  local root=$WORK/root
  mkdir -p "$root"
  cp "$REPO/build/release/bin/ublk-application" "$root/application"
  write_image "$WORK/application.tar" localhost/ublk-application:1 "$root" /application
  cluster load-image "$WORK/application.tar"
}
applied() {
  local mode
  for mode in "${MODES[@]}"; do
    cat <<YAML
---
apiVersion: ublk.dev/v1alpha1
kind: UblkVolume
metadata: {name: $(name_of "$mode"), labels: {test: recovery}}
spec:
  size: 64Mi
  recovery: {mode: $mode}
  backend: {file: {path: $(name_of "$mode").img}}
  reclaimPolicy: Delete
YAML
  done | kubectl apply -f -
  kubectl wait ublkvolume -l test=recovery --for=condition=Ready --timeout=60s
}
started() {
  local mode
  for mode in "${MODES[@]}"; do
    cat <<YAML
---
apiVersion: v1
kind: Pod
metadata: {name: $(name_of "$mode"), labels: {test: recovery}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 60
  containers:
    - name: application
      image: localhost/ublk-application:1
      args: [/application, --device, /dev/ublk/by-name/$(name_of "$mode"), --mib, "4", --threads, "2"]
      securityContext: {privileged: true}
      volumeMounts: [{name: dev, mountPath: /dev}]
  volumes: [{name: dev, hostPath: {path: /dev}}]
YAML
  done | sed 's|args: \[/application, |command: [/application]\n      args: [|' | kubectl apply -n default -f -
  kubectl wait -n default pod -l test=recovery --for=condition=Ready --timeout=120s
  for mode in "${MODES[@]}"; do wait_log "$(name_of "$mode")" '^ready'; done
}
# wait_log POD REGEX: until a line of its log says so.
wait_log() { timeout 120 grep -qE -m 1 "$2" < <(kubectl logs -n default -f --pod-running-timeout=120s "pod/$1"); }

# Every volume is served by a server of its own time, after whatever just happened.
recovered_all() {
  local volume before now
  while read -r volume before; do
    for _ in $(seq 600); do
      now=$(recoveries "$volume")
      [[ ${now:-0} -le $before ]] || break
      sleep 0.2
    done
    [[ $now -gt $before ]] || { printf '%s was recovered %s times, and %s before\n' "$volume" "$now" "$before"; return 1; }
  done <"$WORK/before"
  kubectl wait ublkvolume -l test=recovery --for=condition=Ready --timeout=60s
}
remember() { local mode; for mode in "${MODES[@]}"; do printf '%s %s\n' "$(name_of "$mode")" "$(recoveries "$(name_of "$mode")")"; done >"$WORK/before"; }

deleted_ten_times() {
  local i
  for i in $(seq "${ROUNDS:-10}"); do
    remember
    kube delete pod -l app.kubernetes.io/component=node --force --grace-period=0
    recovered_all || { printf 'in round %s\n' "$i"; return 1; }
  done
  kube rollout status daemonset/ublk-node --timeout=180s
}
killed() { # PATTERN: SIGKILL of the processes with such a command line, again and again
  local i
  for i in $(seq "${KILLS:-10}"); do
    remember
    on_node "pkill -KILL -f '$1'"
    recovered_all || { printf 'in round %s\n' "$i"; return 1; }
  done
}
# What the agent that runs now says, in a line a volume: name, Ready, its server, how often it was recovered. Not the API
# server's status, which an agent before it may have written.
agent_says() {
  on_node "nsenter -t \$(pgrep -f -o '^/usr/bin/ublk-node agent') -m /usr/bin/ublkctl get -o json" | jq -r '(.items // .)[] |
    [.metadata.name, (.status.conditions[] | select(.type == "Ready").status), .status.serverPID, .status.recoveryCount] | @tsv'
}
all_ready() { (($(agent_says | cut -f 2 | grep -c '^True$') == ${#MODES[@]})); }
wait_all_ready() { for _ in $(seq 100); do ! all_ready || return 0; sleep 0.2; done; agent_says; return 1; }
agent_killed() {
  local before
  before=$(agent_says)
  grep -q True <<<"$before"
  on_node "pkill -KILL -f '^/usr/bin/ublk-node agent'"
  for _ in $(seq 300); do on_node "pgrep -f '^/usr/bin/ublk-node agent'" && break; sleep 0.2; done
  wait_all_ready
  same "$before" "$(agent_says)"
  on_node "kill -0 $(cut -f 3 <<<"$before" | tr '\n' ' ')"
}
# Each has been recovered once more than before, by the agent's count.
wait_recovered_on_node() {
  for _ in $(seq 100); do
    if all_ready && [[ -z $(join -t $'\t' <(agent_says | cut -f 1,4 | sort) <(cut -f 1,4 "$WORK/said" | sort) | awk '$2 <= $3') ]]; then return; fi
    sleep 0.2
  done
  return 1
}
without_api() {
  remember
  agent_says >"$WORK/said"
  cluster stop kube-apiserver
  on_node "pkill -KILL -f '^/usr/bin/ublk-server'"
  # The node's own word, since nobody else has one: each served by another process than before.
  wait_recovered_on_node || { agent_says; cluster start kube-apiserver; return 1; }
  cluster start kube-apiserver
  recovered_all
}

# What each application saw; it ends here.
outcome() {
  local pod=$1 summary
  kubectl logs -n default "pod/$pod" >"$WORK/$pod.log"
  kubectl delete pod -n default "$pod" --wait=false >/dev/null
  timeout 90 grep -m 1 '^writes=' < <(kubectl logs -n default -f "pod/$pod") >"$WORK/$pod.summary" || true
  summary=$(cat "$WORK/$pod.summary")
  printf '%s: %s\n' "$pod" "$summary"
  grep -q ' lost=0 ' <<<"$summary"
  case $pod in
    reissue) grep -q ' errors=0 .* reopened=0 ' <<<"$summary" ;;
    queue) grep -q ' reopened=0 ' <<<"$summary" ;;
    failio) ! grep -q ' errors=0 ' <<<"$summary" && grep -q ' reopened=0 ' <<<"$summary" ;;
    none) ! grep -q ' errors=0 ' <<<"$summary" && ! grep -q ' reopened=0 ' <<<"$summary" ;;
  esac
}
pauses() {
  sed -n 's/^pause_ms=\([0-9]*\) .*/\1/p' "$WORK/$1.log" | sort -n |
    awk '{v[NR] = $1} END {if (NR) printf "%d pauses: min %d, median %d, max %d ms\n", NR, v[1], v[int((NR + 1) / 2)], v[NR]; else print "none of 30 ms"}'
}
removed() {
  kubectl delete ublkvolume -l test=recovery --timeout=60s
  same "" "$(on_node 'ls /dev/ublk/by-name')"
  same "" "$(on_node 'ls /var/lib/ublk-operator/pool')"
}

check "installed with Helm" install
check "an application's image" load_application
check "four volumes applied and Ready" applied
check "an application on each" started
check "the node's pod deleted with --force, ${ROUNDS:-10} times" deleted_ten_times
for mode in "${MODES[@]}"; do
  kubectl logs -n default "pod/$(name_of "$mode")" >"$WORK/$(name_of "$mode").log" || true
  printf '  %-8s %s\n' "$mode" "$(pauses "$(name_of "$mode")")"
done
check "every server killed ${KILLS:-10} times in a row" killed '^/usr/bin/ublk-server'
check "the spawner killed ${KILLS:-10} times in a row" killed '^/usr/bin/ublk-node spawner'
check "an agent's death touches no server" agent_killed
check "every server killed while there is no API server" without_api
for mode in "${MODES[@]}"; do
  check "what the application on $mode saw" outcome "$(name_of "$mode")"
  printf '  %-8s %s\n' "$mode" "$(cat "$WORK/$(name_of "$mode").summary" 2>/dev/null || true)"
done
check "removed, and nothing is left" removed
((!FAILED))
