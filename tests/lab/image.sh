# Builds the lab's VM out of Debian packages: one root filesystem (Debian 12 like the build host,
# so that what was built outside runs inside) with the modules of every lab kernel, and for each
# kernel its image and a tiny initrd; and the QEMU that runs them. All results live in the cache,
# see cached() in common.sh.
# shellcheck shell=bash

LAB_KERNELS=(7.2 6.12)      # the first is the default: every ublk feature; 6.12: none of the newer ones
LAB_DISK_SIZE=16G           # sparse
# Debian 12's own QEMU 7.2 races when one virtual CPU patches code that another runs (static keys,
# tracepoints): "Oops: int3", about one boot in 20, and two of three runs that toggle tracepoints
# under load. 10.0 from bookworm-backports did not fail once in 50. It is unpacked, not installed:
# the libraries it needs are those of Debian 12's package, which stays as it is.
LAB_QEMU_PACKAGES=(qemu-system-x86 qemu-system-data qemu-system-common seabios)

# lab_image: builds what is missing. Sets LAB_IMAGE to the folder with root.img, SERIES/kernel,
# SERIES/initrd and SERIES/release (`uname -r`), and LAB_QEMU to the command that starts QEMU.
lab_image() {
  local key emulator
  # The common case, everything is there, takes no lock: results never change once they have their name.
  key=$(digest "$LAB_DIR"/{image.sh,apt.sh,rootfs.packages} "$LAB_DIR"/guest/*)
  LAB_IMAGE=$LAB_CACHE/image-$key
  lab_name_emulator; emulator=$REPLY
  touch -c "$LAB_IMAGE" "$emulator"
  [[ -d $LAB_IMAGE && -d $emulator ]] && return
  say "building the lab VM in $LAB_CACHE (first use, or its recipe changed)"
  with_cache_lock lab_image_locked "$key"
}

lab_image_locked() {
  local start kernels rootfs
  start=$(now_ms)
  lab_get_emulator
  lab_get_kernels; kernels=$REPLY
  cached rootfs "$(digest "$LAB_DIR/rootfs.packages" "$(declare -f lab_bootstrap)")" lab_build_rootfs; rootfs=$REPLY
  cached image "$1" lab_build_image "$kernels" "$rootfs"; LAB_IMAGE=$REPLY
  say "lab VM ready: $(seconds "$start") s"
}

# lab_name_emulator: sets LAB_QEMU to the command that starts QEMU and REPLY to its folder, built or not.
lab_name_emulator() {
  REPLY=$LAB_CACHE/emulator-$(digest "${LAB_QEMU_PACKAGES[@]}" "$(declare -f lab_fetch_emulator)")
  LAB_QEMU=("$REPLY/usr/bin/qemu-system-x86_64" -L "$REPLY/usr/share/seabios" -L "$REPLY/usr/share/qemu")
}

# Both under with_cache_lock; REPLY is the folder.
lab_get_emulator() {
  lab_name_emulator
  cached emulator "${REPLY##*-}" lab_build_emulator
}
lab_get_kernels() {
  cached kernels "$(digest "${LAB_KERNELS[@]}" "$(declare -f suite_apt_update lab_fetch_kernel lab_unpack_vmlinuz)")" lab_build_kernels
}

lab_build_emulator() {
  step "reading package lists" suite_apt_update
  step "fetching QEMU" lab_fetch_emulator "$1"
}

lab_fetch_emulator() {
  local out=$1 deb
  mkdir "$out/deb"
  (cd "$out/deb" && suite_apt apt-get download -q "${LAB_QEMU_PACKAGES[@]/%//bookworm-backports}")
  for deb in "$out"/deb/*.deb; do dpkg -x "$deb" "$out"; done
  rm -rf "$out/deb"
  "$out/usr/bin/qemu-system-x86_64" --version
}

lab_build_kernels() {
  local out=$1 series
  step "reading package lists" suite_apt_update
  for series in "${LAB_KERNELS[@]}"; do
    step "fetching kernel $series" lab_fetch_kernel "$series" "$out/$series"
  done
}

# lab_fetch_kernel SERIES OUT: the newest packaged kernel of that series, unpacked: release, kernel
# and tree/lib/modules/RELEASE with its module index.
lab_fetch_kernel() {
  local series=$1 out=$2 release modules deb
  release=$(suite_apt apt-cache pkgnames "linux-image-$series." |
    sed -nE 's/^linux-image-([0-9.]+\+deb[0-9]+-amd64)$/\1/p' | sort -V | tail -n 1)
  [[ -n $release ]] || fail 1 "no linux-image-$series.* package in trixie or trixie-backports." \
    "If Debian has moved on to a newer series, name it in LAB_KERNELS (tests/lab/image.sh)."
  mkdir -p "$out"/{deb,raw,tree/lib/modules}
  # Since 7.0 the image package is only a shell around three others.
  (cd "$out/deb" && { suite_apt apt-get download -q "linux-base-$release" "linux-binary-$release" \
    "linux-modules-$release" || suite_apt apt-get download -q "linux-image-$release"; })
  for deb in "$out"/deb/*.deb; do dpkg -x "$deb" "$out/raw"; done
  lab_unpack_vmlinuz "$(find "$out/raw" -type f -name "vmlinuz*")" "$out/kernel"
  modules=$(dirname "$(find "$out/raw" -type d -path "*/modules/$release/kernel")")
  mv "$modules" "$out/tree/lib/modules/"
  depmod -b "$out/tree" "$release"
  printf '%s\n' "$release" >"$out/release"
  rm -rf "$out/deb" "$out/raw"
}

