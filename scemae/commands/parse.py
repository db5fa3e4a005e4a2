"""The parser of the command line: argparse for options; key=value settings are what it leaves."""

import argparse
import os
from importlib import import_module
from typing import NoReturn

from scemae.commands.table import find_command
from scemae.config import values
from scemae.config.dotted import setting_names
from scemae.config.schema import SCHEMAS
from scemae.config.values import given_path
from scemae.errors import ConfigError

# What a command takes beside settings.
FIRST = {"tables": "RUN or KEY=VALUE", "doctor": "STAGE or KEY=VALUE"}
RAW = argparse.RawDescriptionHelpFormatter


class SettingsParser(argparse.ArgumentParser):
    """A parser that raises ConfigError where argparse would print its usage and exit with 2."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command. Raises ConfigError for an unknown one."""
    command = find_command(name)
    if command.help_text is not None:
        return _settings_parser(name, command.help_text)
    module = import_module(command.module)
    text = getattr(module, "HELP", module.__doc__)
    parser = argparse.ArgumentParser(f"scemae {name}", description=text, formatter_class=RAW)
    module.add_arguments(parser)
    return parser


def parse(name: str, words: list[str]) -> argparse.Namespace:
    """The options of a command.

    Those of a settings command have `settings`, its key=value arguments, and `schema`, the name of
    the command whose settings they are. Raises ConfigError for wrong arguments of a settings
    command, and SystemExit as argparse does: with 0 after --help, with 2 for wrong options.
    """
    parser = parser_of(name)
    if not find_command(name).takes_settings:
        return parser.parse_args(words)
    if not words and name in ("submit", "sweep"):
        words = ["--help"]
    options, unknown = parser.parse_known_intermixed_args(words)
    if stray := [word for word in unknown if word.startswith("-")]:
        raise ConfigError(
            f"found {stray[0]}, which is no option; give key=value settings, or an option of "
            f"`scemae {name} --help` (a folder of that name is ./{stray[0]})"
        )
    options.schema = name
    if name == "tables":
        options.settings = with_runs(options.settings)
    if name == "doctor":
        options.schema, options.settings = _split_stage(options.settings)
    return options


def with_runs(words: list[str]) -> list[str]:
    """Join the arguments that are no settings into runs=[...]. Raises ConfigError for no folder."""
    known = setting_names(SCHEMAS["tables"])
    runs = [word for word in words if not _is_setting(known, word)]
    if missing := [run for run in runs if not os.path.isdir(given_path(run))]:
        raise ConfigError(
            f"{missing[0]}: no such folder; give run folders of `scemae pretrain` or "
            "`scemae correspond`"
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


def _settings_parser(name: str, help_text: str) -> SettingsParser:
    parser = SettingsParser(
        f"scemae {name}", description=help_text, formatter_class=RAW, allow_abbrev=False
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar=FIRST.get(name, "KEY=VALUE"),
        help="settings; a list is [a,b], null stands for none",
    )
    parser.add_argument("--cfg", action="store_true", help="print the resolved settings and stop")
    if name == "doctor":
        _add_limits(parser)
    elif name == "submit":
        _add_submit_options(parser)
    elif name == "sweep":
        _add_sweep_options(parser)
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--time-limit", metavar="MINUTES", type=_above_0, help="of one job: how many jobs it takes"
    )
    parser.add_argument(
        "--signal-seconds",
        metavar="N",
        type=_above_0,
        help="between the signal and the end of a job: is it enough to save?",
    )
    parser.add_argument(
        "--steps", metavar="N", type=_above_0, default=5, help="of the dry run, after one more (5)"
    )


def _above_0(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, a whole number above 0 was needed")
    return int(text)


def _add_submit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the job scripts and stop")
    parser.add_argument(
        "--status", metavar="RUN", type=given_path, help="show the state of a chain and stop"
    )


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--join", metavar="SWEEP", type=given_path, help="lend this node too, until the sweep ends"
    )
    parser.add_argument(
        "--page",
        metavar="SWEEP",
        type=given_path,
        help="write page and table of what there is, and remove checkpoints that `keep` drops",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=given_path,
        help="with --page: write there and remove nothing, for a sweep of another user",
    )
    parser.add_argument(
        "--array",
        action="store_true",
        help="random and grid search as an array of jobs, without Ray",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --array: print the jobs")
    # SWEEP part=K of=N start=G: how a job of --array starts its element
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
