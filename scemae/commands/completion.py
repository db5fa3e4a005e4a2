"""`scemae completion bash`: a script that completes a command line, made of the parsers and schema.

Each script is a table of words, one entry for each command (and each command inside of one, such as
`shards build celeba`), and the few lines of its shell that look them up: shells/complete.*.
"""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

from scemae.commands.parse import STAGES, parser_of
from scemae.commands.parser import Parser
from scemae.commands.table import COMMANDS
from scemae.config.described import belongs
from scemae.config.dotted import setting_names
from scemae.config.load import configs_dir
from scemae.config.schema import SCHEMAS
from scemae.config.values import kind_of

TEMPLATES = Path(__file__).parent / "shells"


def main(options: argparse.Namespace) -> None:
    """Print the script of one shell."""
    print(script(options.shell), end="")


def script(shell: str) -> str:
    """The script of bash, zsh or fish."""
    table = {"": [*COMMANDS, "help", "--version", "--help"], "help": list(COMMANDS)}
    for name in COMMANDS:
        table |= dict(_entries(name, parser_of(name)))
        if COMMANDS[name].takes_settings:
            table[name] += _settings(name)
    entry = "  {0}) printf '%s\\n' {1} ;;"
    if shell == "fish":
        entry = "  case {0}\n    printf '%s\\n' {1}"
    rows = [
        entry.format(shlex.quote(path), " ".join(map(shlex.quote, words)))
        for path, words in table.items()
    ]
    return (TEMPLATES / f"complete.{shell}").read_text().replace("  @TABLE@", "\n".join(rows))


def _entries(path: str, parser: Parser) -> Iterator[tuple[str, list[str]]]:
    """The words behind a command, and behind each command inside of it."""
    words = [*parser.inner, *parser.flags()]
    for action in parser.declared:
        for flag in action.option_strings:
            words += [f"{flag}={choice}" for choice in action.choices or ()]
        if not action.option_strings:
            words += map(str, action.choices or ())
    yield path, words
    for name, inner in parser.inner.items():
        yield from _entries(f"{path} {name}", inner)


def _settings(name: str) -> list[str]:
    """The words for the settings of a command: KEY=, and KEY=VALUE where the values are known."""
    if name == "doctor":
        return [*STAGES, *dict.fromkeys(word for stage in STAGES for word in _settings(stage))]
    words = _values(name, "experiment")
    for key in setting_names(SCHEMAS[name]):
        words += _values(name, key)
    if name in ("submit", "sweep"):
        inner = [*STAGES, "evaluate"] if name == "submit" else STAGES
        words += [f"{stage}.{word}" for stage in inner for word in _settings(stage)]
    return words


def _values(name: str, key: str) -> list[str]:
    """KEY= and its known values; nothing for a section that is no choice of a file."""
    kind = kind_of(SCHEMAS[name], key)
    files = sorted((configs_dir() / key).glob("*.yaml"))
    choices = [file.stem for file in files if belongs(key, file.stem, name)]
    if kind is bool:
        choices = ["true", "false"]
    is_section = hasattr(kind, "__dataclass_fields__")
    return [f"{key}=", *(f"{key}={one}" for one in choices)] if choices or not is_section else []
