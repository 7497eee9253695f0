#!/bin/bash
# apiserver.sh COMMAND...: runs the command with an API server of its own (etcd and kube-apiserver on loopback, nothing
# else), which ends with it. The command finds
#   KUBECONFIG               of an administrator
#   UBLK_CLUSTER_ETCD        etcd's address, for compaction
#   UBLK_CLUSTER_API=SCRIPT  `$UBLK_CLUSTER_API stop`, `start` (returns when it is ready)
#   PATH                     with kubectl
# Programs are the cluster lab's (tests/lab/cluster/programs.sh), or those of the folders UBLK_KUBERNETES and UBLK_ETCD.
# UBLK_APISERVER_PORT: it and the two after it are used (18543). UBLK_APISERVER_LOGS: a folder to keep the logs in.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
port=${UBLK_APISERVER_PORT:-18543}

fail() { printf 'apiserver.sh: error: %s\n' "$*" >&2; exit 1; }

# --- as UBLK_CLUSTER_API: start and stop the API server of STATE
api_pid() { cat "$STATE/api.pid" 2>/dev/null; }
api_running() { local pid; pid=$(api_pid) && kill -0 "$pid" 2>/dev/null; }
api_start() {
  api_running && return
  setsid "$KUBE_APISERVER" "--etcd-servers=http://127.0.0.1:$((port + 1))" --bind-address=127.0.0.1 "--secure-port=$port" \
    --advertise-address=127.0.0.1 --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true --etcd-compaction-interval=0 \
    "--tls-cert-file=$STATE/apiserver.crt" "--tls-private-key-file=$STATE/apiserver.key" "--client-ca-file=$STATE/ca.crt" \
    "--token-auth-file=$STATE/tokens.csv" --service-account-issuer=https://kubernetes.default.svc \
    "--service-account-key-file=$STATE/sa.pub" "--service-account-signing-key-file=$STATE/sa.key" \
    --authorization-mode=RBAC >>"$STATE/log/kube-apiserver" 2>&1 </dev/null &
  echo $! >"$STATE/api.pid"
  disown                                # its death is no news
  local end=$((SECONDS + 90))
  until "$KUBECTL" --kubeconfig "$STATE/kubeconfig" get --raw /readyz >/dev/null 2>&1; do
    api_running || { tail -n 20 "$STATE/log/kube-apiserver" >&2; fail "kube-apiserver ended; its last lines are above"; }
    ((SECONDS < end)) || { tail -n 20 "$STATE/log/kube-apiserver" >&2; fail "kube-apiserver is not ready after 90 s"; }
    sleep 0.2
  done
}
# SIGKILL: as when it crashes; no client is told.
api_stop() {
  local pid
  pid=$(api_pid) || return 0
  kill -KILL "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
  rm -f "$STATE/api.pid"
}
if [[ ${STATE:-} && ${1:-} =~ ^(start|stop)$ ]]; then "api_$1"; exit; fi

# --- as what is run
(($#)) || fail "expected a command to run"
if [[ -z ${UBLK_KUBERNETES:-} || -z ${UBLK_ETCD:-} ]]; then
  # shellcheck source-path=SCRIPTDIR
  . "$here/../lab/common.sh"
  CLUSTER_LAB=$LAB_DIR/cluster
  # shellcheck source=/dev/null
  . "$CLUSTER_LAB/programs.sh"
  cluster_programs
  UBLK_KUBERNETES=$KUBERNETES UBLK_ETCD=$ETCD
fi
STATE=$(mktemp -d "${TMPDIR:-/tmp}/ublk-apiserver.XXXXXX")
export STATE KUBE_APISERVER=$UBLK_KUBERNETES/kube-apiserver KUBECTL=$UBLK_KUBERNETES/kubectl UBLK_APISERVER_PORT=$port
mkdir "$STATE/log"
etcd_pid=''
leave() {
  api_stop
  if [[ -n $etcd_pid ]]; then kill -KILL "$etcd_pid" 2>/dev/null || true; wait "$etcd_pid" 2>/dev/null || true; fi
  if [[ -n ${UBLK_APISERVER_LOGS:-} ]]; then mkdir -p "$UBLK_APISERVER_LOGS"; cp "$STATE"/log/* "$UBLK_APISERVER_LOGS"; fi
  rm -rf "$STATE"
}
trap leave EXIT

# Keys, certificates, one token.
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1" 2>/dev/null; }
key "$STATE/ca.key"
openssl req -x509 -new -key "$STATE/ca.key" -days 2 -subj /CN=test-ca -out "$STATE/ca.crt"
key "$STATE/apiserver.key"
openssl req -new -key "$STATE/apiserver.key" -subj /CN=kube-apiserver |
  openssl x509 -req -CA "$STATE/ca.crt" -CAkey "$STATE/ca.key" -CAcreateserial -days 2 -out "$STATE/apiserver.crt" \
    -extfile <(printf 'extendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1\n') 2>/dev/null
key "$STATE/sa.key"
openssl pkey -in "$STATE/sa.key" -pubout -out "$STATE/sa.pub"
token=$(openssl rand -hex 16)
printf '%s,admin,admin,"system:masters"\n' "$token" >"$STATE/tokens.csv"
cat >"$STATE/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$port", certificate-authority: $STATE/ca.crt}}]
users: [{name: test, user: {token: "$token"}}]
contexts: [{name: test, context: {cluster: test, user: test, namespace: ublk-system}}]
current-context: test
YAML

"$UBLK_ETCD/etcd" --data-dir "$STATE/etcd" --unsafe-no-fsync --logger=zap --log-level=warn \
  --listen-client-urls "http://127.0.0.1:$((port + 1))" --advertise-client-urls "http://127.0.0.1:$((port + 1))" \
  --listen-peer-urls "http://127.0.0.1:$((port + 2))" --initial-advertise-peer-urls "http://127.0.0.1:$((port + 2))" \
  --initial-cluster "default=http://127.0.0.1:$((port + 2))" >"$STATE/log/etcd" 2>&1 </dev/null &
etcd_pid=$!
api_start
export KUBECONFIG=$STATE/kubeconfig UBLK_CLUSTER_ETCD=http://127.0.0.1:$((port + 1))
export UBLK_CLUSTER_API=$here/apiserver.sh PATH=$UBLK_KUBERNETES:$PATH
"$KUBECTL" create namespace ublk-system >/dev/null
"$@"
