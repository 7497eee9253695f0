#!/bin/bash
# What a node goes through besides restarts of its pod: containerd restarted, memory run out, a drain, a power cut, a reboot. Its
# volumes keep their names and what was flushed to them. Wants a cluster that is up, without volumes (./dev cluster up), and an
# image of what is to be tested (./dev image). REBOOT='' leaves the reboot out.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
. "$(dirname "${BASH_SOURCE[0]}")/operator.sh"
VOLUMES=(buffered direct)       # in the order of their names: what lies between the volume and its pool's disk
FLUSHER=/usr/local/bin/ublk-flusher-$(digest "$REPO/build/release/bin/ublk-flusher")
# shellcheck disable=SC2317
leave() {
  on_node "pkill -f '^$FLUSHER '" >/dev/null 2>&1 || true
  kubectl uncordon vm1 >/dev/null 2>&1 || true
  kube scale deployment/ublk-controller --replicas=2 >/dev/null 2>&1 || true
  kubectl delete pod,ublkvolume -l test=node --all-namespaces --force --grace-period=0 --wait=false >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
use_cluster

no_volumes() { gives "" kubectl get ublkvolumes -o name; }
# All of the operator's own on the node, pool and state, on a disk that drops what is not flushed when the power goes.
pool_disk() {
  on_node 'set -e
    ! mountpoint -q /var/lib/ublk-operator || exit 0
    mkfs.ext4 -q /dev/disk/by-id/virtio-drop1
    echo /dev/disk/by-id/virtio-drop1 /var/lib/ublk-operator ext4 defaults 0 0 >>/etc/fstab
    mount /var/lib/ublk-operator
    sync'
  kube rollout restart daemonset/ublk-node
  kube rollout status daemonset/ublk-node --timeout=180s
  await 60 on_node "pgrep -f '$AGENT'"
  pool_is_on_its_disk
}
pool_is_on_its_disk() {
  local disk
  disk=$(on_node 'stat -L -c %Hr:%Lr /dev/disk/by-id/virtio-drop1')
  gives "$disk" on_node "stat -c %Hd:%Ld /proc/\$(pgrep -f -o '$AGENT')/root/var/lib/ublk-operator"
}
applied() {
  local volume
  for volume in "${VOLUMES[@]}"; do
    cat <<YAML
---
apiVersion: ublk.dev/v1alpha1
kind: UblkVolume
metadata: {name: $volume, labels: {test: node}}
spec:
  size: 64Mi
  backend: {file: {path: $volume.img, directIO: $([[ $volume == direct ]] && echo true || echo false)}}
  reclaimPolicy: Delete
YAML
  done | kubectl apply -f -
  kubectl wait ublkvolume -l test=node --for=condition=Ready --timeout=60s
  wait_ready "${#VOLUMES[@]}"
}

# A writer on each volume; WORK/VOLUME.flushed has a line for each flush that was acknowledged, outside the node.
writing() {
  local volume
  if ! on_node "test -x $FLUSHER"; then
    # What the connection carries is encrypted, which an emulated machine does slowly.
    strip -o "$WORK/flusher" "$REPO/build/release/bin/ublk-flusher"
    on_node "cat >$FLUSHER.new && chmod 755 $FLUSHER.new && mv $FLUSHER.new $FLUSHER && sync" <"$WORK/flusher"
  fi
  for volume in "${VOLUMES[@]}"; do
    on_node "exec $FLUSHER write --device /dev/ublk/by-name/$volume" </dev/null >"$WORK/$volume.flushed" 2>"$WORK/$volume.errors" &
  done
  goes_on
}
flushed() { sed -n 's/^flushed //p' "$WORK/$1.flushed" | tail -n 1; }
has_flushed() { local now; now=$(flushed "$1"); ((${now:-0} >= $2)); }
# goes_on: each writer flushes twice more, so that one whole round is new, and none has seen an error.
goes_on() {
  local volume now
  for volume in "${VOLUMES[@]}"; do
    now=$(flushed "$volume")
    await 60 has_flushed "$volume" $((${now:-0} + 2)) || { printf '%s: flushed no more after %s\n' "$volume" "${now:-nothing}"; cat "$WORK/$volume.errors"; return 1; }
    same "" "$(<"$WORK/$volume.errors")"
  done
}
# untouched FILE: the same servers serve as FILE says, which is of agent_says.
untouched() {
  wait_ready "${#VOLUMES[@]}"
  diff "$1" "$WORK/said"
  on_node "kill -0 $(servers)"
}
remember() { wait_ready "${#VOLUMES[@]}"; cp "$WORK/said" "$WORK/before"; }
restarts() { kube get pods -l app.kubernetes.io/component=node -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{end}'; }
agent_pid() { on_node "pgrep -f -o '$AGENT'"; }

# Applications notice nothing. As a rule nothing in the node's pod does either; on a machine so slow that containerd gives up on
# what ran before it, the kubelet makes the pod's containers anew.
containerd_restarted() {
  local restarts
  remember
  restarts=$(restarts)
  on_node 'systemctl restart containerd'
  # It knows the container again, and the kubelet it.
  await 120 kube exec daemonset/ublk-node -c agent -- /usr/bin/ublkctl get >/dev/null
  wait_ready "${#VOLUMES[@]}" 120
  goes_on
  if [[ $(restarts) != "$restarts" ]]; then echo "the kubelet made the containers anew" >"$WORK/found"; else
    echo "the containers are the same" >"$WORK/found"
    untouched "$WORK/before"
  fi
}

# The agent's container gets less than it has by half of the agent's own; the kernel ends the largest process there.
agent_out_of_memory() {
  local restarts old watchdog
  remember
  restarts=$(restarts) old=$(agent_pid)
  watchdog=$(on_node "ps -o ppid= -p $old" | tr -d ' ')
  on_node "set -e
    group=/sys/fs/cgroup\$(sed -n 's/^0:://p' /proc/$old/cgroup)
    limit=\$(cat \$group/memory.max)
    own=\$(awk '/^RssAnon:/ {print \$2 * 1024}' /proc/$old/status)
    all=\$(awk '/^(anon|kernel) / {all += \$2} END {print all}' \$group/memory.stat)
    echo \$((all - own / 2)) >\$group/memory.max
    echo \$limit >\$group/memory.max
    cat \$group/memory.events
    grep -q '^oom_kill [1-9]' \$group/memory.events"
  await 60 other_agent "$old"
  # One process ended, and not the container: the first process is the same.
  gives "$watchdog" parent_of_agent
  untouched "$WORK/before"
  gives "$restarts" restarts
  goes_on
}
other_agent() { local now; now=$(agent_pid) && [[ $now != "$1" ]]; }
parent_of_agent() { on_node "ps -o ppid= -p \$(pgrep -f -o '$AGENT')" | tr -d ' '; }

server_out_of_memory() {
  local server
  remember
  server=$(awk '$1 == "direct" {print $3}' "$WORK/before")
  on_node "set -e
    leaf=/sys/fs/cgroup\$(sed -n 's/^0:://p' /proc/$server/cgroup)
    [[ \$leaf == */servers/* ]]
    echo 1M >\$leaf/memory.max"
  await 60 only_direct_recovered
  kubectl wait ublkvolume/direct --for='jsonpath={.status.lastRecovery.reason}=was killed by SIGKILL (9), out of memory' --timeout=30s
  goes_on
}
# The other volume's server is the same.
only_direct_recovered() {
  ready "${#VOLUMES[@]}" && [[ $(grep '^buffered' "$WORK/said") == "$(grep '^buffered' "$WORK/before")" ]] &&
    (($(awk '$1 == "direct" {print $4}' "$WORK/said") == $(awk '$1 == "direct" {print $4}' "$WORK/before") + 1))
}

# Each server in a cgroup of its own with its own limit, also when the spawner began anew beside somebody else's process.
spawner_beside_a_stranger() {
  local server stranger="events --watch"
  remember
  kube exec daemonset/ublk-node -c spawner -- /usr/bin/ublkctl events --watch >"$WORK/stranger" 2>&1 &
  await 60 on_node "pid=\$(pgrep -f '^/usr/bin/ublkctl $stranger') && cat /proc/\$pid/cgroup"
  on_node "pkill -KILL -f '$SPAWNER'"
  wait_recovered_since "$WORK/before" "${#VOLUMES[@]}"
  on_node "pgrep -f '^/usr/bin/ublkctl $stranger'"     # it was there all the time
  for server in $(servers); do on_node "grep '^0::.*/servers/[0-9]*$' /proc/$server/cgroup"; done
  on_node "pkill -f '^/usr/bin/ublkctl $stranger'"
  goes_on
}

# Applications leave in order, the node's pod stays, and so do the devices.
drained() {
  kubectl apply -f - <<'YAML'
apiVersion: ublk.dev/v1alpha1
kind: UblkVolume
metadata: {name: evicted, labels: {test: node}}
spec: {size: 64Mi, backend: {file: {path: evicted.img}}, reclaimPolicy: Delete}
YAML
  kubectl wait ublkvolume/evicted --for=condition=Ready --timeout=60s
  start_applications node evicted
  kubectl logs -n default -f pod/evicted >"$WORK/evicted.log" 2>/dev/null &
  wait_ready $((${#VOLUMES[@]} + 1))
  cp "$WORK/said" "$WORK/before"
  # Of two controllers one may leave, and without another node the other would never be let go.
  kube scale deployment/ublk-controller --replicas=1
  kubectl drain vm1 --ignore-daemonsets --force --delete-emptydir-data --timeout=180s
  await 60 grep '^writes=' "$WORK/evicted.log"
  grep ' errors=0 lost=0 ' "$WORK/evicted.log"
  ready $((${#VOLUMES[@]} + 1))
  diff "$WORK/before" "$WORK/said"
  kubectl uncordon vm1
  kube scale deployment/ublk-controller --replicas=2
  rolled_out
  kubectl delete ublkvolume evicted --timeout=60s
  grep -v '^evicted' "$WORK/before" >"$WORK/others"
  untouched "$WORK/others"
  goes_on
}

# That the power cut loses what was not flushed, and nothing else, told by a disk that nobody else uses.
CONTROL=/dev/disk/by-id/virtio-drop2
mark() { # OFFSET WORD [CONVERSION]: a block of that word
  on_node "yes $2 | head -c 4096 | dd of=$CONTROL bs=4096 seek=$1 iflag=fullblock oflag=direct conv=notrunc${3:-} status=none"
}
mark_at() { on_node "dd if=$CONTROL bs=4096 skip=$1 count=1 iflag=direct status=none | tr -d '\\0' | head -n 1"; }
boot_id() { on_node 'cat /proc/sys/kernel/random/boot_id'; }
power_cut() {
  local id
  id=$(boot_id)
  echo "$id" >"$WORK/boot"
  mark 0 "flushed-$id" ,fsync
  mark 1024 "not-flushed-$id"
  goes_on
  gives "not-flushed-$id" mark_at 1024
  cluster node-cut
}
control() {
  local id now
  id=$(<"$WORK/boot")
  gives "flushed-$id" mark_at 0
  now=$(mark_at 1024)
  [[ $now != "not-flushed-$id" ]]
}
power_on() { cluster node-start; }
rebooted() {
  local before now
  goes_on
  before=$(boot_id)
  cluster node-reboot
  now=$(boot_id)
  [[ $now != "$before" ]]
}
came_back() {
  local volume server
  wait_ready "${#VOLUMES[@]}" 180
  pool_is_on_its_disk
  gives "${VOLUMES[*]}" names
  while read -r volume _ server _; do
    on_node "test -b /dev/ublk/by-name/$volume" </dev/null
    kubectl wait "ublkvolume/$volume" --for="jsonpath={.status.serverPID}=$server" --timeout=60s
    kubectl wait "ublkvolume/$volume" --for=condition=Ready --timeout=60s
  done <"$WORK/said"
}
names() { on_node 'ls /dev/ublk/by-name' | xargs; }
data_is_there() {
  local volume
  for volume in "${VOLUMES[@]}"; do
    printf '%-8s round %s was flushed: ' "$volume" "$(flushed "$volume")" >>"$WORK/found"
    on_node "$FLUSHER verify --device /dev/ublk/by-name/$volume --flushed $(flushed "$volume")" | tee -a "$WORK/found"
  done
}
found() { [[ ! -f $WORK/found ]] || sed 's/^/  /' "$WORK/found"; rm -f "$WORK/found"; }
removed() {
  kubectl delete ublkvolume -l test=node --timeout=60s
  gives "" on_node 'ls /dev/ublk/by-name'
  gives "" on_node 'ls /var/lib/ublk-operator/pool'
}

check "installed with Helm" install
check "a cluster without volumes" no_volumes
check "the pool on a disk that drops what is not flushed" pool_disk
check "two volumes applied and Ready" applied
check "a writer on each, which flushes" writing
check "containerd restarted: writers go on" containerd_restarted
found
check "the agent is out of memory: it alone ends, and no server" agent_out_of_memory
check "a server is out of memory: recovered, with the reason said" server_out_of_memory
check "the spawner begins anew beside somebody's shell: servers have their cgroups" spawner_beside_a_stranger
check "an image of an application" load_application
check "drained and uncordoned: devices stay" drained
check "power cut" power_cut
check "power on" power_on
check "what was not flushed was lost, what was is there" control
check "the volumes come back under their names" came_back
check "what was flushed to them is there" data_is_there
found
if [[ ${REBOOT-yes} ]]; then
  check "writers again" writing
  check "rebooted" rebooted
  check "the volumes come back under their names once more" came_back
  check "what was flushed is there once more" data_is_there
  found
fi
check "removed, and nothing is left" removed
((!FAILED))
