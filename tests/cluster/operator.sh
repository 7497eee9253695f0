# For tests of the operator at work: it is installed from build/image.tar, and asked on its node. Sourced after checks.sh.
# shellcheck shell=bash
# shellcheck disable=SC2153
# shellcheck source-path=SCRIPTDIR/../lab
. "$LAB_DIR/cluster/archive.sh"
NAMESPACE=ublk-system
AGENT='^/usr/bin/ublk-node agent' SPAWNER='^/usr/bin/ublk-node spawner' SERVER='^/usr/bin/ublk-server'     # their command lines
WATCHDOG='^/usr/bin/ublk-node watchdog'     # the first process of each container of a node's pod

cluster() { "$REPO/dev" cluster "$@"; }
kube() { kubectl -n "$NAMESPACE" "$@"; }
# on_node COMMAND: the same as in a shell on the node.
on_node() { cluster node "$@"; }

# running_images: of the operator's containers, as their kubelet says; nothing when there are none.
running_images() {
  kube get pods -l app.kubernetes.io/name=ublk-operator -o json | jq -r '.items[] | select(.metadata.deletionTimestamp | not) |
    .status.containerStatuses // [] | .[].imageID' | sed 's/^.*sha256://' | sort -u
}
# install: this chart and this image run afterwards, whatever did before.
install() {
  local image before
  image=$(tar -xOf "$REPO/build/image.tar" manifest.json | jq -r '.[0].Config | rtrimstr(".json")')
  before=$(running_images)
  [[ $before == "$image" ]] || cluster load-image "$REPO/build/image.tar"
  helm upgrade --install ublk "$REPO/charts/ublk-operator" --namespace "$NAMESPACE" --create-namespace --reset-values
  # The tag is the same, so that nothing in the pods' templates tells one image from the next.
  [[ -z $before || $before == "$image" ]] || kube rollout restart deployment/ublk-controller daemonset/ublk-node
  rolled_out
  gives "$image" running_images
}
rolled_out() {
  kube rollout status deployment/ublk-controller --timeout=180s
  kube rollout status daemonset/ublk-node --timeout=180s
}
APPLICATION=localhost/ublk-application:$(digest "$REPO/build/release/bin/ublk-application")
load_application() {
  local root=$WORK/root
  [[ $(on_node "ctr -n k8s.io images list -q name==$APPLICATION") != "$APPLICATION" ]] || return 0
  mkdir -p "$root"
  cp "$REPO/build/release/bin/ublk-application" "$root/application"
  write_image "$WORK/application.tar" "$APPLICATION" "$root" /application
  cluster load-image "$WORK/application.tar"
}
# application POD VOLUME TEST: the manifest of a pod that works on the volume, labelled test=TEST; not faster than a test needs,
# since what a kubelet does for the node's pod shares the processors with it. (Kills under full load: tests/vm/kill_test.cc.)
application() {
  cat <<YAML
---
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {test: $3}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 60
  tolerations: [{operator: Exists}]
  containers:
    - name: application
      image: $APPLICATION
      command: [/application]
      args: [--device, /dev/ublk/by-name/$2, --mib, "1", --threads, "2", --rate, "50"]
      securityContext: {privileged: true}
      volumeMounts: [{name: dev, mountPath: /dev}]
  volumes: [{name: dev, hostPath: {path: /dev}}]
YAML
}
# start_applications TEST VOLUME...: a pod of the volume's name works on each when this returns.
start_applications() {
  local test=$1 volume; shift
  for volume in "$@"; do application "$volume" "$volume" "$test"; done | kubectl apply -n default -f -
  for volume in "$@"; do
    kubectl wait -n default "pod/$volume" --for=condition=Ready --timeout=120s
    timeout 120 grep -q -m 1 '^ready' < <(kubectl logs -n default -f --pod-running-timeout=120s "pod/$volume")
  done
}
# end_application POD: what it saw is in WORK/POD.summary then; it must have lost nothing.
end_application() {
  local following
  # From before its end: its log goes with it.
  timeout 90 grep -m 1 '^writes=' < <(kubectl logs -n default -f "pod/$1") >"$WORK/$1.summary" &
  following=$!
  kubectl delete pod -n default "$1" --wait=false
  wait "$following" || true
  printf '%s: %s\n' "$1" "$(cat "$WORK/$1.summary")"
  grep -q ' lost=0 ' "$WORK/$1.summary"
}

# What the agent that runs now says, in a line a volume: name, Ready, its server, how often it was recovered. Not the API
# server's status, which an agent before it may have written.
agent_says() {
  on_node "nsenter -t \$(pgrep -f -o '$AGENT') -m /usr/bin/ublkctl get -o json" | jq -r '(.items // .)[] | [.metadata.name,
    (.status.conditions[] | select(.type == "Ready").status), .status.serverPID // 0, .status.recoveryCount // 0] | @tsv'
}
# ready COUNT: that many volumes are, and no others are there. What was said is left in WORK/said.
ready() {
  agent_says >"$WORK/said" || return
  (($(wc -l <"$WORK/said") == $1 && $(cut -f 2 "$WORK/said" | grep -c '^True$') == $1))
}
# wait_ready COUNT [SECONDS]
wait_ready() { await "${2:-60}" ready "$1" || { cat "$WORK/said"; return 1; }; }
# recovered_since FILE COUNT: COUNT volumes are Ready, each recovered more often than FILE says, which is of agent_says.
recovered_since() {
  ready "$2" && (($(join -t $'\t' <(cut -f 1,4 "$WORK/said" | sort) <(cut -f 1,4 "$1" | sort) | awk '$2 > $3' | wc -l) == $2))
}
wait_recovered_since() { await 60 recovered_since "$@" || { cat "$1" "$WORK/said"; return 1; }; }
# servers: their process ids, as said last.
servers() { cut -f 3 "$WORK/said" | tr '\n' ' '; }
