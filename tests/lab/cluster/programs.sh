# Builds what a cluster consists of from the Go modules of Kubernetes, etcd and Helm, since Debian 12 has
# none of them. All results live in the cache, see cached() in common.sh. Sourced.
# shellcheck shell=bash

KUBERNETES_VERSION=1.35.4
ETCD_VERSION=3.6.5
HELM_VERSION=3.20.2         # the series that uses the same Kubernetes modules
GO_SERIES=1.25              # the oldest that can build these
KUBERNETES_PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)

# name_programs: sets KUBERNETES, ETCD, HELM and PAUSE to the folders of the programs, which are there or not yet.
name_programs() {
  local recipe
  # The versions of all, for each: what the programs have in common depends on them.
  recipe=$(digest "$GO_SERIES" "$KUBERNETES_VERSION" "$ETCD_VERSION" "$HELM_VERSION" "$(declare -f go_in lab_module build_programs)")
  KUBERNETES=$LAB_CACHE/kubernetes-$(digest "${KUBERNETES_PROGRAMS[@]}" "$recipe" "$(declare -f build_kubernetes)")
  ETCD=$LAB_CACHE/etcd-$(digest "$recipe" "$(declare -f build_etcd)")
  HELM=$LAB_CACHE/helm-$(digest "$recipe" "$(declare -f build_helm)")
  PAUSE=$LAB_CACHE/pause-$(digest "$CLUSTER_LAB/pause.c" "$(declare -f build_pause)")
  # Results never change once they have their name, so who finds them takes no lock.
  touch -c "$KUBERNETES" "$ETCD" "$HELM" "$PAUSE"
}

# cluster_programs: name_programs, and builds what is missing.
cluster_programs() {
  name_programs
  [[ -d $KUBERNETES && -d $ETCD && -d $HELM && -d $PAUSE ]] && return
  say "building Kubernetes $KUBERNETES_VERSION, etcd and Helm in $LAB_CACHE (first use, or their recipe changed): about 8 minutes on 2 cores"
  with_cache_lock cluster_programs_locked
}

cluster_programs_locked() {
  local start
  start=$(now_ms)
  cached pause "${PAUSE##*-}" build_pause
  if [[ ! -d $KUBERNETES || ! -d $ETCD || ! -d $HELM ]]; then get_go; fi
  cached kubernetes "${KUBERNETES##*-}" build_kubernetes
  cached etcd "${ETCD##*-}" build_etcd
  cached helm "${HELM##*-}" build_helm
  say "cluster programs ready: $(seconds "$start") s"
}

# helm_program: name_programs, and builds Helm alone if it is missing: charts are rendered without a cluster.
helm_program() {
  name_programs
  [[ -d $HELM ]] && return
  say "building Helm $HELM_VERSION in $LAB_CACHE (first use, or its recipe changed): about 2 minutes on 2 cores"
  with_cache_lock helm_program_locked
}
helm_program_locked() {
  [[ -d $HELM ]] || get_go
  cached helm "${HELM##*-}" build_helm
}

# get_go: sets GO to a Go that is new enough, this machine's or Debian's.
get_go() {
  local have
  have=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || have=''
  if [[ $have == go* ]] && printf '%s\n' "go$GO_SERIES" "$have" | sort -VC; then GO=go; return; fi
  cached golang "$(digest "$GO_SERIES" "$(declare -f fetch_go)")" build_go
  GO=$REPLY/usr/lib/go-$GO_SERIES/bin/go
}
build_go() {
  step "reading package lists" suite_apt_update
  step "fetching Go $GO_SERIES" fetch_go "$1"
}
# Unpacked, not installed: this machine's Go, if there is one, stays as it is.
fetch_go() {
  local out=$1 deb
  mkdir "$out/deb"
  (cd "$out/deb" && suite_apt apt-get download -q "golang-$GO_SERIES-go/trixie-backports" "golang-$GO_SERIES-src/trixie-backports")
  for deb in "$out"/deb/*.deb; do dpkg -x "$deb" "$out"; done
  rm -rf "$out/deb"
  "$out/usr/lib/go-$GO_SERIES/bin/go" version
}

# go_in FOLDER ARGS...: this Go and no other, whatever the folder's go.mod would rather have; static programs.
go_in() {
  local folder=$1; shift
  (
    cd "$folder" || exit
    export GOTOOLCHAIN=local GOWORK=off GO111MODULE=on CGO_ENABLED=0 GOFLAGS='-mod=mod -buildvcs=false -modcacherw'
    export GOPATH=$LAB_CACHE/go GOMODCACHE=$LAB_CACHE/go/modules GOCACHE=$LAB_CACHE/go/build
    exec "$GO" "$@"
  )
}

# lab_module FOLDER: makes it the main module of all programs. One module, so that what they have in common, which is most of
# Helm and etcd, has one version and is compiled once: the newest that any of the three asks for, which for a few modules is newer
# than what Kubernetes was released with. The go.mod of Kubernetes points to folders beside it, which a module
# fetched alone does not have: here they are the same code as modules.
lab_module() {
  local source
  source=$(go_in "$1" mod download -json "k8s.io/kubernetes@v$KUBERNETES_VERSION" | jq -r .Dir)
  {
    printf 'module lab\ngo %s.0\nrequire (\n' "$GO_SERIES"
    printf '  %s v%s\n' k8s.io/kubernetes "$KUBERNETES_VERSION" go.etcd.io/etcd/server/v3 "$ETCD_VERSION" helm.sh/helm/v3 "$HELM_VERSION"
    printf ')\nreplace (\n'
    sed -nE "s|^[[:space:]]*(k8s.io/[a-z-]+) => ./staging.*|  \1 => \1 v0.${KUBERNETES_VERSION#1.}|p" "$source/go.mod"
    printf ')\n'
  } >"$1/go.mod"
}
# build_programs OUT WHAT LDFLAGS PACKAGE...: all at once, so that while one is linked, which takes one processor, others are compiled.
build_programs() {
  local out=$1 what=$2 ldflags=$3; shift 3
  mkdir "$out/work"
  step "reading what Kubernetes $KUBERNETES_VERSION is made with" lab_module "$out/work"
  step "compiling $what" go_in "$out/work" build -trimpath -ldflags "-s -w $ldflags" -o "$out/" "$@"
  rm -rf "$out/work"
}
# Its package is called server.
build_etcd() { build_programs "$1" "etcd $ETCD_VERSION" "" go.etcd.io/etcd/server/v3; mv "$1/server" "$1/etcd"; }
# Without the flags it takes every cluster it renders charts for as Kubernetes 1.20.
build_helm() {
  local minor=${KUBERNETES_VERSION#*.}; minor=${minor%.*}
  build_programs "$1" "Helm $HELM_VERSION" "-X helm.sh/helm/v3/internal/version.version=v$HELM_VERSION \
    -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$minor \
    -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=$minor" helm.sh/helm/v3/cmd/helm
}
build_kubernetes() {
  local minor=${KUBERNETES_VERSION#*.} version=k8s.io/component-base/version
  build_programs "$1" "Kubernetes $KUBERNETES_VERSION" "-X $version.gitVersion=v$KUBERNETES_VERSION -X $version.gitMajor=1 -X $version.gitMinor=${minor%.*}" \
    "${KUBERNETES_PROGRAMS[@]/#/k8s.io/kubernetes/cmd/}"
}

build_pause() { step "compiling pause" compile_pause "$1"; }
compile_pause() { gcc -Os -static -s -o "$1/pause" "$CLUSTER_LAB/pause.c"; }
