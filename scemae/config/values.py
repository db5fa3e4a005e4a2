"""Settings as words: key=value of a command line as a value of the schema's type, and back.

Text (paths, names, lines of a shell) is taken exactly as it is typed, whatever characters are in it; null alone stands for
nothing. A list of text is [a,b], or one item without brackets; an item with a comma, a bracket or a quote in it stands in
quotes. Numbers, true and false, and lists and dicts of them are read by Hydra's grammar.
"""

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


def split(word: str) -> tuple[str, str]:
    """Key and text of a word; + before the key, as Hydra has it, changes nothing. Raises ConfigError."""
    key, equals, text = word.partition("=")
    if not equals:
        raise ConfigError(f"found {word!r}, key=value was needed")
    return key.lstrip("+"), text


def value_of(key: str, kind: Any, text: str) -> Any:
    """The value of a setting of type `kind`. Raises ConfigError."""
    if not text:
        raise ConfigError(
            f"{key}: found nothing behind `=`, a value was needed; was it a variable of the shell that is not set? "
            "(null stands for none)"
        )
    if "${" in text:
        raise ConfigError(
            f"{key}: found ${{...}} in {text!r}, which is not filled in; write the value itself"
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
            f"{key}: found {text!r}, which is neither a number nor a word nor a list [a,b] of them; give one, in "
            "quotes where it holds other characters"
        ) from error
    if found.is_sweep_override():
        raise ConfigError(
            f"{key}: found several values, {text!r}, and one was needed; a list stands in brackets: {key}=[...]"
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
    """The item that begins at `at`, and where the next one does."""
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
        raise ConfigError(
            f"{key}: found {'no item' if not item else repr(item)} between two commas of a list; put an item with "
            "brackets or commas in it into quotes"
        )
    return item, end + 1


def _quoted(key: str, inner: str, at: int) -> tuple[str, int]:
    quote, end, found = inner[at], at + 1, ""
    while end < len(inner) and inner[end] != quote:
        if inner[end] == "\\" and inner[end + 1 : end + 2] in ("\\", quote):
            end += 1
        found, end = found + inner[end], end + 1
    if end >= len(inner) or not found:
        raise ConfigError(
            f"{key}: found {'an empty item' if end < len(inner) else 'a quote without its end'} in a list; give "
            "each item, in whole quotes"
        )
    return found, end + 1


def as_list(found: list[str]) -> str:
    """A list of text as `items` reads it."""
    return (
        "["
        + ",".join('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in found)
        + "]"
    )


def word(schema: Any, key: str, value: Any) -> str:
    """key=value, which read again is the same setting."""
    kind = kind_of(schema, key)
    if is_text(kind) and isinstance(value, str):
        return f"{key}={value}"
    if is_text_list(kind) and isinstance(value, list):
        return f"{key}={as_list(value)}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def given_path(text: str) -> Path:
    """A path as it was typed, for argparse. Raises ConfigError for an empty one, which would be the current folder."""
    if not text:
        raise ConfigError(
            "found an empty path among the arguments; was it a variable of the shell that is not set? (the current "
            "folder is .)"
        )
    return Path(text)


def given_location(text: str) -> Typed:
    """A location of shards as it was typed, for argparse. Raises ConfigError for an empty one."""
    return Typed(given_path(text) and text)


def as_argument(path: Path) -> str:
    """A path as an argument that no command takes for an option or a setting."""
    return (
        f"./{path}"
        if str(path).startswith("-") or "=" in str(path) and not path.is_absolute()
        else str(path)
    )
