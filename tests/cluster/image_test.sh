#!/bin/bash
# The image that ./dev image made (build/image.tar): made once more out of the same programs and packages it is the same.
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

check "made once more, it has the same digest" same_again
((!FAILED))
