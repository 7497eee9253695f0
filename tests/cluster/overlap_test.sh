#!/bin/bash
# Two pods of a node at once, as a forced deletion makes them: the kubelet has not ended the one when the next begins. Here the
# second is made on purpose, and stays as long as the test wants. Whatever the second does, a volume has one server.
# Wants a cluster that is up (./dev cluster up) and an image of what is to be tested (./dev image).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
. "$(dirname "${BASH_SOURCE[0]}")/operator.sh"
# shellcheck disable=SC2317
leave() {
  end_looking >/dev/null 2>&1 || true
  kubectl delete pod,ublkvolume -l test=overlap --all-namespaces --force --grace-period=0 --wait=false >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
use_cluster

applied() {
  kubectl apply -f - <<'YAML'
apiVersion: ublk.dev/v1alpha1
kind: UblkVolume
metadata: {name: shared, labels: {test: overlap}}
spec:
  size: 64Mi
  backend: {file: {path: shared.img}}
  reclaimPolicy: Delete
YAML
  kubectl wait ublkvolume/shared --for=condition=Ready --timeout=60s
  start_applications overlap shared
}
# begin_looking: from here to look_back, again and again, who has mapped the volume's char device (all servers have, and nobody
# else): a line a look, with their process ids. Where there are several, one may have ended during the look: those are
# looked at once more.
# shellcheck disable=SC2016
begin_looking() {
  on_node 'rm -f /run/looking.end; (for i in $(seq 6000); do
    [ ! -e /run/looking.end ] || break
    set -- $(grep -l /dev/ublkc /proc/[0-9]*/maps 2>/dev/null)
    [ $# -lt 2 ] || set -- $(grep -l /dev/ublkc "$@" 2>/dev/null)
    echo $(echo "$@" | grep -oE "[0-9]+"); sleep 0.05
  done >/run/looking 2>&1 </dev/null &)'
}
end_looking() { on_node 'touch /run/looking.end'; }
# look_back SERVERS: at least so many were seen, one after the other. More than one in a look are two that serve one volume.
look_back() {
  end_looking
  on_node 'cat /run/looking' >"$WORK/looks"
  printf '%s looks; servers seen: %s\n' "$(wc -l <"$WORK/looks")" "$(sort -u "$WORK/looks" | xargs)"
  (($(grep -c . "$WORK/looks") >= 20 && $(grep . "$WORK/looks" | sort -u | wc -l) >= $1))
  gives "" awk 'NF > 1' "$WORK/looks"
}

# second_pod: all that the DaemonSet's pod is, but for who owns it.
second_pod() {
  kube get pod -l app.kubernetes.io/component=node -o json | jq '.items[0] | {apiVersion, kind,
    metadata: {name: "second", namespace: .metadata.namespace, labels: {test: "overlap"}}, spec}' | kubectl apply -f -
  kube wait pod/second --for=jsonpath='{.status.phase}'=Running --timeout=60s
  # Its programs have begun: they wait for those of the other pod to end.
  await 60 one_waits "$AGENT"
  await 60 one_waits "$SPAWNER"
}
# one_waits PATTERN: three processes have such a command line: one that works, and one that waits for its end by a child.
one_waits() { (($(on_node "pgrep -c -f '$1' || true") == 3)); }
waiting() { on_node "pgrep -f '$AGENT'; pgrep -f '$SPAWNER'"; }

touches_nothing() {
  wait_ready 1
  cp "$WORK/said" "$WORK/said-before"
  begin_looking
  second_pod
  waiting >"$WORK/waiting"
  # A server dies while both are there: it is the first pod that replaces it, as ever.
  on_node "pkill -KILL -f '$SERVER'"
  wait_recovered_since "$WORK/said-before" 1
  cp "$WORK/said" "$WORK/said-recovered"
  kubectl wait ublkvolume/shared --for=condition=Ready --timeout=60s
  wait_ready 1
  diff "$WORK/said-recovered" "$WORK/said"
  waiting | diff "$WORK/waiting" -
}
# The first pod goes: the second takes its volumes, and the DaemonSet's next pod waits as the second did.
takes_over() {
  wait_ready 1
  cp "$WORK/said" "$WORK/said-before"
  kube delete pod -l app.kubernetes.io/component=node --force --grace-period=0
  kube wait pod/second --for=condition=Ready --timeout=120s
  wait_recovered_since "$WORK/said-before" 1
  await 120 one_waits "$AGENT"
}
gives_back() {
  wait_ready 1
  cp "$WORK/said" "$WORK/said-before"
  kube delete pod second --force --grace-period=0
  kube rollout status daemonset/ublk-node --timeout=180s
  wait_recovered_since "$WORK/said-before" 1
  # At first, after the kill, of the second pod, of the third.
  look_back 4
}
outcome() {
  end_application shared
  grep -q ' errors=0 .* reopened=0 ' "$WORK/shared.summary"
}
removed() {
  kubectl delete ublkvolume -l test=overlap --timeout=60s
  gives "" on_node 'ls /dev/ublk/by-name'
}

check "installed with Helm" install
check "an image of an application" load_application
check "a volume, and an application on it" applied
check "a second pod of the node touches nothing" touches_nothing
check "the first pod deleted with --force: the second takes over" takes_over
check "the second deleted with --force: the next takes over, and never two servers had the volume" gives_back
check "what the application saw" outcome
printf '  %s\n' "$(cat "$WORK/shared.summary" 2>/dev/null || true)"
check "removed, and nothing is left" removed
((!FAILED))
