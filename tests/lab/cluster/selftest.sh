#!/bin/bash
# Tries everything the cluster gives, from power-on to down, and says how long each step took. Run by hand. Makes a
# cluster of its own, beside one that may be up.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
. "$LAB_DIR/cluster/archive.sh"
. "$LAB_DIR/cluster/processes.sh"

work=$(mktemp -d)
export UBLK_CLUSTER_DIR=$work/cluster UBLK_CLUSTER_PORT=${UBLK_CLUSTER_PORT:-17443}
# shellcheck disable=SC2317
leave() {
  local status=$?
  "$REPO/dev" cluster down >/dev/null 2>&1 || true
  if ((status)); then say "logs are kept: $UBLK_CLUSTER_DIR/log"; else rm -rf "$work"; fi
}
trap leave EXIT

cluster() { "$REPO/dev" cluster "$@"; }
kube() { cluster kubectl -n lab-selftest "$@"; }
PASSED=0 FAILED=0
# check NAME COMMAND...: in a subshell with errexit; its output only when it fails.
check() {
  local name=$1 start log verdict=pass rc; shift
  start=$(now_ms) log=$work/check.log
  set +e; (set -e; "$@") >"$log" 2>&1; rc=$?; set -e
  if ((rc)); then verdict=FAIL FAILED=$((FAILED + 1)); else PASSED=$((PASSED + 1)); fi
  printf '%-4s %6s s  %s\n' "$verdict" "$(seconds "$start")" "$name"
  ((!rc)) || tail -n 30 "$log" | sed 's/^/       /'
}
same() { [[ $1 == "$2" ]] || { printf 'expected "%s", got "%s"\n' "$1" "$2"; return 1; }; }
status_of() { local rc=0; "$@" >/dev/null 2>&1 || rc=$?; echo "$rc"; }

make_image() {
  local root=$work/root
  mkdir -p "$root"/{bin,www,tmp}
  cp /bin/busybox "$root/bin/"
  (. "$UBLK_CLUSTER_DIR/programs"; cp "$KUBERNETES/kubectl" "$root/bin/")
  echo hello >"$root/www/index.html"
  write_image "$work/probe.tar" localhost/lab-probe:1 "$root" /bin/busybox sleep 1000000
}

deploy() {
  cluster kubectl create namespace lab-selftest
  kube apply -f - <<'YAML'
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: probe}
spec:
  selector: {matchLabels: {app: probe}}
  template:
    metadata: {labels: {app: probe}}
    spec:
      hostPID: true
      terminationGracePeriodSeconds: 1
      containers:
        - name: probe
          image: localhost/lab-probe:1
          command: [/bin/busybox, sh, -c, "echo listening; exec /bin/busybox httpd -f -p 8080 -h /www"]
          securityContext: {privileged: true}
YAML
  ready
}
ready() { kube rollout status daemonset/probe --timeout=120s; }
pod() { kube get pods -l app=probe -o jsonpath='{.items[0].metadata.name}'; }
in_pod() { kube exec "$(pod)" -- /bin/busybox "$@"; }

