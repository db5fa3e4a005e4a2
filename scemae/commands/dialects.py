"""Two dialects of one command line: `--backbone RUN` and `backbone=RUN`, for every command.

Here each word is rewritten to the dialect that the command's parser reads. A word that names a file
which is there stays, and so does everything behind `--`.
"""

import os
from collections.abc import Iterator
from typing import Any

from scemae.commands.parser import Parser
from scemae.config.closest import hint
from scemae.config.schema import SCHEMAS
from scemae.config.values import kind_of
from scemae.errors import ConfigError

ON, OFF = ("true", "True", "1"), ("false", "False", "0")


def as_options(parser: Parser, words: list[str]) -> list[str]:
    """The words of an options command, with --KEY VALUE for KEY=VALUE.

    Raises ConfigError for an option that the command does not have.
    """
    found: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            return [*found, word, *left]
        if word in parser.inner:
            parser = parser.inner[word]
            found.append(word)
        elif word.startswith("--"):
            _check_option(parser, word)
            found.append(word)
            found += _value_of(parser, word, left)
        else:
            found += _spelt(parser, word)
    return found


def as_settings(parser: Parser, name: str, words: list[str]) -> list[str]:
    """The words of a settings command, with KEY=VALUE for --KEY VALUE.

    name: of the schema. Raises ConfigError for a setting without a value.
    """
    found: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            return [*found, word, *left]
        flag, equals, value = word.partition("=")
        key = _setting(name, flag) if word.startswith("--") else None
        if key is None or parser.option(flag) is not None:
            found.append(word)
            found += _value_of(parser, word, left) if word.startswith("--") else []
        elif equals:
            found.append(f"{key}={value}")
        else:
            found += _joined(key, kind_in(name, key), left)
    return found


def kind_in(name: str, key: str) -> Any:
    """The type of a setting of a command, or of STAGE.KEY for `submit` and `sweep`; else None."""
    stage, _, rest = key.partition(".")
    if name in ("submit", "sweep") and stage in SCHEMAS and rest:
        return kind_in(stage, rest)
    return str if key == "experiment" else kind_of(SCHEMAS[name], key)


def _setting(name: str, flag: str) -> str | None:
    """The setting that --KEY means, with dashes or underscores; None where there is none."""
    spellings = (flag[2:], flag[2:].replace("-", "_"))
    return next((key for key in spellings if key and kind_in(name, key) is not None), None)


def _joined(key: str, kind: Any, left: Iterator[str]) -> list[str]:
    """key=value, with the value from the words that are left."""
    value = next(left, None)
    if kind is bool and value not in (*ON, *OFF):
        return [f"{key}=true", *([] if value is None else [value])]
    if value is None or value.startswith("--"):
        raise ConfigError(f"found --{key} without a value; give {key}=VALUE, or --{key} VALUE")
    return [f"{key}={value}"]


def _value_of(parser: Parser, word: str, left: Iterator[str]) -> list[str]:
    """The word behind an option, where it is the option's value whatever it looks like."""
    action = parser.option(word)
    takes_one = action is not None and action.nargs is None and action.option_strings
    return [value for value in [next(left, None)] if value is not None] if takes_one else []


def _check_option(parser: Parser, word: str) -> None:
    """Raise ConfigError, with the closest option, where no option begins with this word."""
    flag = word.partition("=")[0]
    known = [*parser.flags(), *(flag for inner in parser.inner.values() for flag in inner.flags())]
    if parser.option(flag) is None and not any(one.startswith(flag) for one in known):
        raise ConfigError(
            f"found {flag}, which is no option{hint(flag, known)}; see `{parser.prog} --help`"
        )


def _spelt(parser: Parser, word: str) -> list[str]:
    """KEY=VALUE of an option as the words that argparse reads; any other word as it is."""
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier() or os.path.exists(word):
        return [word]
    flag = "--" + key.replace("_", "-")
    action = parser.option(flag)
    if action is None:
        if any(one.dest == key and not one.option_strings for one in parser.declared):
            raise ConfigError(
                f"found {key}=, which is given by its place: {value} alone; see "
                f"`{parser.prog} --help` (a file of that name is ./{word})"
            )
        if guess := hint(flag, parser.flags()).replace("'--", "'"):
            raise ConfigError(
                f"found {key}=, which is no option{guess}; see `{parser.prog} --help` (a file of "
                f"that name is ./{word})"
            )
        return [word]
    if action.nargs == 0:
        if value not in (*ON, *OFF):
            raise ConfigError(f"{key}: found {value!r}, true or false was needed")
        return [flag] if value in ON else []
    if isinstance(action.nargs, int):
        return [flag, *value.strip("[]").split(",")]
    return [f"{flag}={value}"]
