# The node: a VM in the background with a disk that outlives a power cut, and a way to run commands in it. Sourced.
# shellcheck shell=bash

NODE=vm1
# Disks beside its own, /dev/disk/by-id/virtio-NAME there: what is written to them and not flushed is only in the memory of
# the process that serves them, and a power cut ends that too.
DROPPING_DISKS=(drop1 drop2)

# make_node: its disk, its key, and the share with what it needs to know. Once for each cluster.
make_node() {
  local share=$STATE/node/share root disk
  (umask 077 && mkdir -p "$share")
  # A link, so that the image below the disk stays when the cache drops it.
  ln "$NODE_IMAGE/root.img" "$STATE/node/base.img" 2>/dev/null || cp --sparse=always "$NODE_IMAGE/root.img" "$STATE/node/base.img"
  ln "$NODE_IMAGE/$NODE_KERNEL"/{kernel,initrd} "$STATE/node/" 2>/dev/null || cp "$NODE_IMAGE/$NODE_KERNEL"/{kernel,initrd} "$STATE/node/"
  qemu-img create -q -f qcow2 -b base.img -F raw "$STATE/node/disk.qcow2"
  for disk in "${DROPPING_DISKS[@]}"; do truncate -s 1G "$STATE/node/$disk.img"; done
  ssh-keygen -q -t ed25519 -N '' -C lab -f "$STATE/node/key"
  cp "$STATE/node/key.pub" "$share/authorized_keys"
  cp "$STATE/pki"/{ca.crt,kubelet.crt,kubelet.key} "$share/"
  cp "$STATE/pki/node.kubeconfig" "$share/kubeconfig"
  printf '%s=%s\n' NODE "$NODE" KUBELET_PORT "$KUBELET_PORT" API "$HOST_IN_NODE:$API_PORT" API_SERVICE "$API_SERVICE" \
    SERVICE_NETWORK "$SERVICE_NETWORK" >"$share/node"
  root=$(mktemp -d)
  cp "$PAUSE/pause" "$root/"
  write_image "$share/pause.tar" localhost/pause:lab "$root" /pause
  rm -rf "$root"
}

start_dropping_disks() {
  local disk
  for disk in "${DROPPING_DISKS[@]}"; do
    rm -f "$STATE/node/$disk".{sock,pid}
    # By its own folder, since a socket's name is short; the cache of what is not flushed is an unlinked file there.
    start_daemon "$NODE-$disk" "$STATE/node/$disk.pid" env -C "$STATE/node" TMPDIR="$STATE/node" nbdkit \
      --pidfile "$STATE/node/$disk.pid" --unix "/proc/self/cwd/$disk.sock" --filter=cache file "$disk.img" cache=writeback
  done
}

boot_node() {
  local disk dropping=()
  start_dropping_disks
  for disk in "${DROPPING_DISKS[@]}"; do
    dropping+=(-drive "if=none,id=$disk,file.driver=nbd,file.server.type=unix,file.server.path=$disk.sock,format=raw,cache=writeback"
      -device "virtio-blk-pci,drive=$disk,serial=$disk")
  done
  lab_machine
  # Flushes are honoured, and only they: qcow2 keeps what it knows of new blocks in memory until then. (Not of blocks that
  # were written before: those may survive without a flush, unlike on the disks above.)
  # shellcheck disable=SC2054
  start_process "$NODE" env -C "$STATE/node" "${LAB_MACHINE[@]}" -smp "${UBLK_CLUSTER_CPUS:-2}" -m "${UBLK_CLUSTER_MEMORY:-4G}" \
    -kernel "$STATE/node/kernel" -initrd "$STATE/node/initrd" \
    -append "$LAB_PARAMETERS init=/lib/systemd/systemd systemd.show_status=0 net.ifnames=0" \
    -drive "if=none,id=root,file=$STATE/node/disk.qcow2,format=qcow2,cache=writeback" -device virtio-blk-pci,drive=root \
    "${dropping[@]}" \
    -chardev "file,id=kernel,path=$STATE/log/kernel.log,append=on" -serial chardev:kernel \
    -netdev "user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:$SSH_PORT-:22,hostfwd=tcp:127.0.0.1:$KUBELET_PORT-:$KUBELET_PORT" \
    -device virtio-net-pci,netdev=net,romfile= \
    -virtfs "$(lab_share share "$STATE/node/share" on)" -device virtio-rng-pci
}

# node_ssh [SSH_OPTION...] NODE COMMAND...: output, input and exit status are the command's; 255: the node cannot
# be reached, or went away.
node_ssh() { "${NODE_SSH[@]}" "$@"; }
NODE_SSH=(ssh -F /dev/null -i "$STATE/node/key" -l root -p "$SSH_PORT" -o HostName=127.0.0.1 -o IdentitiesOnly=yes -o BatchMode=yes
  -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null -o LogLevel=ERROR
  -o ServerAliveInterval=15 -o ServerAliveCountMax=4)
# A login costs an emulated machine a second, so commands go through one connection that stays. Without it each makes its
# own, as it does where the path is longer than a socket's name may be.
((${#STATE} > 80)) || NODE_SSH+=(-o "ControlPath=$STATE/node/ssh")

connect_node() {
  stop_process "$NODE-ssh" KILL
  rm -f "$STATE/node/ssh"
  start_process "$NODE-ssh" "${NODE_SSH[@]}" -N -o ControlMaster=yes "$NODE"
  await 20 test -S "$STATE/node/ssh" || say "no standing connection to the node: each command makes its own"
}

# node_boot_id: of the boot that answers; nothing when none does.
node_boot_id() { node_ssh -n -o ConnectTimeout=10 -o ControlPath=none "$NODE" cat /proc/sys/kernel/random/boot_id 2>/dev/null || true; }

# answers_with_new_boot OLD: sets BOOT_ID.
answers_with_new_boot() {
  running "$NODE" || return 0         # who waits finds out why
  BOOT_ID=$(node_boot_id)
  [[ -n $BOOT_ID && $BOOT_ID != "$1" ]]
}

# wait_for_node [OLD_BOOT_ID]: until the node answers, on another boot than that one, and this boot of it is Ready.
wait_for_node() {
  local status=0
  BOOT_ID=''
  await 180 answers_with_new_boot "${1:-}" || status=1
  if ((status)) || [[ -z $BOOT_ID ]] || ! running "$NODE"; then
    last_words "$NODE"; last_words kernel
    fail 1 "the node did not come up; the ends of QEMU's output and of the kernel's log are above (whole: $STATE/log)." \
      "If a port is taken: UBLK_CLUSTER_PORT=N puts the cluster at N to N+4."
  fi
  connect_node
  # Until its kubelet has spoken the API server tells of the boot before.
  kubectl wait --for=create "node/$NODE" --timeout=120s >/dev/null &&
    kubectl wait --for=jsonpath="{.status.nodeInfo.bootID}=$BOOT_ID" "node/$NODE" --timeout=120s >/dev/null &&
    kubectl wait --for=condition=Ready "node/$NODE" --timeout=120s >/dev/null && return
  node_ssh -n "$NODE" 'journalctl -q --no-pager -n 25 -u kubelet -u containerd -u lab-images' >&2 || true
  fail 1 "node $NODE answers but is not Ready after 120 s; the end of its journal is above (more: ./dev cluster node journalctl)."
}
