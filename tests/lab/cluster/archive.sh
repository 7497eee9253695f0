# A container image out of a folder, as a docker-archive, with nothing but tar. Sourced.
# shellcheck shell=bash

# write_image OUT NAME ROOT COMMAND...: OUT is an image called NAME of one layer, ROOT, that runs COMMAND.
write_image() {
  local out=$1 name=$2 root=$3 work; shift 3
  work=$(mktemp -d)
  local pack=(tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner)
  "${pack[@]}" -cf "$work/layer.tar" -C "$root" .
  jq -n --arg layer "sha256:$(sha256sum <"$work/layer.tar" | cut -d' ' -f1)" --args '{architecture: "amd64", os: "linux",
    config: {Cmd: $ARGS.positional, Env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}, rootfs: {type: "layers", diff_ids: [$layer]}}' \
    -- "$@" >"$work/config.json"
  jq -n --arg name "$name" '[{Config: "config.json", RepoTags: [$name], Layers: ["layer.tar"]}]' >"$work/manifest.json"
  "${pack[@]}" -cf "$out" -C "$work" manifest.json config.json layer.tar
  rm -rf "$work"
}