# lab_unpack_vmlinuz VMLINUZ OUT: the ELF kernel inside, which QEMU starts directly (PVH). Unpacking
# itself takes an emulated machine over a second of every boot. What cannot be unpacked is kept as it is.
lab_unpack_vmlinuz() {
  local field
  field() { od -An -v -t"u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }
  # Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length. The payload ends
  # with its own size, which is not the compressor's business.
  local start length
  start=$((($(field "$1" 0x1f1 1) + 1) * 512 + $(field "$1" 0x248 4)))
  length=$(($(field "$1" 0x24c 4) - 4))
  if dd if="$1" iflag=skip_bytes,count_bytes skip="$start" count="$length" bs=1M status=none | { zstd -dcq || xz -dc; } >"$2" &&
    [[ $(head -c 4 "$2") == $'\x7fELF' ]]; then
    return
  fi
  cp "$1" "$2"
}

lab_build_rootfs() { step "bootstrapping Debian 12 with the lab's packages" lab_bootstrap "$1" "$LAB_DIR/rootfs.packages"; }

# lab_bootstrap OUT LIST: OUT/root, a Debian 12 with the packages named in the file LIST.
lab_bootstrap() {
  local out=$1 packages
  packages=$(sed 's/#.*//' "$2" | xargs | tr ' ' ',')
  mmdebstrap --variant=minbase --mode=root --keyring="$DEBIAN_KEYRING" --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$out/root" "$(debian_mirror)"
  rm -rf "$out"/root/var/{cache/apt,lib/apt/lists}/*
}

lab_build_image() {
  local kernels=$1 rootfs=$2 out=$3
  step "packing the disk image" lab_pack_image "$kernels" "$rootfs" "$out"
}

lab_pack_image() {
  local kernels=$1 rootfs=$2 out=$3 root=$3/root series
  lab_link_root "$rootfs/root" "$root"
  for series in "${LAB_KERNELS[@]}"; do lab_add_kernel "$kernels" "$series" "$root" "$out"; done
  lab_install_guest "$root"
  lab_make_disk "$root" "$out/root.img"
}

# lab_link_root FROM ROOT: links instead of copies; /etc is written to later, so it alone is copied.
lab_link_root() {
  cp -al "$1" "$2"
  rm -rf "${2:?}/etc"
  cp -a "$1/etc" "$2/etc"
}

# lab_add_kernel KERNELS SERIES ROOT OUT: the modules into ROOT, kernel, initrd and release into OUT/SERIES.
lab_add_kernel() {
  local kernels=$1 series=$2 root=$3 out=$4 release
  release=$(<"$kernels/$series/release")
  mkdir -p "$root/usr/lib/modules" "$out/$series"
  cp -al "$kernels/$series/tree/lib/modules/$release" "$root/usr/lib/modules/"
  cp "$kernels/$series"/{kernel,release} "$out/$series/"
  lab_pack_initrd "$root" "$release" "$out/$series/initrd"
}

# lab_make_disk ROOT DISK: ROOT becomes a disk image and is gone.
lab_make_disk() {
  truncate -s "$LAB_DISK_SIZE" "$2"
  # Journal and tables are initialised here, so that no boot does it in the background.
  mke2fs -q -F -t ext4 -L lab -E lazy_itable_init=0,lazy_journal_init=0 -d "$1" "$2"
  rm -rf "$1"
}

# lab_pack_initrd ROOT RELEASE OUT: what every boot needs, uncompressed: an emulated machine would
# spend its time unpacking.
lab_pack_initrd() {
  local root=$1 release=$2 out=$3 dir module order=10
  dir=$(mktemp -d)
  mkdir -p "$dir"/{bin,modules,new,dev,proc,sys}
  cp /bin/busybox "$dir/bin/"
  install -m 755 "$LAB_DIR/guest/initrd-init" "$dir/init"
  while read -r module; do
    case $module in
      *.xz) xz -dc "$module" >"$dir/modules/$order-$(basename "$module" .xz)" ;;
      *.zst) zstd -qdc "$module" >"$dir/modules/$order-$(basename "$module" .zst)" ;;
      *) cp "$module" "$dir/modules/" ;;
    esac
    order=$((order + 1))
  done < <(modprobe -d "$root" -S "$release" -a --show-depends virtio_pci virtio_blk ext4 \
    virtio_console virtio_rng 9p 9pnet_virtio |
    awk '/^insmod/ && !seen[$2]++ {print $2}')
  ((order > 10)) || fail 1 "no modules found for the initrd of $release"
  (cd "$dir" && find . | cpio -o -H newc --quiet) >"$out"
  rm -rf "$dir"
}

lab_install_guest() {
  local root=$1
  mkdir -p "$root"/{lab,repo,build,results,job}
  install -m 755 "$LAB_DIR"/guest/{init,run-job,lab-cut} "$root/lab/"
  install -m 644 "$LAB_DIR/guest/lab.service" "$root/etc/systemd/system/"
  lab_make_guest "$root" ublk-lab
  mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
  ln -sf ../lab.service "$root/etc/systemd/system/multi-user.target.wants/lab.service"
}

# lab_make_guest ROOT HOSTNAME: what a root filesystem needs to be a quick machine of the lab.
lab_make_guest() {
  local root=$1
  printf '%s\n' "$2" >"$root/etc/hostname"
  printf '127.0.0.1 localhost %s\n' "$2" >"$root/etc/hosts"
  printf '/dev/vda / ext4 defaults 0 1\n' >"$root/etc/fstab"
  printf '0123456789abcdef0123456789abcdef\n' >"$root/etc/machine-id"
  # Nobody logs in, housekeeping would only disturb measurements, and hardware that QEMU has but no
  # test looks at costs an emulated machine minutes to set up.
  local unit
  for unit in getty@.service serial-getty@.service systemd-timesyncd.service systemd-pcrphase.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer systemd-tmpfiles-clean.timer systemd-networkd-wait-online.service systemd-binfmt.service \
    proc-sys-fs-binfmt_misc.automount systemd-random-seed.service systemd-sysusers.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service modprobe@drm.service \
    modprobe@efi_pstore.service sys-kernel-config.mount dev-hugepages.mount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  printf 'blacklist %s\n' ata_generic ata_piix drm evbug floppy i2c_piix4 iTCO_wdt kvm_amd kvm_intel pata_acpi \
    pcspkr psmouse serio_raw sr_mod button evdev intel_agp bochs >"$root/etc/modprobe.d/lab.conf"
}
