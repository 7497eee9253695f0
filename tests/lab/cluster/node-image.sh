# Builds the node's disk: Debian 12 with containerd, the newest lab kernel's modules and the kubelet. Apart from
# the image of ../image.sh, which every test boots and which stays small. Sourced.
# shellcheck shell=bash

NODE_KERNEL=${LAB_KERNELS[0]}

# node_image: builds what is missing. Sets NODE_IMAGE to the folder with root.img and NODE_KERNEL/kernel and
# initrd, and LAB_QEMU to the command that starts QEMU. After cluster_programs.
node_image() {
  local key emulator
  key=$(digest "$LAB_DIR"/{image.sh,apt.sh} "$LAB_DIR/guest/initrd-init" "$CLUSTER_LAB"/{node-image.sh,node.packages} "$CLUSTER_LAB"/guest/* "${KUBERNETES##*/}")
  NODE_IMAGE=$LAB_CACHE/nodeimage-$key
  lab_name_emulator; emulator=$REPLY
  touch -c "$NODE_IMAGE" "$emulator"
  [[ -d $NODE_IMAGE && -d $emulator ]] && return
  say "building the cluster's node in $LAB_CACHE (first use, or its recipe changed)"
  with_cache_lock node_image_locked "$key"
}

node_image_locked() {
  local start kernels rootfs
  start=$(now_ms)
  lab_get_emulator
  lab_get_kernels; kernels=$REPLY
  cached noderootfs "$(digest "$CLUSTER_LAB/node.packages" "$(declare -f lab_bootstrap)")" build_node_rootfs; rootfs=$REPLY
  cached nodeimage "$1" build_node_image "$kernels" "$rootfs"
  say "node ready to boot: $(seconds "$start") s"
}

build_node_rootfs() { step "bootstrapping Debian 12 with containerd" lab_bootstrap "$1" "$CLUSTER_LAB/node.packages"; }
build_node_image() { step "packing the node's disk image" pack_node_image "$@"; }

pack_node_image() {
  local kernels=$1 rootfs=$2 out=$3 root=$3/root unit
  lab_link_root "$rootfs/root" "$root"
  lab_add_kernel "$kernels" "$NODE_KERNEL" "$root" "$out"
  lab_make_guest "$root" node
  mkdir -p "$root"/{lab/share,etc/kubernetes,etc/containerd,etc/cni/net.d}
  install -m 755 "$KUBERNETES/kubelet" "$root/usr/local/bin/"
  install -m 755 "$CLUSTER_LAB/guest/node-setup" "$root/lab/"
  install -m 644 "$CLUSTER_LAB/guest/kubelet.yaml" "$root/etc/kubernetes/"
  install -m 644 "$CLUSTER_LAB/guest/containerd.toml" "$root/etc/containerd/config.toml"
  install -m 644 "$CLUSTER_LAB/guest/lab.conflist" "$root/etc/cni/net.d/"
  install -m 644 "$CLUSTER_LAB/guest/sshd.conf" "$root/etc/ssh/sshd_config"
  install -m 644 "$CLUSTER_LAB/guest/modules.conf" "$root/etc/modules-load.d/lab.conf"
  # A reboot waits no longer than this for what does not want to stop.
  mkdir -p "$root/etc/systemd/system.conf.d" "$root/etc/systemd/system/multi-user.target.wants"
  printf '[Manager]\nDefaultTimeoutStopSec=15s\n' >"$root/etc/systemd/system.conf.d/lab.conf"
  for unit in lab-node lab-images kubelet; do
    install -m 644 "$CLUSTER_LAB/guest/$unit.service" "$root/etc/systemd/system/"
    ln -sf "../$unit.service" "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
  done
  lab_make_disk "$root" "$out/root.img"
}
