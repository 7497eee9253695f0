#!/bin/bash
# What the tokens of the operator's pods may do on the real API server, and what not. Wants a cluster that is up:
# ./dev cluster up.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
use_cluster
NS=ublk-system
# shellcheck disable=SC2317
leave() {
  kubectl delete pod -n "$NS" privilege-test --ignore-not-found --wait=false >/dev/null 2>&1 || true
  kubectl delete ublkvolume here there --ignore-not-found --wait=false >/dev/null 2>&1 || true
  wake_controller >/dev/null 2>&1 || true
  kubectl delete ublknode elsewhere --ignore-not-found >/dev/null 2>&1 || true
  kubectl delete lease -n "$NS" ublk-node-elsewhere --ignore-not-found >/dev/null 2>&1 || true
  kubectl delete namespace "privilege-test-$$" --ignore-not-found --wait=false >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
NODE=vm1

# A token names a node when it belongs to a pod that runs there.
tokens() {
  kubectl apply -n "$NS" -f - <<YAML
apiVersion: v1
kind: Pod
metadata: {name: privilege-test}
spec:
  serviceAccountName: ublk-node
  nodeName: $NODE
  terminationGracePeriodSeconds: 0
  containers: [{name: pause, image: "localhost/pause:lab", imagePullPolicy: Never}]
YAML
  kubectl create token ublk-node -n "$NS" --bound-object-kind Pod --bound-object-name privilege-test >"$WORK/agent"
  kubectl create token ublk-node -n "$NS" >"$WORK/nowhere"
  kubectl create token ublk-controller -n "$NS" >"$WORK/controller"
  kubectl create token default -n default >"$WORK/user"
}
# as TOKEN ARGS...: kubectl with that token and no other credential.
as() {
  local token=$1; shift
  kubectl config view --raw -o json | jq --arg token "$(<"$WORK/$token")" '.users[0].user = {token: $token}' >"$WORK/config"
  KUBECONFIG=$WORK/config kubectl "$@"
}
may() { same yes "$(as "$1" auth can-i "${@:2}" || true)"; }
may_not() { same no "$(as "$1" auth can-i "${@:2}" || true)"; }
volumes() {
  local node
  for node in "here $NODE" "there elsewhere"; do
    kubectl apply -f - <<YAML
apiVersion: ublk.dev/v1alpha1
kind: UblkVolume
metadata: {name: ${node% *}}
spec: {size: 1Gi, nodeName: "${node#* }", running: false, backend: {"null": {}}}
YAML
  done
}
# apply_as TOKEN SUBRESOURCE JSON: server-side apply, as agents write. The server judges all of it and stores nothing, so
# that an agent which is at work is not disturbed.
apply_as() {
  printf '%s\n' "$3" >"$WORK/object"
  as "$1" apply --server-side --force-conflicts --dry-run=server --field-manager=privilege-test ${2:+--subresource="$2"} -o json \
    -f "$WORK/object"
}
volume_status() { printf '{"apiVersion":"ublk.dev/v1alpha1","kind":"UblkVolume","metadata":{"name":"%s"},"status":{"state":"LIVE"}}' "$1"; }
node_status() { printf '{"apiVersion":"ublk.dev/v1alpha1","kind":"UblkNode","metadata":{"name":"%s"}%s}' "$1" "${2:-}"; }
lease() { printf '{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"namespace":"%s","name":"%s"},"spec":{"holderIdentity":"x"}}' "$NS" "$1"; }

agent_reads_no_secrets() {
  local verb
  for verb in get list watch; do
    may_not agent "$verb" secrets -n "$NS"
    may_not agent "$verb" secrets -A
  done
  may_not agent list pods -A
  may_not agent get configmaps -n "$NS"
  may_not agent get namespaces/default
  may agent get namespaces/kube-system
}
agent_writes_no_spec() {
  may_not agent update ublkvolumes
  may_not agent patch ublkvolumes
  may_not agent create ublkvolumes
  may_not agent delete ublkvolumes
  may_not agent delete ublknodes
  may_not agent update ublkvolumes --subresource=status
  may agent patch ublkvolumes --subresource=status
  fails_with 'forbidden' as agent patch ublkvolume here --type=merge -p '{"spec": {"running": true}}'
  # Through the status the spec does not change either.
  same false "$(apply_as agent status "$(volume_status here | jq -c '.spec.running = true')" | jq .spec.running)"
}
own_volume() { same LIVE "$(apply_as agent status "$(volume_status here)" | jq -r .status.state)"; }
other_volume() {
  fails_with "may write nothing but the status of volumes whose spec.nodeName is $NODE" apply_as agent status "$(volume_status there)"
}
own_node() {
  apply_as agent '' "$(node_status "$NODE")"
  kubectl get ublknode "$NODE" || kubectl create -f <(node_status "$NODE")
  apply_as agent status "$(node_status "$NODE" ',"status":{"kernelRelease":"7.2","modes":["Queue"],"pools":[{"name":"default","path":"/p","capacity":"1Gi","free":"1Mi"}]}')"
}
other_node() {
  fails_with "may write no UblkNode but its own" apply_as agent '' "$(node_status elsewhere)"
  kubectl apply -f <(node_status elsewhere)
  fails_with "may write no UblkNode but its own" apply_as agent status "$(node_status elsewhere ',"status":{"version":"1"}')"
}
own_lease() { apply_as agent '' "$(lease "ublk-node-$NODE")"; }
other_lease() {
  fails_with "may write no Lease but ublk-node-$NODE" apply_as agent '' "$(lease ublk-node-elsewhere)"
  fails_with "may write no Lease but ublk-node-$NODE" apply_as agent '' "$(lease ublk-controller)"
  may_not agent create leases -n kube-system
}
without_node() { fails_with "the token names no node" apply_as nowhere status "$(volume_status here)"; }
controller_is_not_bounded_by_it() {
  local verb
  may controller update ublkvolumes
  may controller patch ublkvolumes --subresource=status
  may controller watch leases -n "$NS"
  may_not controller patch leases/ublk-node-vm1 -n "$NS"
  for verb in get list watch; do may_not controller "$verb" secrets -A; done
  may_not controller patch ublknodes
  may_not controller delete ublkvolumes
  apply_as controller status "$(volume_status there)"
}
others_may_nothing() {
  local resource verb
  for resource in ublkvolumes ublkvolumes/status ublknodes ublknodes/status; do
    for verb in get list watch create update patch delete deletecollection; do may_not user "$verb" "$resource"; done
  done
}
no_wildcards() {
  kubectl get clusterroles,roles -A -l app.kubernetes.io/name=ublk-operator -o json >"$WORK/roles"
  jq -e '.items | length >= 4' "$WORK/roles"      # of agent and controller, here and everywhere
  gives "" jq -r '.items[] | select([.rules[] | .verbs, .resources, .apiGroups | .[]?] | index("*")) | .metadata.name' "$WORK/roles"
}
policy_is_typed() {
  # Once the API server has looked.
  kubectl wait --for='jsonpath={.status.observedGeneration}' --timeout=60s validatingadmissionpolicy/ublk-node
  gives "" kubectl get validatingadmissionpolicy ublk-node -o 'jsonpath={.status.typeChecking.expressionWarnings}'
}
restricted_namespace_is_refused() {
  fails_with "admits only restricted pods" helm install privilege "$REPO/charts/ublk-operator" \
    --namespace "privilege-test-$$" --dry-run=server
}
controller_is_restricted() {
  kubectl create namespace "privilege-test-$$"
  kubectl label namespace "privilege-test-$$" pod-security.kubernetes.io/enforce=restricted
  helm template ublk "$REPO/charts/ublk-operator" -n "$NS" -s templates/controller-deployment.yaml >"$WORK/deployment.yaml"
  kubectl create --dry-run=client -o json -f "$WORK/deployment.yaml" |
    jq --arg namespace "privilege-test-$$" '{apiVersion: "v1", kind: "Pod", metadata: {name: "controller", namespace: $namespace},
      spec: (.spec.template.spec | .serviceAccountName = "default")}' | kubectl apply --dry-run=server -f -
}

check "the chart is installed" have_chart
check "the controller rests" rest_controller
check "tokens" tokens
check "a volume here, one elsewhere" volumes
check "an agent writes the status of its node's volume" own_volume
check "and of no other's" other_volume
check "an agent writes no spec" agent_writes_no_spec
check "an agent reads no Secret" agent_reads_no_secrets
check "an agent writes its own UblkNode" own_node
check "and no other" other_node
check "an agent writes its own Lease" own_lease
check "and no other" other_lease
check "a token without a node writes nothing" without_node
check "the controller's rights" controller_is_not_bounded_by_it
check "who has no rights can do nothing" others_may_nothing
check "no role has a wildcard" no_wildcards
check "the policy's expressions fit the types" policy_is_typed
check "the controller's pod is admitted as restricted" controller_is_restricted
check "such a namespace is refused for the nodes' pods" restricted_namespace_is_refused
((!FAILED))
