#!/bin/bash
# Applications in pods go on while the node's pod, its processes and the API server die. Wants a cluster that is up
# (./dev cluster up) and an image of what is to be tested (./dev image). Prints how long the applications paused.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
. "$(dirname "${BASH_SOURCE[0]}")/operator.sh"
MODES=(Reissue Queue FailIO None)      # in small letters: their volumes, and the pods of the applications
# shellcheck disable=SC2317
leave() {
  cluster start kube-apiserver >/dev/null 2>&1 || true
  kubectl delete pod,ublkvolume -l test=recovery --all-namespaces --force --grace-period=0 --wait=false >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
use_cluster

recoveries() { kubectl get ublkvolume "$1" -o jsonpath='{.status.recoveryCount}'; }
applied() {
  local mode
  for mode in "${MODES[@]}"; do
    cat <<YAML
---
apiVersion: ublk.dev/v1alpha1
kind: UblkVolume
metadata: {name: ${mode,,}, labels: {test: recovery}}
spec:
  size: 64Mi
  recovery: {mode: $mode}
  backend: {file: {path: ${mode,,}.img}}
  reclaimPolicy: Delete
YAML
  done | kubectl apply -f -
  kubectl wait ublkvolume -l test=recovery --for=condition=Ready --timeout=60s
}
started() { start_applications recovery "${MODES[@],,}"; }

# Every volume is served by a server of its own time, after whatever just happened.
recovered_all() {
  local volume count watcher limit=120 end
  local -A before=()
  while read -r volume count; do before[$volume]=${count:-0}; done <"$WORK/before"
  end=$((SECONDS + limit))
  # A watch, since a kubectl that asks again and again takes the time of what it waits for.
  exec 3< <(exec kubectl get ublkvolume -l test=recovery --watch -o 'jsonpath={.metadata.name} {.status.recoveryCount}{"\n"}')
  watcher=$!
  while ((${#before[@]} && SECONDS < end)) && read -r -t $((end - SECONDS)) -u 3 volume count; do
    [[ ! -v before[$volume] || ${count:-0} -le ${before[$volume]} ]] || unset "before[$volume]"
  done
  exec 3<&-
  kill "$watcher" 2>/dev/null || true
  ((!${#before[@]})) || {
    printf 'not recovered again within %s s, or until the watch ended: %s\n' "$limit" "${!before[*]}"
    kubectl get ublkvolume
    return 1
  }
  kubectl wait ublkvolume -l test=recovery --for=condition=Ready --timeout=60s
}
remember() { local mode; for mode in "${MODES[@]}"; do printf '%s %s\n' "${mode,,}" "$(recoveries "${mode,,}")"; done >"$WORK/before"; }

deleted_ten_times() {
  local i
  for i in $(seq "${ROUNDS:-10}"); do
    remember
    kube delete pod -l app.kubernetes.io/component=node --force --grace-period=0
    recovered_all || { printf 'in round %s\n' "$i"; return 1; }
  done
  kube rollout status daemonset/ublk-node --timeout=180s
}
# watchdogs: their process ids. While they are the same, the kubelet has restarted nothing:
# its back-off, of up to five minutes, had no part in what happened.
watchdogs() { on_node "pgrep -f '$WATCHDOG'" | sort -n | tr '\n' ' '; }
# killed PATTERN: SIGKILL of the processes with such a command line, again and again. What the application on Reissue paused
# each time is left in WORK/kills, in their order. As many as there were kills, the longest: the others are of a busy machine.
# (Fewer, where one was over within the application's own rest.)
killed() {
  local i before first
  first=$(watchdogs)
  before=$(kubectl logs -n default pod/reissue | grep -c '^pause_ms=' || true)
  for i in $(seq "${KILLS:-10}"); do
    remember
    on_node "pkill -KILL -f '$1'"
    recovered_all || { printf 'in round %s\n' "$i"; return 1; }
  done
  kubectl logs -n default pod/reissue | sed -n 's/^pause_ms=\([0-9]*\) .*/\1/p' | tail -n "+$((before + 1))" |
    cat -n | sort -k 2 -rn | head -n "${KILLS:-10}" | sort -n | awk '{printf "%s ", $2}' >"$WORK/kills"
  gives "$first" watchdogs
}
say_kills() { printf '  Reissue  paused, one after the other: %sms\n' "$(cat "$WORK/kills" 2>/dev/null)"; }
# Other ways for the node's pod to go, or a part of it. All servers die with it each time, and are replaced.
replaced_by() {
  remember
  "$@"
  recovered_all
  kube rollout status daemonset/ublk-node --timeout=180s
}
# The first process of each container, which is only there to start the next again: here the kubelet has to.
first_processes_killed() {
  on_node "pkill -KILL -f '$WATCHDOG'"
}
no_controller() {
  local start
  start=$(now_ms)
  on_node "pkill -KILL -f '^/usr/bin/ublk-controller'"
  kubectl apply -f - <<'YAML'
apiVersion: ublk.dev/v1alpha1
kind: UblkVolume
metadata: {name: late, labels: {test: recovery}}
spec:
  size: 8Mi
  backend: {file: {path: late.img}}
  reclaimPolicy: Delete
YAML
  kubectl wait ublkvolume/late --for=condition=Ready --timeout=120s
  printf 'bound and Ready %s s after both controllers were killed\n' "$(seconds "$start")" >"$WORK/controllers-said"
  kubectl delete ublkvolume late --timeout=60s
}
# Again and again, as the others. Nothing pauses; what is timed is when the next one has said that all are served.
agent_killed() {
  local i start first
  first=$(watchdogs)
  wait_ready "${#MODES[@]}"
  cp "$WORK/said" "$WORK/agent-before"
  : >"$WORK/agents"
  for i in $(seq "${KILLS:-10}"); do
    start=$(now_ms)
    on_node "pkill -KILL -f '$AGENT'"
    await 60 on_node "pgrep -f '$AGENT'"
    wait_ready "${#MODES[@]}"
    printf '%s ' "$(($(now_ms) - start))" >>"$WORK/agents"
    diff "$WORK/agent-before" "$WORK/said" || { printf 'in round %s\n' "$i"; return 1; }
  done
  on_node "kill -0 $(servers)"
  gives "$first" watchdogs
}
# The node's own word, since nobody else has one: each is served by another process than before, and stays so.
recovered_without_api() {
  local start=$1 left
  on_node "pkill -KILL -f '$SERVER'"
  wait_recovered_since "$WORK/said-before" "${#MODES[@]}"
  cp "$WORK/said" "$WORK/said-recovered"
  printf 'all recovered %s s after the API server went\n' "$(seconds "$start")"
  # The outage is what is tested: leases, watches and tokens run out in it.
  left=$((${OUTAGE:-60} - ($(now_ms) - start) / 1000))
  ((left <= 0)) || sleep "$left"
  wait_ready "${#MODES[@]}"
  diff "$WORK/said-recovered" "$WORK/said"
  on_node "kill -0 $(servers)"
}
without_api() {
  local start status
  remember
  wait_ready "${#MODES[@]}"
  cp "$WORK/said" "$WORK/said-before"
  cluster stop kube-apiserver
  start=$(now_ms)
  set +e; (set -e; recovered_without_api "$start"); status=$?; set -e
  cluster start kube-apiserver
  ((!status))
  printf 'it was away for %s s\n' "$(seconds "$start")"
  recovered_all
}

# What each application saw; it ends here. In Queue only what a dead server had in its hands fails: a request each of the
# application's two threads, for each of its servers.
outcome() {
  local summary served
  served=$(($(recoveries "$1") + 1))
  end_application "$1"
  summary=$(<"$WORK/$1.summary")
  case $1 in
    reissue) grep -q ' errors=0 .* reopened=0 ' <<<"$summary" ;;
    queue)
      grep -q ' reopened=0 ' <<<"$summary"
      (($(sed -n 's/.* errors=\([0-9]*\) .*/\1/p' <<<"$summary") <= 2 * served))
      ;;
    failio) ! grep -q ' errors=0 ' <<<"$summary" && grep -q ' reopened=0 ' <<<"$summary" ;;
    none) ! grep -q ' errors=0 ' <<<"$summary" && ! grep -q ' reopened=0 ' <<<"$summary" ;;
  esac
}
# pauses POD: a pause for each time that the node's pod was deleted. Those are the longest: what else holds an application up
# is a small part of the time that a kubelet takes to start a pod.
pauses() {
  sed -n 's/^pause_ms=\([0-9]*\) .*/\1/p' "$WORK/$1.log" | sort -rn | head -n "${ROUNDS:-10}" | sort -n |
    awk '{v[NR] = $1} END {if (NR) printf "%d pauses: min %d, median %d, max %d ms\n", NR, v[1], v[int((NR + 1) / 2)], v[NR]; else print "none"}'
}
removed() {
  kubectl delete ublkvolume -l test=recovery --timeout=60s
  gives "" on_node 'ls /dev/ublk/by-name'
  gives "" on_node 'ls /var/lib/ublk-operator/pool'
}

check "installed with Helm" install
check "an image of an application" load_application
check "four volumes applied and Ready" applied
check "an application on each" started
check "the node's pod deleted with --force, ${ROUNDS:-10} times" deleted_ten_times
for mode in "${MODES[@]}"; do
  kubectl logs -n default "pod/${mode,,}" >"$WORK/${mode,,}.log" || true
  printf '  %-8s %s\n' "$mode" "$(pauses "${mode,,}")"
done
check "the node's pod deleted in order" replaced_by kube delete pod -l app.kubernetes.io/component=node
check "the node's pod replaced by a rollout" replaced_by kube rollout restart daemonset/ublk-node
check "the first process of each of its containers killed" replaced_by first_processes_killed
check "every server killed ${KILLS:-10} times in a row" killed "$SERVER"
say_kills
check "the spawner killed ${KILLS:-10} times in a row" killed "$SPAWNER"
say_kills
check "both controllers killed, and a volume comes to life all the same" no_controller
printf '  %s\n' "$(cat "$WORK/controllers-said" 2>/dev/null)"
check "the agent killed ${KILLS:-10} times in a row, which touches no server" agent_killed
printf '  the next one said that all are served after, one after the other: %sms\n' "$(cat "$WORK/agents" 2>/dev/null)"
check "every server killed while the API server is away for ${OUTAGE:-60} s" without_api
for mode in "${MODES[@]}"; do
  check "what the application on $mode saw" outcome "${mode,,}"
  printf '  %-8s %s\n' "$mode" "$(cat "$WORK/${mode,,}.summary" 2>/dev/null || true)"
done
check "removed, and nothing is left" removed
((!FAILED))
