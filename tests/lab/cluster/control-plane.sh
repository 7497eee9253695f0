# etcd and the control plane, as processes of this machine on loopback. Sourced.
# shellcheck shell=bash

COMPONENTS=(etcd kube-apiserver kube-controller-manager kube-scheduler)     # in the order they start
SERVICE_NETWORK=10.96.0.0/16 API_SERVICE=10.96.0.1
HOST_IN_NODE=10.0.2.2       # this machine, seen from the node: QEMU's user network

# make_identities: certificates and keys in STATE/pki, the kubeconfigs of the administrator and of the node.
make_identities() {
  local pki=$STATE/pki admin_token node_token
  (umask 077 && mkdir "$pki")
  # Elliptic curves: the node computes several times slower than this machine.
  key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1" 2>/dev/null; }
  # certificate NAME SUBJECT EXTENSION...
  certificate() {
    local name=$1 subject=$2; shift 2
    key "$pki/$name.key"
    openssl req -new -key "$pki/$name.key" -subj "$subject" |
      openssl x509 -req -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 365 -extfile <(printf '%s\n' "$@") \
        -out "$pki/$name.crt" 2>/dev/null
  }
  key "$pki/ca.key"
  openssl req -x509 -new -key "$pki/ca.key" -days 365 -subj /CN=lab-ca -out "$pki/ca.crt"
  certificate apiserver /CN=kube-apiserver extendedKeyUsage=serverAuth \
    "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:$HOST_IN_NODE,IP:$API_SERVICE"
  certificate kubelet-client /CN=kube-apiserver-kubelet-client extendedKeyUsage=clientAuth
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE" extendedKeyUsage=serverAuth "subjectAltName=DNS:$NODE"
  key "$pki/service-accounts.key"
  openssl pkey -in "$pki/service-accounts.key" -pubout -out "$pki/service-accounts.pub"
  admin_token=$(openssl rand -hex 16) node_token=$(openssl rand -hex 16)
  printf '%s,%s,%s,"%s"\n' "$admin_token" admin admin system:masters "$node_token" "system:node:$NODE" "$NODE" system:nodes >"$pki/tokens.csv"
  write_kubeconfig "$STATE/kubeconfig" 127.0.0.1 "$admin_token"
  write_kubeconfig "$pki/node.kubeconfig" "$HOST_IN_NODE" "$node_token"
}

# write_kubeconfig FILE ADDRESS TOKEN
write_kubeconfig() {
  (umask 077; cat >"$1") <<YAML
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://$2:$API_PORT", certificate-authority-data: $(base64 -w0 "$STATE/pki/ca.crt")}}]
users: [{name: lab, user: {token: "$3"}}]
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
current-context: lab
YAML
}

# start_component NAME
start_component() {
  local name=$1 pki=$STATE/pki argv=()
  case $name in
    etcd) # Lives no longer than the cluster, so nothing has to reach the disk.
      argv=("$ETCD/etcd" --data-dir "$STATE/etcd" --unsafe-no-fsync --logger=zap --log-level=warn
        --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT"
        --listen-peer-urls "http://127.0.0.1:$ETCD_PEER_PORT" --initial-advertise-peer-urls "http://127.0.0.1:$ETCD_PEER_PORT"
        --initial-cluster "default=http://127.0.0.1:$ETCD_PEER_PORT") ;;
    kube-apiserver)
      # It reaches the kubelet by the node's name, which is no name of this machine: a hosts file that it alone sees.
      # shellcheck disable=SC2016,SC2054
      argv=(unshare --mount bash -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$STATE/hosts"
        "$KUBERNETES/kube-apiserver" "--etcd-servers=http://127.0.0.1:$ETCD_PORT"
        --bind-address=127.0.0.1 "--secure-port=$API_PORT" "--advertise-address=$HOST_IN_NODE"
        "--service-cluster-ip-range=$SERVICE_NETWORK" --allow-privileged=true
        "--tls-cert-file=$pki/apiserver.crt" "--tls-private-key-file=$pki/apiserver.key"
        "--client-ca-file=$pki/ca.crt" "--token-auth-file=$pki/tokens.csv"
        "--kubelet-client-certificate=$pki/kubelet-client.crt" "--kubelet-client-key=$pki/kubelet-client.key"
        "--kubelet-certificate-authority=$pki/ca.crt" --kubelet-preferred-address-types=Hostname
        --service-account-issuer=https://kubernetes.default.svc
        "--service-account-key-file=$pki/service-accounts.pub" "--service-account-signing-key-file=$pki/service-accounts.key"
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction) ;;
    # One of each, so nobody to elect a leader among; and nobody asks them for metrics.
    kube-controller-manager)
      argv=("$KUBERNETES/kube-controller-manager" "--kubeconfig=$STATE/kubeconfig" --leader-elect=false --secure-port=0
        "--service-account-private-key-file=$pki/service-accounts.key" "--root-ca-file=$pki/ca.crt" --use-service-account-credentials) ;;
    kube-scheduler)
      argv=("$KUBERNETES/kube-scheduler" "--kubeconfig=$STATE/kubeconfig" --leader-elect=false --secure-port=0) ;;
    *) fail 64 "no component '$name'; there are: ${COMPONENTS[*]}" ;;
  esac
  start_process "$name" "${argv[@]}"
}

api_ready() { kubectl get --raw /readyz >/dev/null 2>&1; }
api_ready_or_dead() { api_ready || ! running kube-apiserver || ! running etcd; }
wait_for_api() {
  await 60 api_ready_or_dead || true
  api_ready && return
  last_words etcd; last_words kube-apiserver
  fail 1 "the API server is not ready; the ends of its log and of etcd's are above (whole: $STATE/log)." \
    "If a port is taken: UBLK_CLUSTER_PORT=N puts the cluster at N to N+4."
}

start_control_plane() {
  printf '127.0.0.1 localhost %s\n' "$NODE" >"$STATE/hosts"
  start_component etcd
  start_component kube-apiserver
  wait_for_api
  start_component kube-controller-manager
  start_component kube-scheduler
}
