# Completion of scemae for bash, made by `scemae completion bash`.
_scemae_words() {
  case "$1" in
  @TABLE@
  *) return 1 ;;
  esac
}

_scemae() {
  local line="${COMP_LINE:0:COMP_POINT}" path="" word kept
  # the argument up to the cursor; bash itself splits it at = and :
  local current="${line##*[[:space:]]}" last="${COMP_WORDS[COMP_CWORD]}"
  [[ $last == [=:] ]] && last=""
  kept="${current%"$last"}"
  local -a given all
  read -ra given <<<"${line%"$current"}"
  for word in "${given[@]:1}"; do
    case "$word" in -* | *=*) continue ;; esac
    _scemae_words "${path:+$path }$word" >/dev/null && path="${path:+$path }$word"
  done
  mapfile -t all < <(_scemae_words "$path")
  COMPREPLY=()
  for word in "${all[@]}"; do
    [[ $word == "$current"* ]] || continue
    [[ $word == *= && $word == "$current" ]] && continue
    [[ $current != *=* && $word == *=?* ]] && continue
    COMPREPLY+=("${word#"$kept"}")
  done
  if ((${#COMPREPLY[@]} == 0)); then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "${current#*=}")
  elif [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
    compopt -o nospace
  fi
}
complete -F _scemae scemae
