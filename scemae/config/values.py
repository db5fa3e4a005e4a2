"""Turn key=value of a command line into a value of the schema's type, and back into text.

Text (paths, names, shell lines) is taken exactly as typed, whatever its characters; only the word
null stands for None. A list of text is [a,b], or one item without brackets; an item that contains a
comma, a bracket or a quote must be quoted. Hydra's grammar reads numbers, true and false, and lists
and dicts of them.
"""

import argparse
import json
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from scemae.config.locations import Typed
from scemae.errors import ConfigError

QUOTES = "\"'"
OPENING, CLOSING = "[{", "]}"


def kind_of(schema: Any, key: str) -> Any:
    """The type of a setting by its dotted name; None where the schema has none of that name."""
    for part in key.split("."):
        if get_origin(schema) is dict and part:
            schema = get_args(schema)[1]
        elif is_dataclass(schema):
            schema = next((field.type for field in fields(schema) if field.name == part), None)
        elif schema is not Any or not part:
            return None
    return schema


def is_text(kind: Any) -> bool:
    """True for str, and for str | None."""
    return kind is str or set(get_args(kind)) == {str, NoneType}


def is_text_list(kind: Any) -> bool:
    """True for list[str], and for list[str] | None."""
    return kind == list[str] or set(get_args(kind)) == {list[str], NoneType}


def split(override: str) -> tuple[str, str]:
    """Key and text of key=value; Hydra's + before the key is ignored. Raises ConfigError."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"found {override!r}, key=value was needed")
    return key.lstrip("+"), text


def value_of(key: str, kind: Any, text: str) -> Any:
    """Text as the value of a setting of type `kind`. Raises ConfigError."""
    if not text:
        raise ConfigError(
            f"{key}: found nothing behind `=`, a value was needed; was it an unset shell variable? "
            "(null stands for none)"
        )
    if "${" in text:
        raise ConfigError(
            f"{key}: found ${{...}} in {text!r}, which is not interpolated; write the value itself"
        )
    if is_text(kind):
        return None if text == "null" else text
    if is_text_list(kind):
        return None if text == "null" else items(key, text)
    return _by_grammar(key, text)


def _by_grammar(key: str, text: str) -> Any:
    from hydra.errors import HydraException

    try:
        found = _parser().parse_override(f"key={text}")
    except HydraException as error:
        raise ConfigError(
            f"{key}: found {text!r}, which is neither a number nor a word nor a list [a,b] of "
            "them; give one, in quotes where it contains other characters"
        ) from error
    if found.is_sweep_override():
        raise ConfigError(
            f"{key}: found several values, {text!r}, and one was needed; a list needs brackets: "
            f"{key}=[...]"
        )
    return found.value()


@cache
def _parser() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def items(key: str, text: str) -> list[str]:
    """The items of a list of text. Raises ConfigError."""
    if not (text.startswith("[") and text.endswith("]") and len(text) > 1):
        return [text]
    inner, found, at = text[1:-1], [], 0
    while at <= len(inner) and inner.strip():
        item, at = _item(key, inner, at)
        found.append(item)
    return found


def _item(key: str, inner: str, at: int) -> tuple[str, int]:
    """The item that begins at position `at`, and the position of the next one."""
    while inner[at : at + 1] == " ":
        at += 1
    if inner[at : at + 1] and inner[at] in QUOTES:
        item, end = _quoted(key, inner, at)
        rest = inner[end:].lstrip(" ")
        if rest and not rest.startswith(","):
            raise ConfigError(
                f"{key}: found {rest!r} behind a quoted item of a list, a comma was needed"
            )
        return item, (len(inner) - len(rest) if rest else len(inner)) + 1
    depth, end = 0, at
    while end < len(inner) and (depth or inner[end] != ","):
        depth += (inner[end] in OPENING) - (inner[end] in CLOSING)
        end += 1
    item = inner[at:end].rstrip(" ")
    if depth or not item:
        found = repr(item) if item else "no item"
        raise ConfigError(
            f"{key}: found {found} between two commas of a list; quote an item that contains "
            "brackets or commas"
        )
    return item, end + 1


def _quoted(key: str, inner: str, at: int) -> tuple[str, int]:
    """The item in quotes that begins at position `at`, and the position behind its quote."""
    quote, end, found = inner[at], at + 1, ""
    while end < len(inner) and inner[end] != quote:
        if inner[end] == "\\" and inner[end + 1 : end + 2] in ("\\", quote):
            end += 1
        found, end = found + inner[end], end + 1
    if end >= len(inner) or not found:
        problem = "an empty item" if end < len(inner) else "a quote without its end"
        raise ConfigError(f"{key}: found {problem} in a list; give each item in complete quotes")
    return found, end + 1


def as_list(found: list[str]) -> str:
    """The text of a list, which `items` reads back."""
    escaped = (item.replace("\\", "\\\\").replace('"', '\\"') for item in found)
    return "[" + ",".join(f'"{item}"' for item in escaped) + "]"


def as_override(schema: Any, key: str, value: Any) -> str:
    """A setting as key=value, which is read back as the same value."""
    kind = kind_of(schema, key)
    if is_text(kind) and isinstance(value, str):
        return f"{key}={value}"
    if is_text_list(kind) and isinstance(value, list):
        return f"{key}={as_list(value)}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def given_count(text: str) -> int:
    """A whole number above 0 as typed, for argparse. Raises ArgumentTypeError."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, a whole number above 0 was needed")
    return int(text)


def given_path(text: str) -> Path:
    """A path as typed, for argparse. Raises ConfigError for "", which would mean this folder."""
    if not text:
        raise ConfigError(
            "found an empty path among the arguments; was it an unset shell variable? (the current "
            "folder is .)"
        )
    return Path(text)


def given_location(text: str) -> Typed:
    """A location of shards as typed, for argparse. Raises ConfigError for an empty one."""
    return Typed(given_path(text) and text)


def as_argument(path: Path) -> str:
    """A path as an argument that no command reads as an option or a setting."""
    is_ambiguous = str(path).startswith("-") or "=" in str(path) and not path.is_absolute()
    return f"./{path}" if is_ambiguous else str(path)
