"""Parse a command line: options by argparse; key=value settings are what it leaves.

Both dialects mean the same: `--backbone RUN` and `backbone=RUN` (dialects.py).
"""

import argparse
import os
from importlib import import_module

from scemae.commands import dialects
from scemae.commands.docstrings import docstring_of
from scemae.commands.parser import RAW, Parser
from scemae.commands.settings_options import add_settings
from scemae.commands.table import find_command
from scemae.config import values
from scemae.config.closest import hint
from scemae.config.dotted import setting_names
from scemae.config.schema import SCHEMAS
from scemae.config.values import given_path
from scemae.errors import ConfigError
from scemae.files.hub import is_on_hub

STAGES = ("pretrain", "correspond")


def parser_of(name: str) -> Parser:
    """The parser of a command, without importing the command. Raises ConfigError."""
    command = find_command(name)
    if command.help_text is not None:
        parser = Parser(
            f"scemae {name}", description=command.help_text, formatter_class=RAW, allow_abbrev=False
        )
        add_settings(parser, name)
        return parser
    arguments = import_module(command.arguments)
    text = getattr(arguments, "HELP", None) or docstring_of(command.module)
    parser = Parser(f"scemae {name}", description=text, formatter_class=RAW)
    arguments.add_arguments(parser)
    return parser


def parse(name: str, words: list[str]) -> argparse.Namespace:
    """The options of a command.

    Those of a settings command have `settings`, its key=value arguments, and `schema`, the name of
    the command whose settings they are. Raises ConfigError for wrong arguments, and SystemExit with
    0 after --help.
    """
    parser = parser_of(name)
    if not find_command(name).takes_settings:
        return parser.parse_args(dialects.as_options(parser, words))
    if not words and name in ("submit", "sweep"):
        words = ["--help"]
    schema = next((word for word in words if word in STAGES), "pretrain")
    schema = schema if name == "doctor" else name
    words = dialects.as_settings(parser, schema, words)
    options, unknown = parser.parse_known_intermixed_args(words)
    if stray := [word for word in unknown if word.startswith("-")]:
        raise ConfigError(_stray(name, schema, parser, stray[0]))
    options.schema = name
    if options.explain is not None:
        options.schema = schema
    elif name == "tables":
        options.settings = with_runs(options.settings)
    elif name == "doctor":
        options.schema, options.settings = _split_stage(options.settings)
    return options


def _stray(name: str, schema: str, parser: Parser, word: str) -> str:
    """The sentence for a word with a dash that is neither an option nor a setting."""
    known = [*parser.flags(), *("--" + key for key in setting_names(SCHEMAS[schema]))]
    return (
        f"found {word}, which is no option{hint(word.partition('=')[0], known)}; give key=value "
        f"settings, or an option of `scemae {name} --help` (a folder of that name is ./{word})"
    )


def with_runs(words: list[str]) -> list[str]:
    """Join the arguments that are no settings into runs=[...]. Raises ConfigError for no folder."""
    known = setting_names(SCHEMAS["tables"])
    runs = [word for word in words if not _is_setting(known, word)]
    for run in runs:
        if not is_on_hub(run) and not os.path.isdir(given_path(run)):
            found = "is a file" if os.path.exists(given_path(run)) else "no such folder"
            raise ConfigError(
                f"{run}: {found}; give run folders of `scemae pretrain` or `scemae correspond`, or "
                "exports of them"
            )
    settings = [word for word in words if word not in runs]
    return [*settings, f"runs={values.as_list(runs)}"] if runs else settings


def _is_setting(known: list[str], word: str) -> bool:
    """True for key=value, unless it is a folder's name and its key is not the name of a setting."""
    key, equals, _ = word.partition("=")
    return bool(equals) and (key.lstrip("+") in known or not os.path.isdir(word))


def _split_stage(words: list[str]) -> tuple[str, list[str]]:
    """The stage that `doctor` checks, and its settings. Raises ConfigError."""
    stage = next((word for word in words if word in ("pretrain", "correspond")), None)
    if stage is None:
        raise ConfigError(
            "found no stage, pretrain or correspond was needed; see `scemae doctor --help`"
        )
    at = words.index(stage)
    return stage, words[:at] + words[at + 1 :]
