#!/bin/bash
# One OCI image with all programs, from scratch: `./dev image` is this script. Two layers, what is Debian's and what is
# ours, so that a new version of ours is a small download. The same commit and packages give the same digest.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR/../tests/lab
. "$(dirname "${BASH_SOURCE[0]}")/../tests/lab/build.sh"

LAYER_BYTES_MAX=$((80 << 20))
OUT=$REPO/build/image.tar
PACKAGING=$REPO/packaging
# What a container has no use for.
UNUSED=(boot home media mnt opt srv usr/{games,include,local,src} usr/share/{man,locale,info,lintian,bash-completion,bug,pixmaps}
  usr/share/{doc-base,gcc,gdb,base-files,base-passwd,ca-certificates,libc-bin,initramfs-tools} usr/lib/x86_64-linux-gnu/{gconv,engines-3}
  usr/sbin/{update-ca-certificates,update-passwd} etc/{ca-certificates,cron.daily,default,dpkg,host.conf,init.d,issue,issue.net,motd}
  etc/{profile.d,skel,update-motd.d})
# Headers that the programs were compiled with and whose licences want to be told.
HEADERS=(nlohmann-json3-dev libcli11-dev)

usage() {
  cat <<'USAGE'
usage: ./dev image [--no-build]

Builds the programs and puts them into build/image.tar, a docker-archive of localhost/ublk-operator:VERSION, for
`./dev cluster load-image`, `skopeo copy` or `podman load`. Needs root. --no-build takes build/release as it is.
SOURCE_DATE_EPOCH sets every time in it (default: the last commit's).
USAGE
}

version() { sed -nE 's/^project\(ublk-operator VERSION ([0-9.]+).*/\1/p' "$REPO/CMakeLists.txt"; }

IN_IMAGE=(ublk-node ublk-server ublkctl ublk-controller)

# library_packages PROGRAM...: Debian packages of what they link, directly or not.
library_packages() {
  local library
  ldd "$@" | sed -nE 's|.* => /.*/([^/ ]+) .*|\1|p; s|^\s+/.*/([^/ ]+) .*|\1|p' | sort -u | while read -r library; do
    dpkg-query -S "*/x86_64-linux-gnu/$library" | head -n 1
  done | cut -d: -f1 | sort -u
}

# debian_debs: sets REPLY to a folder with the packages as this machine's apt finds them, that is with security updates.
debian_debs() {
  local key
  key=$(debs_key) || key=''
  if [[ ! $key || ! -d $LAB_CACHE/imagedebs-$key ]]; then
    step "reading package lists" apt-get update -qq
    key=$(debs_key)
  fi
  with_cache_lock cached imagedebs "$key" fetch_debs
}
debs_key() { local uris; uris=$(apt-get download --print-uris "${packages[@]}" 2>/dev/null) && digest "$uris"; }
fetch_debs() { step "fetching ${#packages[@]} packages" download "$1"; }
download() { (cd "$1" && apt-get -oAPT::Sandbox::User=root download -qq "${packages[@]}"); }

# unpack_debian ROOT DEBS: a root file system of the packages' files, without running any of their scripts.
unpack_debian() {
  local root=$1 debs=$2 deb name folder
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{dev,proc,sys,run,etc/ssl/certs,var/lib/dpkg/status.d,root}
  install -d -m 1777 "$root/tmp"
  for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
  ln -s /run "$root/var/run"
  for deb in "$debs"/*.deb; do
    name=$(dpkg-deb -f "$deb" Package)
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$root" --exclude='./var/*'
    # Where scanners of images look for what is inside.
    dpkg-deb -f "$deb" >"$root/var/lib/dpkg/status.d/$name"
  done
  install -m 644 "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  install -m 644 "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  # What update-ca-certificates would write.
  find "$root/usr/share/ca-certificates" -name '*.crt' | LC_ALL=C sort | xargs cat >"$root/etc/ssl/certs/ca-certificates.crt"
  mkdir -p "$root/usr/lib/ssl"
  ln -s /etc/ssl/certs "$root/usr/lib/ssl/certs"
  (cd "$root" && rm -rf "${UNUSED[@]}")
  # Copyright files are all that is kept of documentation, and every package has one.
  find "$root/usr/share/doc" -mindepth 2 \( -type f -o -type l \) ! -name copyright -delete
  find "$root/usr/share" -type d -empty -delete
  for name in "$root"/var/lib/dpkg/status.d/*; do
    [[ -s $root/usr/share/doc/${name##*/}/copyright ]] || { echo "no copyright file of ${name##*/}"; return 1; }
  done
}

