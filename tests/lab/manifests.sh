#!/bin/bash
# What is rendered from the chart and kept in the tree: manifests/install.yaml, which is the chart with its defaults, for who
# has no Helm, and the pages docs/reference/*.md of the definitions' fields. `./dev manifests` writes them anew, with --check
# it only says whether they are what the chart gives.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/deps.sh"
CLUSTER_LAB=$LAB_DIR/cluster
. "$LAB_DIR/apt.sh"
. "$LAB_DIR/cluster/programs.sh"

CHART=$REPO/charts/ublk-operator
RENDERED=(manifests/install.yaml docs/reference/ublkvolume.md docs/reference/ublknode.md)

# Nothing of the user's Helm.
helm() { HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm "$HELM/helm" "$@"; }

# render PATH: to standard output.
render() {
  case $1 in
    manifests/install.yaml) install ;;
    docs/reference/*.md) reference "$CHART/files/crds/$(basename "$1" .md)s.yaml" ;;
  esac
}
install() {
  echo "# ublk-operator with the chart's defaults: kubectl apply -f manifests/install.yaml"
  echo "# Rendered from charts/ublk-operator by ./dev manifests; change it there."
  # No hooks: kubectl would run them as plain pods.
  helm template ublk "$CHART" --namespace ublk-system --set namespace.create=true --no-hooks
}
# reference DEFINITION: its fields as a page, in the order in which they are written there.
reference() {
  field_order "$1" >"$work/order"
  as_json "$1" >"$work/json"
  jq -r --rawfile order "$work/order" -f "$LAB_DIR/reference.jq" "$work/json"
}
# as_json FILE: Helm reads YAML, which jq does not. A chart of one file.
as_json() {
  mkdir -p "$work/chart/templates"
  cp "$1" "$work/chart/in.yaml"
  printf 'apiVersion: v2\nname: json\nversion: 0.0.0\n' >"$work/chart/Chart.yaml"
  echo '{{ .Files.Get "in.yaml" | fromYaml | toJson }}' >"$work/chart/templates/out.yaml"
  helm template json "$work/chart" | grep '^{'
}
# field_order DEFINITION: the path of every field, which JSON's objects do not keep in order. A field is a key right below
# the key properties; what else looks like a key is the text of a rule or a description.
field_order() {
  awk '
    match($0, /^ *(- )?"?[A-Za-z]+"?:/) {
      match($0, /^ */); depth = RLENGTH
      key = $0; sub(/^ */, "", key); sub(/:.*/, "", key); gsub(/"/, "", key)
      while (top && at[top] >= depth) top--
      at[++top] = depth; keys[top] = key
      if (keys[top - 1] != "properties") next
      path = ""
      for (i = 1; i < top; i++)
        if (keys[i] == "properties") path = path (path == "" ? "" : ".") keys[i + 1]
        else if (keys[i] == "items") path = path "[]"
      print path
    }' "$1"
}

case ${1:-} in
  '' | --check) ;;
  *) fail 64 "usage: ./dev manifests [--check]" ;;
esac
install_missing jq
helm_program
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
drifted=
for path in "${RENDERED[@]}"; do
  render "$path" >"$work/rendered"
  if [[ ${1:-} == --check ]]; then
    diff -u --label "$path" --label "what the chart gives" "$REPO/$path" "$work/rendered" || drifted+="${drifted:+, }$path"
  else
    # The content of a file that mktemp made private.
    cat "$work/rendered" >"$REPO/$path"
    say "wrote $path: $(wc -l <"$work/rendered") lines"
  fi
done
[[ ! $drifted ]] || fail 1 "not what the chart gives: $drifted. ./dev manifests writes it anew"
