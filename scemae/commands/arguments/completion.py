"""The options of `scemae completion`, and its help text."""

import argparse

HELP = """\
Print a script that completes commands, options, settings and the names of files in configs/.

  eval "$(scemae completion bash)"                in ~/.bashrc
  eval "$(scemae completion zsh)"                 in ~/.zshrc, behind compinit
  scemae completion fish | source                 in ~/.config/fish/config.fish

The script holds all names, so a press of Tab starts no Python; it is made anew with every shell.
"""
SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("shell", choices=SHELLS, help="whose script to print")