# add_programs ROOT
add_programs() {
  local program headers
  mkdir -p "$1/usr/bin"
  for program in "${programs[@]}"; do install -s -m 755 "$program" "$1/usr/bin/"; done
  ln -s ublkctl "$1/usr/bin/kubectl-ublk"
  install -D -m 644 "$REPO/LICENSE" "$1/usr/share/doc/ublk-operator/copyright"
  for headers in "${HEADERS[@]}"; do install -D -m 644 -t "$1/usr/share/doc/$headers" "/usr/share/doc/$headers/copyright"; done
}

# try_programs DEBIAN OURS: that each program finds its libraries, in a root that has nothing else.
try_programs() {
  local both=$work/both program
  cp -a "$1" "$both"
  cp -a "$2/." "$both/"
  for program in "$2"/usr/bin/*; do chroot "$both" "/usr/bin/${program##*/}" --help >/dev/null; done
  chroot "$both" /usr/sbin/modprobe --version >/dev/null
  rm -rf "$both"
}

# A storage of its own: nothing of this machine's images is used or touched.
bh() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

# add_layer FROM ROOT NAME CONFIG...: the image NAME is FROM with one layer more.
add_layer() {
  local from=$1 root=$2 name=$3 container; shift 3
  container=$(bh from --pull-never "$from")
  bh copy --quiet --chown 0:0 "$container" "$root" /
  bh config "$@" "$container"
  bh commit --quiet --rm --identity-label=false --format oci --timestamp "$SOURCE_DATE_EPOCH" "$container" "$name"
}

make_image() {
  add_layer scratch "$work/debian" localhost/debian:layer --created-by "files of Debian packages"
  add_layer localhost/debian:layer "$work/ours" "$NAME" --created-by "programs of ublk-operator" \
    --env PATH=/usr/sbin:/usr/bin --workingdir / --label "org.opencontainers.image.title=ublk-operator" \
    --label "org.opencontainers.image.version=${NAME##*:}"
  rm -f "$OUT.part"
  bh push --quiet "$NAME" "docker-archive:$OUT.part:$NAME"
}

# check_layers: the sizes of all layers, on one line; fails when one is too large.
check_layers() {
  local layer bytes sizes=''
  for layer in $(tar -xOf "$OUT.part" manifest.json | jq -r '.[0].Layers[]'); do
    bytes=$(tar -tvf "$OUT.part" "$layer" | awk '{print $3}')
    sizes+="${sizes:+, }$((bytes >> 10)) KiB"
    ((bytes <= LAYER_BYTES_MAX)) || fail 1 "layer $layer has $bytes bytes, more than $LAYER_BYTES_MAX: what is new and large in it?"
  done
  echo "$sizes"
}

build=1
case ${1:-} in
  '') ;;
  --no-build) build='' ;;
  -h | --help) usage; exit ;;
  *) usage >&2; exit 64 ;;
esac
[[ $(id -u) == 0 ]] || fail 1 "the image needs root, for owners of files and chroot"
install_missing "${BUILD_PACKAGES[@]}" "${IMAGE_PACKAGES[@]}"
cd "$REPO"
if [[ $build ]]; then
  # What there is to build may have changed since the folder was configured.
  step "configuring" build_preset release build.ninja
  step "building ${IN_IMAGE[*]}" build_preset release "${IN_IMAGE[@]}"
fi
NAME=localhost/ublk-operator:$(version)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export TZ=UTC LC_ALL=C
umask 022

programs=("${IN_IMAGE[@]/#/$REPO/build/release/bin/}")
for program in "${programs[@]}"; do
  [[ -x $program ]] || fail 1 "there is no ${program#"$REPO"/}: ./dev image builds it"
done
mapfile -t packages < <({ library_packages "${programs[@]}" "$(command -v modprobe)"; grep -v '^#' "$PACKAGING/image.packages" | tr ' ' '\n'; } | sort -u)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debian_debs; debs=$REPLY
step "unpacking ${#packages[@]} Debian packages" unpack_debian "$work/debian" "$debs"
step "adding ${#programs[@]} programs" add_programs "$work/ours"
step "trying them in a root of their own" try_programs "$work/debian" "$work/ours"
step "making the image" make_image
sizes=$(check_layers)
mv "$OUT.part" "$OUT"
say "${OUT#"$REPO"/}: $NAME, layers of $sizes, image $(tar -xOf "$OUT" manifest.json | jq -r '.[0].Config' | cut -c1-64)"
