#!/bin/bash
# The chart without a cluster: that it is well formed, that its values are checked, that what is rendered from it is up to date.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
trap 'rm -rf "$WORK"' EXIT
. "$LAB_DIR/deps.sh"
CLUSTER_LAB=$LAB_DIR/cluster
. "$LAB_DIR/apt.sh"
. "$LAB_DIR/cluster/programs.sh"
CHART=$REPO/charts/ublk-operator

helm() { HELM_CACHE_HOME=$WORK/helm HELM_CONFIG_HOME=$WORK/helm HELM_DATA_HOME=$WORK/helm "$HELM/helm" "$@"; }
render() { helm template ublk "$CHART" --namespace ublk-system "$@"; }
refuses() { fails_with "$1" render "${@:2}"; }

lint() { helm lint --strict "$CHART"; }
version_is_the_programs() {
  local version
  version=$(sed -nE 's/^project\(ublk-operator VERSION ([0-9.]+).*/\1/p' "$REPO/CMakeLists.txt")
  [[ $version ]]
  gives "$version" sed -nE 's/^appVersion: "(.*)"/\1/p' "$CHART/Chart.yaml"
}
ALL_OBJECTS=(--set "namespace.create=true,metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true"
  --set "metrics.dashboard.enabled=true,node.startupTaint=example.com/starting")
