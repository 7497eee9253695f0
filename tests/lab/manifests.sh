#!/bin/bash
# manifests/install.yaml is the chart with its defaults, for who has no Helm: `./dev manifests` writes it anew, with
# --check it only says whether it is what the chart gives.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/deps.sh"
CLUSTER_LAB=$LAB_DIR/cluster
. "$LAB_DIR/apt.sh"
. "$LAB_DIR/cluster/programs.sh"

INSTALL=$REPO/manifests/install.yaml

# render OUT
render() {
  local home; home=$(mktemp -d)
  {
    echo "# ublk-operator with the chart's defaults: kubectl apply -f manifests/install.yaml"
    echo "# Rendered from charts/ublk-operator by ./dev manifests; change it there."
    # Nothing of the user's Helm, and no hooks: kubectl would run them as plain pods.
    HELM_CACHE_HOME=$home HELM_CONFIG_HOME=$home HELM_DATA_HOME=$home "$HELM/helm" template ublk "$REPO/charts/ublk-operator" \
      --namespace ublk-system --set namespace.create=true --no-hooks
  } >"$1"
  rm -rf "$home"
}

case ${1:-} in
  '' | --check) ;;
  *) fail 64 "usage: ./dev manifests [--check]" ;;
esac
helm_program
rendered=$(mktemp)
trap 'rm -f "$rendered"' EXIT
render "$rendered"
if [[ ${1:-} == --check ]]; then
  diff -u --label manifests/install.yaml --label "what the chart gives" "$INSTALL" "$rendered" ||
    fail 1 "manifests/install.yaml is not what the chart gives: ./dev manifests writes it anew"
else
  # The content of a file that mktemp made private.
  cat "$rendered" >"$INSTALL"
  say "wrote ${INSTALL#"$REPO"/}: $(grep -c '^kind: ' "$INSTALL") objects"
fi
