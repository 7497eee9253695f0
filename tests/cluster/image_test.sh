#!/bin/bash
# The image that ./dev image made (build/image.tar): made once more out of the same programs and packages it is the same, and
# so is a program that is compiled once more, in another folder.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
trap 'rm -rf "$WORK"' EXIT

# What a registry and a runtime know an image by: the digest of its configuration, which has those of its layers.
digest_of_image() { tar -xOf "$REPO/build/image.tar" manifest.json | jq -r '.[0] | [.Config, .Layers[]] | join(" ")'; }
same_again() {
  local before created
  before=$(digest_of_image)
  [[ $before == *.json\ * ]]
  # Commits since then change the time that is written into it, and nothing else.
  created=$(tar -xOf "$REPO/build/image.tar" "${before%% *}" | jq -r '.created | sub("\\.[0-9]+Z$"; "Z") | fromdate')
  SOURCE_DATE_EPOCH=$created "$REPO/dev" image --no-build
  gives "$before" digest_of_image
}
# Without the cache, which would give back what was compiled here.
same_elsewhere() {
  local elsewhere=$WORK/elsewhere
  mkdir "$elsewhere"
  git -C "$REPO" ls-files -z | tar -c -C "$REPO" --null --files-from=- | tar -x -C "$elsewhere"
  CCACHE_DISABLE=1 "$elsewhere/dev" build "$PROGRAM"
  strip -o "$WORK/here" "$REPO/build/release/bin/$PROGRAM"
  strip -o "$WORK/there" "$elsewhere/build/release/bin/$PROGRAM"
  cmp "$WORK/here" "$WORK/there"
}

PROGRAM=ublk-server
check "made once more, it has the same digest" same_again
[[ ! ${COMPILE-1} ]] || check "$PROGRAM compiled elsewhere is the same" same_elsewhere
((!FAILED))
