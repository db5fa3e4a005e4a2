"""`scemae COMMAND --explain KEY`: what a setting means, in the schema's words, without torch."""

import json
import textwrap
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from scemae.config.closest import closest
from scemae.config.described import default_of, descriptions, meaning, setters, type_name
from scemae.config.dotted import setting_names
from scemae.config.schema import SCHEMAS
from scemae.config.values import kind_of
from scemae.errors import ConfigError

WIDTH = 96  # columns


def explain(command: str, key: str) -> str:
    """The words on one setting or section of a command; "" for the list of sections.

    Raises ConfigError, with close names, for a setting that is not there.
    """
    key = key.partition("=")[0].lstrip("-+")
    if not key:
        return _section(command, SCHEMAS[command], "")
    kind = kind_of(SCHEMAS[command], key)
    if kind is None:
        near = closest(key, setting_names(SCHEMAS[command]), 5)
        guess = f"close are {', '.join(near)}" if near else "nothing is close"
        raise ConfigError(
            f"found no setting {key!r}, {guess}; `scemae {command} --explain` lists the sections"
        )
    if isinstance(kind, type) and is_dataclass(kind):
        return _section(command, kind, key)
    return _setting(command, kind, key)


def _section(command: str, schema: type, key: str) -> str:
    """A section: its purpose, and a line for each of its settings."""
    known = descriptions()
    lines = [f"{key or 'scemae ' + command}: {known[schema.__name__].purpose}", ""]
    for part in fields(schema):
        inner: Any = part.type
        text = meaning(known, schema, part.name)
        if isinstance(inner, type) and is_dataclass(inner):
            text = known[inner.__name__].purpose + (f" Here: {text}." if text else "")
        name = f"{key}.{part.name}" if key else part.name
        lines.append(_wrapped(f"  {name:<26} ", text))
    return "\n".join(lines)


def _setting(command: str, kind: Any, key: str) -> str:
    """One setting: meaning, type, default and its file, and the files that change it."""
    section, _, name = key.rpartition(".")
    owner = kind_of(SCHEMAS[command], section) if section else SCHEMAS[command]
    value, file = default_of(command, key)
    if is_dataclass(owner):
        text = meaning(descriptions(), owner, name)
        part = next(part for part in fields(owner) if part.name == name)
        if value is MISSING:
            make = part.default_factory
            value = make() if callable(make) else part.default
            file = "scemae/config/schema"
    else:
        text = f"an entry of {section}"
    default = "none" if value is MISSING else "must be given" if value == "???" else _text(value)
    rows = {"type": type_name(kind), "default": f"{default}   ({file})" if file else default}
    if files := setters(command).get(key, []):
        rows["also set by"] = ", ".join(f"configs/{one}.yaml" for one in files)
    lines = [_wrapped(f"{key}: ", text), ""]
    return "\n".join([*lines, *(_wrapped(f"  {name:<12} ", row) for name, row in rows.items())])


def _text(value: Any) -> str:
    """A value as one types it: null, true, [1,2]."""
    return value if isinstance(value, str) else json.dumps(value)


def _wrapped(head: str, text: str) -> str:
    """`text` behind `head`, in lines that begin below it."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * min(len(head), 29),
        break_long_words=False,
        break_on_hyphens=False,
    )