is_up() { cluster status; same True "$(cluster kubectl get node vm1 -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')"; }
up_again() {
  local start; start=$(now_ms)
  cluster up 2>&1 | grep 'up already'
  (($(now_ms) - start < 5000))
}
node_passes_things_on() {
  same out "$(cluster node 'echo out; echo err >&2' 2>/dev/null)"
  same err "$(cluster node 'echo out; echo err >&2' 2>&1 >/dev/null)"
  same 7 "$(status_of cluster node 'exit 7')"
  same "$(sha256sum <"$work/probe.tar")" "$(cluster node sha256sum <"$work/probe.tar")"
}
has_ublk() { cluster node modprobe ublk_drv; in_pod test -c /dev/ublk-control; }
shares_pids() { in_pod cat /proc/1/cmdline | tr '\0' ' ' | grep systemd; }
calls_api() { same system:serviceaccount:lab-selftest:default "$(kube exec "$(pod)" -- /bin/kubectl auth whoami -o 'jsonpath={.status.userInfo.username}')"; }
token_names_node() {
  same vm1 "$(kube exec "$(pod)" -- /bin/kubectl auth whoami -o 'jsonpath={.status.userInfo.extra.authentication\.kubernetes\.io/node-name[0]}')"
}
other_services_refuse() {
  local start; start=$(now_ms)
  same 1 "$(status_of in_pod nc -w 5 10.96.0.10 53)"
  (($(now_ms) - start < 4000))
}
logs() { same listening "$(kube logs "$(pod)")"; }
execs() { same 3 "$(status_of kube exec "$(pod)" -- /bin/busybox sh -c 'exit 3')"; }
forwards() {
  local line='' answer='' port
  exec {from}< <(exec "$REPO/dev" cluster kubectl -n lab-selftest port-forward "pod/$(pod)" :8080 2>&1)
  local forwarder=$!
  read -r -t 30 line <&"$from"
  port=$(sed -nE 's/.*127.0.0.1:([0-9]+).*/\1/p' <<<"$line")
  exec {web}<>"/dev/tcp/127.0.0.1/$port"
  printf 'GET / HTTP/1.0\r\n\r\n' >&"$web"
  answer=$(timeout 20 cat <&"$web") || true
  kill "$forwarder"
  grep hello <<<"$answer"
}
comes_back() {
  local old; old=$(pod)
  kube delete pod "$old" --wait=true
  ready
  [[ $(pod) != "$old" ]]
}
policies_are_there() { cluster kubectl get validatingadmissionpolicies; }
helm_installs() {
  local chart=$work/chart
  mkdir -p "$chart/templates"
  printf 'apiVersion: v2\nname: nothing\nversion: 0.1.0\nkubeVersion: ">=1.35.0-0"\n' >"$chart/Chart.yaml"
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: nothing}\n' >"$chart/templates/map.yaml"
  cluster helm lint "$chart"
  cluster helm template x "$chart"
  cluster helm install x "$chart" -n lab-selftest
  kube get configmap nothing
  cluster helm uninstall x -n lab-selftest
}
survives_containerd() {
  local before; before=$(kube get pod "$(pod)" -o jsonpath='{.status.containerStatuses[0].containerID}')
  # Its process only: the shims that hold the containers are in the same unit.
  # shellcheck disable=SC2016
  cluster node 'pid=$(systemctl show -P MainPID containerd); kill -KILL "$pid"
    for try in $(seq 100); do
      [ "$(systemctl show -P MainPID containerd)" = "$pid" ] || [ "$(systemctl is-active containerd)" != active ] || exit 0
      sleep 0.5
    done; exit 1'
  await 60 in_pod true
  same "$before" "$(kube get pod "$(pod)" -o jsonpath='{.status.containerStatuses[0].containerID}')"
}
without_api() {
  cluster stop kube-apiserver
  same 3 "$(status_of cluster kubectl get nodes)"
  cluster node true                     # the node is reached all the same
  cluster start kube-apiserver
  is_up
}
cuts_power() {
  cluster node 'echo flushed >/var/kept && sync'
  cluster node-cut
  same 1 "$(status_of cluster status)"
  same 255 "$(status_of cluster node true)"
}
starts_again() { cluster node-start; same flushed "$(cluster node cat /var/kept)"; }
pod_is_back() { await 120 in_pod true; ready; }
reboots() {
  local boot; boot=$(cluster node cat /proc/sys/kernel/random/boot_id)
  cluster node-reboot
  [[ $(cluster node cat /proc/sys/kernel/random/boot_id) != "$boot" ]]
}
nothing_is_left() {
  local pids=$1 pid
  same 3 "$(status_of cluster status)"
  for pid in $pids; do [[ ! -e /proc/$pid ]] || same "" "$(tr '\0' ' ' <"/proc/$pid/cmdline" | grep -F "$UBLK_CLUSTER_DIR")"; done
  same "" "$(pgrep -f -- "$UBLK_CLUSTER_DIR" || true)"
  cluster down 2>&1 | grep 'down already'
}

begin=$(now_ms)
check "everything is built" cluster build
check "up" cluster up
[[ -f $UBLK_CLUSTER_DIR/kubeconfig ]] || fail 1 "without a cluster there is nothing more to try"
check "all runs, the node is Ready" is_up
check "a second up is quick" up_again
check "an image is made" make_image
check "and loaded" cluster load-image "$work/probe.tar"
check "a command on the node: input, output, status" node_passes_things_on
check "a privileged DaemonSet comes up" deploy
check "its pod sees /dev/ublk-control" has_ublk
check "its pod sees the node's processes" shares_pids
check "its pod calls the API with its token" calls_api
check "the token names the node" token_names_node
check "a service that is not there refuses at once" other_services_refuse
check "kubectl logs" logs
check "kubectl exec, with its status" execs
check "kubectl port-forward" forwards
check "a deleted pod comes back" comes_back
check "ValidatingAdmissionPolicy is served" policies_are_there
check "helm lint, template, install, uninstall" helm_installs
check "pods survive containerd" survives_containerd
check "API server stopped and started" without_api
check "power cut" cuts_power
check "power on, what was flushed is there" starts_again
check "the pod is back" pod_is_back
check "orderly reboot" reboots
check "the pod is back again" pod_is_back
pids=$(cut -d' ' -f1 "$UBLK_CLUSTER_DIR"/run/*)
check "down" cluster down
check "nothing of it is left" nothing_is_left "$pids"
printf 'all of it: %s s\n%d passed, %d failed\n' "$(seconds "$begin")" "$PASSED" "$FAILED"
((!FAILED))
