"""completion: print the function by which a shell completes the words of oellm-autoexp."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from oellm_autoexp.cli.completion.command_line import FILES
from oellm_autoexp.cli.completion.complete import NAME
from oellm_autoexp.cli.steps import app

EXAMPLES = """\
  eval "$(oellm-autoexp completion bash)"                                              in ~/.bashrc
  eval "$(oellm-autoexp completion zsh)"                                               in ~/.zshrc, behind compinit
  oellm-autoexp completion fish > ~/.config/fish/completions/oellm-autoexp.fish
  python scripts/shell_completion.py bash"""

_BASH = """\
_oellm_autoexp() {
  local line
  COMPREPLY=()
  while IFS= read -r line; do
    if [[ $line == @FILES@ ]]; then
      compopt -o default +o nospace 2>/dev/null
      return
    fi
    COMPREPLY+=("$line")
  done < <(command oellm-autoexp @NAME@ bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
complete -o nospace -F _oellm_autoexp oellm-autoexp
"""
_ZSH = """\
#compdef oellm-autoexp
_oellm_autoexp() {
  local line
  local -a texts shown open open_shown
  while IFS= read -r line; do
    if [[ $line == @FILES@ ]]; then
      _files
      return
    fi
    local text=${line%%$'\\t'*} about=${line#*$'\\t'}
    if [[ $text == *[=.] ]]; then
      open+=("$text") open_shown+=("$text${about:+  -- $about}")
    else
      texts+=("$text") shown+=("$text${about:+  -- $about}")
    fi
  done < <(command oellm-autoexp @NAME@ zsh "${(@)words[1,CURRENT-1]}" "$PREFIX" 2>/dev/null)
  compadd -l -d shown -a texts
  compadd -l -S '' -d open_shown -a open
}
if [[ $funcstack[1] == _oellm_autoexp ]]; then _oellm_autoexp "$@"; else compdef _oellm_autoexp oellm-autoexp; fi
"""
_FISH = """\
function __oellm_autoexp_complete
    set -l offers (command oellm-autoexp @NAME@ fish (commandline -opc) (commandline -ct) 2>/dev/null)
    if test "$offers" = @FILES@
        __fish_complete_path (commandline -ct)
    else
        printf '%s\\n' $offers
    end
end
complete -c oellm-autoexp -f -a '(__oellm_autoexp_complete)'
"""
_FUNCTIONS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def parser() -> app.Parser:
    """The command's options."""
    what = (
        "Print the function by which a shell completes commands, options, groups, keys, experiments, sessions and jobs."
    )
    made = app.Parser(what, EXAMPLES, app.PLAN_EXIT_CODES)
    made.add_argument("shell", choices=sorted(_FUNCTIONS), help="the shell that is to read it")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _print, argv)


def _print(options: argparse.Namespace) -> int:
    print(_FUNCTIONS[options.shell].replace("@FILES@", FILES).replace("@NAME@", NAME), end="")
    return app.OK
