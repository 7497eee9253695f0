#!/bin/bash
# The life of an installation, with an application at work on a volume all the time: install, helm test, upgrade, rollback,
# an uninstall that is refused and one that is not, manifests/install.yaml without Helm, and Helm again. Wants a cluster
# that is up (./dev cluster up) and an image of what is to be tested (./dev image); leaves the operator installed by Helm.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
. "$(dirname "${BASH_SOURCE[0]}")/operator.sh"
CHART=$REPO/charts/ublk-operator
NODE=vm1
TAINT=ublk.dev/agent-not-ready
OTHER_TAINT=example.com/other
HOOK=job/ublk-check-uninstall
# shellcheck disable=SC2317
leave() {
  kubectl delete pod,ublkvolume -l test=lifecycle --all-namespaces --force --grace-period=0 --wait=false >/dev/null 2>&1 || true
  kubectl taint node "$NODE" "$TAINT-" >/dev/null 2>&1 || true
  kubectl taint node "$NODE" "$OTHER_TAINT-" >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
use_cluster

volume() { # NAME
  kubectl apply -f - <<YAML
apiVersion: ublk.dev/v1alpha1
kind: UblkVolume
metadata: {name: $1, labels: {test: lifecycle}}
spec:
  size: 16Mi
  backend: {file: {path: $1.img}}
  reclaimPolicy: Delete
YAML
  kubectl wait "ublkvolume/$1" --for=condition=Ready --timeout=60s
}
recoveries() { kubectl get ublkvolume life -o 'jsonpath={.status.recoveryCount}'; }
# taken_back COMMAND...: does what ends the node's pod; the next one takes the volume back, once.
taken_back() {
  local before; before=$(recoveries)
  "$@"
  rolled_out
  kubectl wait ublkvolume/life "--for=jsonpath={.status.recoveryCount}=$((before + 1))" --timeout=120s
  kubectl wait ublkvolume/life --for=condition=Ready --timeout=60s
}
# becomes TEXT COMMAND...: within a minute it prints that. (kubectl wait takes no list.)
becomes() {
  local text=$1 said=''; shift
  for _ in $(seq 300); do
    said=$("$@")
    [[ $said != "$text" ]] || return 0
    sleep 0.2
  done
  same "$text" "$said"
}
pools() { kubectl get ublknode "$NODE" -o 'jsonpath={.status.pools[*].name}'; }
taints() { kubectl get node "$NODE" -o 'jsonpath={.spec.taints[*].key}'; }

installed() {
  install
  volume life
  load_application
  start_applications lifecycle life
}
# What they tell a newcomer to type works when it is pasted.
notes() {
  helm get notes ublk --namespace "$NAMESPACE" >"$WORK/notes"
  sed -n '/^kubectl apply/,/^YAML$/p' "$WORK/notes" | sed '1s/apply/apply --dry-run=server/' >"$WORK/typed"
  bash -euo pipefail "$WORK/typed" | grep -x 'ublkvolume.ublk.dev/pgdata created (server dry run)'
  grep -F "kubectl get pods -n $NAMESPACE" "$WORK/notes"
}
helm_test() { helm test ublk --namespace "$NAMESPACE" --timeout 2m; }

# A pool more, another level of the log, and a taint to take off.
upgrade() {
  cat >"$WORK/values.yaml" <<YAML
node:
  logLevel: debug
  startupTaint: $TAINT
  pools:
    - {name: default, path: /var/lib/ublk-operator/pool, create: true}
    - {name: second, path: /var/lib/ublk-second, create: true}
controller: {logLevel: debug}
YAML
  kubectl taint node "$NODE" "$TAINT=:NoSchedule" "$OTHER_TAINT=:PreferNoSchedule"
  helm upgrade ublk "$CHART" --namespace "$NAMESPACE" -f "$WORK/values.yaml"
}
upgraded() {
  becomes default pools
  taken_back upgrade
  becomes "default second" pools
  kube get daemonset/ublk-node deployment/ublk-controller -o yaml | grep -c -- '--log-level=debug' | grep -qx 3
}
taint_off() {
  becomes "$OTHER_TAINT" taints
  kube logs -l app.kubernetes.io/component=controller --tail=-1 | grep "node=$NODE operation=untaint taint=$TAINT"
}
# as_controller ARGS...: kubectl with the controller's token and no other credential.
as_controller() {
  kubectl config view --raw -o json | jq --arg token "$(kubectl create token ublk-controller -n "$NAMESPACE")" \
    '.users[0].user = {token: $token}' >"$WORK/config"
  KUBECONFIG=$WORK/config kubectl "$@"
}
nothing_else() {
  local refusal='may change nothing of a node but take the taint'
  same "" "$(kubectl get validatingadmissionpolicy ublk-startup-taint -o 'jsonpath={.status.typeChecking.expressionWarnings}')"
  fails_with "$refusal" as_controller label node "$NODE" example.com/a=b --dry-run=server
  fails_with "$refusal" as_controller patch node "$NODE" --type=merge -p '{"spec":{"unschedulable":true}}' --dry-run=server
  fails_with "$refusal" as_controller patch node "$NODE" --type=merge -p '{"spec":{"providerID":"x://y"}}' --dry-run=server
  fails_with "$refusal" as_controller taint node "$NODE" "$OTHER_TAINT-" --dry-run=server
  fails_with "$refusal" as_controller taint node "$NODE" "$TAINT=:NoSchedule" --dry-run=server
}
rolled_back() {
  local before; before=$(helm history ublk -n "$NAMESPACE" -o json | jq '.[-2].revision')
  taken_back helm rollback ublk "$before" --namespace "$NAMESPACE"
  becomes default pools
  ! kube get daemonset/ublk-node deployment/ublk-controller -o yaml | grep -e '--log-level=debug' -e '--startup-taint'
}

# page COMPONENT PORT: /metrics of each of its pods that stay, by the node, which reaches them.
page() {
  local address addresses
  addresses=$(kube get pods -l "app.kubernetes.io/component=$1" -o json |
    jq -r '.items[] | select(.metadata.deletionTimestamp == null) | .status.podIP')
  for address in $addresses; do
    on_node "bash -c \"exec 3<>/dev/tcp/$address/$2; printf 'GET /metrics HTTP/1.1\r\nHost: ublk\r\nConnection: close\r\n\r\n' >&3; cat <&3\"" |
      sed '1,/^\r$/d' >"$WORK/page"
    promtool check metrics <"$WORK/page"
    grep -v '^#' "$WORK/page" >>"$WORK/series"
  done
}
# Each "NAME LABEL" in $WORK/asked is a series that there is, and carries that label. Names of which there is no series now
# (errors, of which there are none) are looked for in the code, by chart_test.
labels_are_there() {
  local name label
  while read -r name label; do
    grep -qE "^${name}[{ ]" "$WORK/series" || continue
    grep -E "^${name}\{" "$WORK/series" | grep -qE "[{,]$label=" || { echo "$name has no label $label"; return 1; }
  done <"$WORK/asked"
  [[ -s $WORK/asked ]]
}
metrics_fit() {
  local expression names labels name label
  : >"$WORK/series"
  page node 8081
  page controller 8080
  grep -q '^ublk_volume_recoveries_total{' "$WORK/series"
  grep -q '^ublk_controller_leader 1$' "$WORK/series"
  # The dashboard's expressions with their legends, and the series that the alerts are tested with.
  while read -r expression; do
    names=$(grep -oE 'ublk_[a-z_]+' <<<"$expression" | sort -u)
    labels=$(grep -oE 'by \([a-z_, ]+\)|\{\{[a-z_]+\}\}|[{,][a-z_]+=' <<<"$expression" | sed 's/^by //' | grep -oE '[a-z_]+' |
      grep -vxE 'le|instance|pod' | sort -u || true)
    for name in $names; do for label in $labels; do printf '%s %s\n' "$name" "$label"; done; done
  done >"$WORK/asked" < <(
    jq -r '.panels[].targets[]? | "\(.expr) \(.legendFormat)"' "$CHART/files/dashboard.json"
    sed -nE "s/.*series: '([^']*)'.*/\1/p" "$REPO/tests/cluster/alerts_test.yaml"
  )
  labels_are_there
}

uninstall_refused() {
  fails_with "job ublk-check-uninstall failed" helm uninstall ublk --namespace "$NAMESPACE"
  kube logs "$HOOK" >"$WORK/hook"
  cat "$WORK/hook"
  grep -qE "^life on $NODE, /dev/ublkb[0-9]+, LIVE$" "$WORK/hook"
  grep -q '^refused: 1 volume still has a device' "$WORK/hook"
  # The same in the pod, for who looks there.
  kube get pods -l job-name=ublk-check-uninstall -o 'jsonpath={.items[*].status.containerStatuses[*].state.terminated.message}' |
    grep -q "^life on $NODE"
  same "" "$(kubectl get clusterrole,clusterrolebinding -l app.kubernetes.io/component=uninstall -o name)"
}
# Helm 3 takes a refused uninstall for one that is under way, and upgrades such a release no more.
refusal_taken_back() {
  local before; before=$(generations)
  helm rollback ublk "$(helm history ublk -n "$NAMESPACE" -o json | jq '.[-1].revision')" --namespace "$NAMESPACE"
  same deployed "$(helm status ublk -n "$NAMESPACE" -o json | jq -r .info.status)"
  same "$before" "$(generations)"
}
generations() { kube get daemonset/ublk-node deployment/ublk-controller -o 'jsonpath={.items[*].metadata.generation}'; }
# What a Helm release leaves, but for the hook's last word.
left_behind() {
  kubectl get clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding -o name \
    -l app.kubernetes.io/name=ublk-operator
  kubectl get daemonset,deployment,serviceaccount,role,rolebinding,pdb,pod -A -o name \
    -l 'app.kubernetes.io/name=ublk-operator,app.kubernetes.io/component notin (uninstall,test)'
}
uninstalled() { # OPTIONS of helm...
  helm uninstall ublk --namespace "$NAMESPACE" --wait --timeout 3m "$@"
  kube wait --for=delete pod -l 'app.kubernetes.io/component in (node,controller)' --timeout=120s
  same "" "$(left_behind)"
  kubectl get crd/ublkvolumes.ublk.dev crd/ublknodes.ublk.dev ublkvolume/life
}
uninstalled_when_told() {
  uninstalled --no-hooks
  # The device has no server and waits for one.
  on_node "test -b /dev/ublk/by-name/life"
}
without_helm() {
  taken_back kubectl apply -f "$REPO/manifests/install.yaml"
  volume more
}
outcome() {
  end_application life
  grep -q ' errors=0 lost=0 reopened=0 ' "$WORK/life.summary"
}

stopped() {
  # As the documentation has it.
  kubectl get ublkvolumes -o name | xargs -I {} kubectl patch {} --type=merge -p '{"spec":{"running":false}}'
  kubectl wait ublkvolume/life ublkvolume/more --for=condition=Ready=False --timeout=60s
  on_node "! ls /dev/ublk/by-name/life /dev/ublk/by-name/more"
}
digest_of_life() { on_node "sha256sum </dev/ublk/by-name/life"; }
# What kubectl applied becomes Helm's; and nothing stands in the way of an uninstall any more.
helm_takes_over() {
  digest_of_life >"$WORK/before"
  helm install ublk "$CHART" --namespace "$NAMESPACE" --take-ownership
  rolled_out
  stopped
  uninstalled
  same "" "$(kube get "$HOOK" --ignore-not-found -o name)"
}
reinstalled() {
  helm install ublk "$CHART" --namespace "$NAMESPACE"
  rolled_out
  kubectl patch ublkvolume/life --type=merge -p '{"spec":{"running":true}}'
  kubectl wait ublkvolume/life --for=condition=Ready --timeout=60s
  same "$(<"$WORK/before")" "$(digest_of_life)"
}
removed() {
  kubectl delete ublkvolume -l test=lifecycle --timeout=60s
  on_node "cd /var/lib/ublk-operator/pool && ! ls /dev/ublk/by-name/life /dev/ublk/by-name/more life.img more.img"
}

long() { [[ ${LIFECYCLE:-long} != short ]]; }     # short: two minutes of it, for a run of all tests

check "installed, and an application on a volume" installed
check "the chart's notes say what to do next" notes
check "helm test" helm_test
check "an upgrade with other values takes the volume back" upgraded
check "the start-up taint goes off the node, and no other" taint_off
check "the controller may do nothing else to a node" nothing_else
! long || check "a rollback takes the volume back" rolled_back
check "promtool takes each /metrics, which has what dashboard and alerts ask for" metrics_fit
check "an uninstall is refused while a volume has a device, and lists it" uninstall_refused
check "a rollback to what is installed takes the refusal back, and restarts nothing" refusal_taken_back
if long; then
  check "an uninstall without hooks is not refused" uninstalled_when_told
  check "manifests/install.yaml without Helm takes the volume back, and makes one" without_helm
fi
check "what the application saw of all that: no error" outcome
printf '  %s\n' "$(cat "$WORK/life.summary" 2>/dev/null || true)"
if long; then
  check "Helm takes over, and once the devices are gone the uninstall is allowed" helm_takes_over
  check "reinstalled, and the data is there" reinstalled
fi
check "removed, and nothing is left" removed
((!FAILED))
