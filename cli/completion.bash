# bash completion for ublkctl: commands, options, their values, and the names of volumes.
# Either installed in share/bash-completion/completions, or: source <(ublkctl completion bash)

_ublkctl_words() {
  mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
}

_ublkctl_files() {
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

_ublkctl() {
  local commands="get describe events wait apply delete stop start recover pause resume support-bundle preflight
    completion version"
  # "=" and ":" may split a word (COMP_WORDBREAKS): --for=state=LIVE arrives as several words.
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  [[ $current == "=" ]] && current=""
  [[ $previous == "=" && COMP_CWORD -ge 2 ]] && previous=${COMP_WORDS[COMP_CWORD - 2]}

  local command="" i
  local -a target=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --socket | --context | --kubeconfig | --namespace | -n)
        target+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}"); ((i++)) ;;
      -*) ;;
      *) [[ -z $command ]] && command=${COMP_WORDS[i]} ;;
    esac
  done

  case $previous in
    --socket | --kubeconfig) _ublkctl_files "$current"; return ;;
    --context) _ublkctl_words "$(kubectl config get-contexts -o name 2>/dev/null)" "$current"; return ;;
    -f | --filename) _ublkctl_files "$current"; return ;;
    --for) _ublkctl_words "Ready condition= delete state=LIVE InUse Paused" "$current"; return ;;
    --timeout) _ublkctl_words "10s 30s 1m 5m" "$current"; return ;;
    -o | --output)
      case $command in
        get) _ublkctl_words "table wide json yaml name" "$current" ;;
        describe) _ublkctl_words "text json yaml" "$current" ;;
        events) _ublkctl_words "table wide json yaml" "$current" ;;
        preflight) _ublkctl_words "table json" "$current" ;;
        support-bundle) _ublkctl_files "$current" ;;
      esac
      return ;;
  esac

  if [[ $current == -* ]]; then
    local options="--help --socket --context --kubeconfig --namespace"
    case $command in
      "") options="$options --version" ;;
      get | describe | preflight | support-bundle) options="$options --output" ;;
      events) options="$options --output --watch --timeout" ;;
      wait) options="$options --for --timeout --all" ;;
      apply) options="$options --filename --dry-run" ;;
      delete) options="$options --filename --wait --timeout --ignore-not-found" ;;
      stop) options="$options --force" ;;
      recover) options="$options --replace-server" ;;
    esac
    _ublkctl_words "$options" "$current"
    return
  fi

  case $command in
    "") _ublkctl_words "$commands" "$current" ;;
    completion) _ublkctl_words "bash" "$current" ;;
    get | describe | events | wait | delete | stop | start | recover | pause | resume)
      _ublkctl_words "$("${COMP_WORDS[0]}" "${target[@]}" get -o name 2>/dev/null)" "$current" ;;
  esac
}

complete -F _ublkctl ublkctl
