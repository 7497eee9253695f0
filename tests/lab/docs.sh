#!/bin/bash
# What the documentation says beside what there is: `./dev lint` runs it. Links lead somewhere; the page of metrics has
# those of the programs and the alerts of the chart; the page of troubles has every reason of a condition and of an event.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$REPO"
METRICS=docs/reference/metrics.md
TROUBLES=docs/troubleshooting.md
ALERTS=charts/ublk-operator/files/alerts.yaml
# Words that look like a metric or a reason in the sources and are none.
NO_METRICS=(ublk_drv)
NO_REASONS=(FailIO False Fence Lease None Queue Reissue True UblkNode Unknown)

problems=0
problem() { printf '%s\n' "$1"; problems=$((problems + 1)); }
words() { printf '%s\n' "$@" | sort -u; }
# missing FILE FILE TEXT: a problem for each line of the first that the second has not.
missing() {
  local line
  while read -r line; do problem "${3//%/$line}"; done < <(comm -23 "$1" "$2")
}
sources() { git ls-files "$@" | grep -v '_test\.cc$'; }

# --- links

# prose FILE: without what is code.
# shellcheck disable=SC2016
prose() { awk '/^ *```/ {code = !code; next} !code' "$1" | sed 's/`[^`]*`//g'; }
# anchors FILE: of its headings, as GitHub makes them.
anchors() {
  awk '/^ *```/ {code = !code; next} !code && /^#+ / {sub(/^#+ +/, ""); print}' "$1" |
    sed -E 's/\[([^]]*)\]\([^)]*\)/\1/g' | tr '[:upper:]' '[:lower:]' | sed -E 's/[^a-z0-9 _-]//g; s/ /-/g'
}
check_links() {
  local page link target anchor
  while read -r page; do
    while read -r link; do
      case $link in
        http://* | https://* | mailto:*) continue ;;
        /*) problem "$page: ($link) begins with '/'; write it from the page's folder"; continue ;;
      esac
      target=${link%%#*} anchor=${link#"${link%%#*}"}
      target=${target:+$(dirname "$page")/$target}
      target=${target:-$page}
      if [[ ! -e $target ]]; then problem "$page: ($link) leads nowhere"
      elif [[ $anchor ]] && ! anchors "$target" | grep -qxF -- "${anchor#\#}"; then
        problem "$page: ($link): $target has no such heading"
      fi
    done < <(prose "$page" | grep -oE '\]\([^)]+\)' | sed 's/^](//; s/)$//')
  done < <(git ls-files '*.md')
}

# --- metrics

# shellcheck disable=SC2016
check_metrics() {
  sources 'common/*.cc' 'node/*.cc' 'controller/*.cc' | xargs grep -hoE '"ublk_[a-z_]+"' | tr -d '"' | sort -u |
    comm -23 - <(words "${NO_METRICS[@]}") >"$work/exported"
  sed -nE 's/^\| `(ublk_[a-z_]+)` .*/\1/p' "$METRICS" | sort -u >"$work/documented"
  missing "$work/exported" "$work/documented" "$METRICS has no row for the metric %"
  missing "$work/documented" "$work/exported" "$METRICS has a row for %, which no program exports"
  awk '$1 == "-" && $2 == "alert:" {alert = $3} $1 == "expr:" {on = 1} on && /^ *for:|^ *labels:/ {on = 0}
    on {while (match($0, /ublk_[a-z_]+/)) {name = substr($0, RSTART, RLENGTH); sub(/_bucket$/, "", name); print name, alert
          $0 = substr($0, RSTART + RLENGTH)}}' "$ALERTS" | sort -u >"$work/alerts"
  awk -F'|' '/^\| `ublk_/ {gsub(/[` ]/, "", $2); n = split($(NF - 1), one, /`/); for (i = 2; i <= n; i += 2) print $2, one[i]}' \
    "$METRICS" | sort -u >"$work/documented"
  missing "$work/alerts" "$work/documented" "$METRICS: the row of % misses the alert (metric, alert)"
  missing "$work/documented" "$work/alerts" "$METRICS: % (metric, alert) is not in $ALERTS"
}

# --- reasons

check_reasons() {
  sources 'node/agent/*.cc' 'node/cluster/*.cc' 'controller/*.cc' | xargs grep -hoE '"[A-Z][a-z]+[A-Za-z]*"' | tr -d '"' |
    sort -u | comm -23 - <(words "${NO_REASONS[@]}") >"$work/reasons"
  # The first cell of a row: `Reason`, `Reason`, or `Type=False`.
  awk -F'|' '/^\| `/ {n = split($2, one, /`/); for (i = 2; i <= n; i += 2) {sub(/=.*/, "", one[i]); if (one[i] ~ /^[A-Z][a-z]/) print one[i]}}' \
    "$TROUBLES" | sort -u >"$work/documented"
  missing "$work/reasons" "$work/documented" "$TROUBLES has no row for the reason %"
  missing "$work/documented" "$work/reasons" "$TROUBLES has a row for %, which no program says"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
check_links
check_metrics
check_reasons
((!problems)) || fail 1 "the documentation has $problems problems"
