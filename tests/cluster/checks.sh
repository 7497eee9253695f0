# What the tests of this folder begin with: named checks, counted as ./dev test counts. Sourced.
# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR/../lab
. "$(dirname "${BASH_SOURCE[0]}")/../lab/common.sh"

# Each writes a line "pass NAME" or "fail NAME" into the file that --counts names.
COUNTS=/dev/null
[[ ${1:-} != --counts ]] || COUNTS=${2:?}
: >"$COUNTS"
WORK=$(mktemp -d)
FAILED=0

# check NAME COMMAND...: in a subshell with errexit; its output only when it fails.
check() {
  local name=$1 start rc verdict=pass; shift
  start=$(now_ms)
  set +e; (set -e; "$@") >"$WORK/log" 2>&1; rc=$?; set -e
  if ((rc)); then verdict=fail FAILED=$((FAILED + 1)); fi
  ((!rc)) || tail -n 40 "$WORK/log" | sed 's/^/  /'
  printf '%s %s (%s s)\n' "$verdict" "$name" "$(seconds "$start")"
  printf '%s %s\n' "$verdict" "$name" >>"$COUNTS"
}
same() { [[ $1 == "$2" ]] || { printf 'expected "%s", got "%s"\n' "$1" "$2"; return 1; }; }
# gives TEXT COMMAND...: COMMAND succeeds and prints TEXT and nothing else. (In `same TEXT "$(COMMAND)"` a COMMAND that fails
# would do too if it prints that before.)
gives() {
  local text=$1 got status=0; shift
  got=$("$@") || status=$?
  ((!status)) || { printf 'status %s of: %s\n%s\n' "$status" "$*" "$got"; return 1; }
  same "$text" "$got"
}
# fails_with TEXT COMMAND...: COMMAND fails and says TEXT.
fails_with() {
  local text=$1 said; shift
  if said=$("$@" 2>&1); then printf 'it was accepted:\n%s\n' "$said"; return 1; fi
  grep -qF -- "$text" <<<"$said" || { printf 'expected a message with\n%s\ngot\n%s\n' "$text" "$said"; return 1; }
}

# use_cluster: kubectl and helm of the cluster that is up, without ./dev, which would look around first each time.
use_cluster() {
  eval "$("$REPO/dev" cluster env)"
  # What kubectl remembers of the server may be older than the definitions.
  export KUBECACHEDIR=$WORK/cache
}
# have_chart: the chart is installed, by who tests more than its objects, or here without a thought for its pods.
have_chart() {
  kubectl get clusterrole ublk-node 2>/dev/null ||
    helm install ublk "$REPO/charts/ublk-operator" --namespace ublk-system --create-namespace
  kubectl wait --for=condition=Established --timeout=30s crd/ublkvolumes.ublk.dev crd/ublknodes.ublk.dev
}
# rest_controller: from here until wake_controller volumes belong to the test alone: none is bound, none gets a finalizer.
rest_controller() {
  kubectl get -n ublk-system deployment/ublk-controller -o 'jsonpath={.spec.replicas}' >"$WORK/controllers"
  kubectl scale -n ublk-system deployment/ublk-controller --replicas=0
  kubectl wait --for=delete pod -n ublk-system -l app.kubernetes.io/component=controller --timeout=120s
}
wake_controller() { kubectl scale -n ublk-system deployment/ublk-controller --replicas="$(<"$WORK/controllers")"; }
