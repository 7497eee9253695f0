#!/bin/bash
# The image that ./dev image made (build/image.tar): made once more out of the same programs and packages it is the same.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
trap 'rm -rf "$WORK"' EXIT

# What a registry and a runtime know an image by: the digest of its configuration, which has those of its layers.
digest_of_image() { tar -xOf "$REPO/build/image.tar" manifest.json | jq -r '.[0] | [.Config, .Layers[]] | join(" ")'; }
same_again() {
  local before
  before=$(digest_of_image)
  [[ $before == *.json\ * ]]
  "$REPO/dev" image --no-build
  gives "$before" digest_of_image
}
layers_told() {
  local layer bytes
  for layer in $(tar -xOf "$REPO/build/image.tar" manifest.json | jq -r '.[0].Layers[]'); do
    bytes=$(tar -xOf "$REPO/build/image.tar" "$layer" | wc -c)
    printf '%s has %s bytes\n' "$layer" "$bytes"
    ((bytes > 0 && bytes <= 80 << 20))
  done
}

check "made once more, it has the same digest" same_again
check "no layer has more than 80 MiB" layers_told
((!FAILED))
