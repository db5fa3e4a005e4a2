#compdef scemae
# Completion of scemae for zsh, made by `scemae completion zsh`.
_scemae_words() {
  case "$1" in
  @TABLE@
  *) return 1 ;;
  esac
}

_scemae() {
  local where="" word
  local -a all open whole
  for word in "${(@)words[2,CURRENT-1]}"; do
    case "$word" in -* | *=*) continue ;; esac
    _scemae_words "${where:+$where }$word" >/dev/null && where="${where:+$where }$word"
  done
  all=("${(@f)$(_scemae_words "$where")}")
  if [[ $PREFIX == *=* ]]; then
    local key="${PREFIX%%=*}="
    whole=("${(@)${(@M)all:#${key}?*}#$key}")
    compset -P '*='
    if [[ -n ${whole[1]} ]]; then compadd -a whole; else _files; fi
    return
  fi
  open=("${(@M)all:#*=}")
  whole=("${(@)all:#*=*}")
  [[ -n ${open[1]} ]] && compadd -S '' -a open
  [[ -n ${whole[1]} ]] && compadd -a whole
  [[ -n $PREFIX && -n ${(M)all:#${PREFIX}*} ]] || _files
}
compdef _scemae scemae
