# Completion of scemae for fish, made by `scemae completion fish`.
function __scemae_words
  switch "$argv[1]"
  @TABLE@
  case '*'
    return 1
  end
end

function __scemae_complete
  set -l current (commandline -ct)
  set -l given (commandline -opc)
  set -l path ''
  for word in $given[2..-1]
    string match -qr -- '^-|=' $word; and continue
    __scemae_words (string trim -- "$path $word") >/dev/null
    and set path (string trim -- "$path $word")
  end
  set -l found
  for word in (__scemae_words "$path")
    string match -qr -- '^'(string escape --style=regex -- "$current") $word; or continue
    if not string match -q -- '*=*' $current; and string match -qr -- '=.' $word
      continue
    end
    set -a found $word
  end
  if test (count $found) -gt 0
    printf '%s\n' $found
  else if string match -q -- '*=*' $current
    set -l key (string replace -r -- '=.*' '=' $current)
    printf "$key%s\n" (__fish_complete_path (string replace -r -- '^[^=]*=' '' $current) '')
  else
    __fish_complete_path $current ''
  end
end
complete -c scemae -e
complete -c scemae -f -a '(__scemae_complete)'
