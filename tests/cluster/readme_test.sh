#!/bin/bash
# The commands of README.md's section on Kubernetes, as they are written there, on a cluster whose node has the image and
# nothing of the operator: ./dev cluster up, and an image of what is to be tested (./dev image).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
. "$(dirname "${BASH_SOURCE[0]}")/operator.sh"
# shellcheck disable=SC2317
leave() {
  kubectl delete ublkvolume pgdata --ignore-not-found --wait=false >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap leave EXIT
use_cluster

nothing_installed() {
  cluster load-image "$REPO/build/image.tar"
  ! kubectl get -n "$NAMESPACE" daemonset/ublk-node >/dev/null 2>&1 || helm uninstall ublk -n "$NAMESPACE" --no-hooks --wait
}
# The first block of commands below the heading.
commands() { awk '/^## Use it on Kubernetes$/ {on = 1} on && /^```$/ {if (inside) exit; inside = 1; next} inside' "$REPO/README.md"; }
as_written() {
  commands >"$WORK/commands"
  grep -q '^helm install ' "$WORK/commands"
  (cd "$REPO" && bash -euo pipefail "$WORK/commands") >"$WORK/printed"
  grep -qE '^NAME +NODE +SIZE +MODE +STATE +READY +RECOVERIES +AGE$' "$WORK/printed"
  grep -qE '^pgdata +vm1 +10Gi +Reissue +LIVE +True +0 ' "$WORK/printed"
}
taken_back() {
  kubectl wait ublkvolume/pgdata --for=jsonpath='{.status.recoveryCount}'=1 --timeout=120s
  kubectl wait ublkvolume/pgdata --for=condition=Ready --timeout=60s
}
removed() {
  kubectl delete ublkvolume pgdata --timeout=60s
  on_node "rm -r /var/lib/ublk-operator/pool/postgresql"
}

check "a cluster with the image, and nothing installed" nothing_installed
check "the README's commands, as they are written" as_written
check "the volume is back after the last of them" taken_back
check "removed" removed
((!FAILED))