everything_on() {
  cat >"$WORK/pools.yaml" <<<'{node: {pools: [{name: default, path: /srv/slow, create: true}, {name: fast, path: /srv/fast, requireMount: true}]}}'
  render -f "$WORK/pools.yaml" "${ALL_OBJECTS[@]}" \
    --set node.standbys=2,image.digest="sha256:$(printf 'a%.0s' {1..64})" >"$WORK/all.yaml"
  grep -q -- '--pool=default=/srv/slow$' "$WORK/all.yaml"
  grep -q -- '--pool=fast=/srv/fast,require-mount$' "$WORK/all.yaml"
  grep -q -- '--standbys=2' "$WORK/all.yaml"
  grep -q -- '--startup-taint=example.com/starting' "$WORK/all.yaml"
  grep -q 'image: localhost/ublk-operator@sha256:a' "$WORK/all.yaml"
  same 2 "$(grep -c 'kind: ServiceMonitor' "$WORK/all.yaml")"
  same 1 "$(grep -c 'kind: PrometheusRule' "$WORK/all.yaml")"
  same 1 "$(grep -c 'ublk-operator.json: ' "$WORK/all.yaml")"
}
off_by_default() {
  render >"$WORK/default.yaml"
  ! grep -qE 'monitoring.coreos.com|kind: (Namespace|Service|ConfigMap)$' "$WORK/default.yaml"
}
no_wildcards() {
  render >"$WORK/default.yaml"
  sed -n '/^rules:/,/^---/p' "$WORK/default.yaml" >"$WORK/rules"
  grep -q 'verbs:' "$WORK/rules"
  ! grep -F '*' "$WORK/rules"
}
# render_pods: into WORK/node.yaml and WORK/controller.yaml.
render_pods() {
  render -s templates/node-daemonset.yaml >"$WORK/node.yaml"
  render -s templates/controller-deployment.yaml >"$WORK/controller.yaml"
}
# What the pods are given, and what not.
pods_are_bounded() {
  render "${ALL_OBJECTS[@]}" >"$WORK/pods.yaml"
  same 0 "$(grep -cE 'hostNetwork|hostPort|hostIPC' "$WORK/pods.yaml")"
  render_pods
  same 2 "$(grep -c 'readOnlyRootFilesystem: true' "$WORK/node.yaml")"
  same 1 "$(grep -c 'readOnlyRootFilesystem: true' "$WORK/controller.yaml")"
  grep -q 'hostPID: true' "$WORK/node.yaml"
  same 0 "$(grep -cE 'hostPID|hostPath|privileged: true' "$WORK/controller.yaml")"
  same 1 "$(grep -c 'runAsNonRoot: true' "$WORK/controller.yaml")"
}
pods_are_kept() {
  local probe
  render_pods
  grep -q 'priorityClassName: system-node-critical' "$WORK/node.yaml"
  grep -q 'priorityClassName: system-cluster-critical' "$WORK/controller.yaml"
  gives 1 count 'kind: PodDisruptionBudget'
  gives 0 count 'kind: PodDisruptionBudget' --set controller.replicas=1
  grep -A3 'updateStrategy:' "$WORK/node.yaml" | grep -q 'maxUnavailable: 1'
  for probe in startupProbe livenessProbe readinessProbe; do grep -q "$probe:" "$WORK/node.yaml"; done
  for probe in livenessProbe readinessProbe; do grep -q "$probe:" "$WORK/controller.yaml"; done
}
# count PATTERN [HELM_OPTION...]: lines of what is rendered that match.
count() {
  local pattern=$1; shift
  render "$@" >"$WORK/counted.yaml" || return
  grep -c "$pattern" "$WORK/counted.yaml" || (($? == 1))
}
definitions_stay() {
  gives 2 count '^kind: CustomResourceDefinition'
  gives 2 count 'helm.sh/resource-policy: keep'
  gives 0 count '^kind: CustomResourceDefinition' --set crds.install=false
}
# Helm takes such names, and YAML takes them for numbers and for truth if nothing says that they are strings.
names_stay_strings() {
  local names
  for names in "1e3 123" "yes no"; do
    helm template "${names% *}" "$CHART" --namespace "${names#* }" "${ALL_OBJECTS[@]}" >"$WORK/names.yaml"
    # Each object has a label with the one, and most are in the other.
    (($(grep -cE "[:-] *\"(${names/ /|})\"\$" "$WORK/names.yaml") > 20))
    if grep -nE "[:-] *(${names/ /|})\$" "$WORK/names.yaml"; then echo "not strings"; return 1; fi
  done
}
spawner_has_no_memory_limit() { refuses "node/spawner/resources" --set node.spawner.resources.limits.memory=1Gi; }
values_are_checked() {
  refuses "additional properties 'replica' not allowed" --set controller.replica=1
  refuses "node/pools/0/path" --set 'node.pools[0].name=a,node.pools[0].path=relative'
  refuses "node/pools/0/path" --set 'node.pools[0].name=a,node.pools[0].path=/srv/../etc'
  refuses "node/pools/0/path" --set 'node.pools[0].name=a,node.pools[0].path=/srv/a\,b'
  refuses "node/pools/0/name" --set 'node.pools[0].name=Big,node.pools[0].path=/srv'
  refuses "two pools of the name default" --set 'node.pools[0].name=default,node.pools[0].path=/a,node.pools[1].name=default,node.pools[1].path=/b'
  refuses "image/digest" --set image.digest=sha256:abc
  refuses "node/logLevel" --set node.logLevel=loud
  refuses "node/standbys" --set node.standbys=99
}
alerts_are_right() {
  promtool check rules "$CHART/files/alerts.yaml"
  cp "$CHART/files/alerts.yaml" "$REPO/tests/cluster/alerts_test.yaml" "$WORK/"
  promtool test rules "$WORK/alerts_test.yaml"
}
# Who takes the taint off has to get onto such a node; who does not may not touch nodes.
startup_taint() {
  render --set node.startupTaint=example.com/starting,node.tolerations=null >"$WORK/taint.yaml"
  same 3 "$(grep -c 'key: "example.com/starting"' "$WORK/taint.yaml")"
  same 1 "$(grep -c 'resources: \[nodes\]' "$WORK/taint.yaml")"
  same 2 "$(grep -c 'name: ublk-startup-taint' "$WORK/taint.yaml")"
  same 0 "$(render | grep -cE 'resources: \[nodes|ublk-startup-taint|startup-taint=')"
  refuses "node/startupTaint" --set node.startupTaint='a b'
  refuses "node/startupTaint" --set node.startupTaint=ublk.dev/x:NoSchedule
}
uninstall_asks() {
  render -s templates/uninstall-check.yaml >"$WORK/uninstall.yaml"
  # All of it comes with the hook and goes with it, and the Job that refused stays to be read.
  same 4 "$(grep -c '^kind: ' "$WORK/uninstall.yaml")"
  same 4 "$(grep -c 'helm.sh/hook: pre-delete' "$WORK/uninstall.yaml")"
  same 4 "$(grep -c 'helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded$' "$WORK/uninstall.yaml")"
  same "verbs: [list]" "$(grep -o 'verbs: .*' "$WORK/uninstall.yaml")"
  fails_with "could not find template" render -s templates/uninstall-check.yaml --set uninstall.force=true
  refuses "uninstall/force" --set uninstall.force=maybe
}
metrics_are_there() {
  local name
  grep -ohE 'ublk_[a-z_]+' "$CHART"/files/{alerts.yaml,dashboard.json} | sed 's/_bucket$//' | sort -u | while read -r name; do
    grep -rqF "\"$name\"" --include='*.cc' --exclude='*_test.cc' "$REPO"/{node,controller} || { echo "no program has $name"; exit 1; }
  done
}
# Labels by which rules and dashboard choose, group and speak; some are Prometheus's own.
labels_are_there() {
  local label
  {
    grep -ohE 'by \([a-z_, ]+\)' "$CHART"/files/{alerts.yaml,dashboard.json} | sed 's/^by //' | grep -oE '[a-z_]+'
    # shellcheck disable=SC2016  # the rules' $labels, not the shell's
    grep -oE '\$labels\.[a-z_]+' "$CHART/files/alerts.yaml" | cut -d . -f 2
    jq -r '.. | objects | .legendFormat? // empty' "$CHART/files/dashboard.json" | grep -oE '\{\{[a-z_]+' | tr -d '{'
    grep -ohE 'ublk_[a-z_]+\{[^}]*\}' "$CHART"/files/{alerts.yaml,dashboard.json} | grep -oE '[{,][a-z_]+(=|!)' | tr -d '{,=!'
  } | sort -u | grep -vxE 'le|instance' >"$WORK/labels"
  grep -qx volume "$WORK/labels"
  while read -r label; do
    grep -rqF "{\"$label\", " --include='*.cc' --exclude='*_test.cc' "$REPO"/{node,controller} || { echo "no program has a label $label"; exit 1; }
  done <"$WORK/labels"
}
dashboard_is_json() { jq -e '.panels | length > 0' "$CHART/files/dashboard.json"; }

install_missing "${CHART_PACKAGES[@]}"
helm_program
check "helm lint" lint
check "its version is the programs'" version_is_the_programs
check "install.yaml and the reference of fields are what it gives" "$LAB_DIR/manifests.sh" --check
check "all options on" everything_on
check "what needs other operators is off by default" off_by_default
check "no role has a wildcard" no_wildcards
check "no port or network of the host, read-only root file systems" pods_are_bounded
check "priority, disruption budget, updates and probes" pods_are_kept
check "an uninstall leaves the definitions" definitions_stay
check "the start-up taint is tolerated, and only with it nodes are written" startup_taint
check "an uninstall asks first, unless told otherwise" uninstall_asks
check "a release and a namespace may be called like numbers" names_stay_strings
check "wrong values are refused by name" values_are_checked
check "alert rules are right and fire" alerts_are_right
check "programs have every metric that is asked for" metrics_are_there
check "and every label" labels_are_there
check "the dashboard is JSON" dashboard_is_json
check "no memory limit for the spawner" spawner_has_no_memory_limit
((!FAILED))
