"""Where shards lie: a folder, a URL or a command (pipe:); what may be opened and shown of it.

A location that the user typed on this command line is a `Typed`. Any other was read from a file,
which somebody else may have written: it never runs a command. A location is `masked` before it is
written or printed, because a URL or a command may contain secrets.
"""

import os
import re
from typing import Any
from urllib.parse import quote

from scemae.errors import ConfigError
from scemae.files import disk

# Schemes that a file may name; any other passes the text of the URL to a program.
FROM_FILES = ("file", "http", "https", "s3", "gs", "az")
HIDDEN = "***"
SCHEME = re.compile(r"(pipe):|([A-Za-z][A-Za-z0-9+.-]*)://")
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^\s/?#]*@)?([^\s?#]*)(\?[^\s#]*)?(#\S*)?")
COMMAND = re.compile(r"(?<![\w.-])pipe:(.*)", re.DOTALL)
MASKED_COMMAND = re.compile(r"[\w./-]* \*\*\*[0-9a-f]{16}")
# A hidden value, with the punctuation that follows it in a sentence or a quoted word.
MASKED_VALUE = re.compile(r"\*\*\*['\"\]),.:;]*")


class Typed(str):
    """Text that the user typed on this command line. Read back from a file it is a plain str."""

    __slots__ = ()


def scheme_of(location: str) -> str | None:
    """The scheme of a URL, "pipe" for a command, None for a folder."""
    found = SCHEME.match(location)
    return (found[1] or found[2].lower()) if found else None


def masked(text: str) -> str:
    """A location, or an argument of a command line, without the parts that may be secret.

    A URL loses its user, password and query values. A command keeps its program and a digest of the
    whole, which distinguishes it from others. Masking twice changes nothing.
    """
    if command := COMMAND.search(text):
        return text[: command.start()] + "pipe:" + _masked_command(command[1])
    return without_secrets(text)


def without_secrets(text: str) -> str:
    """A sentence in which the users, passwords and queries of URLs are hidden."""
    return URL.sub(_masked_url, text)


def _masked_command(command: str) -> str:
    if found := MASKED_COMMAND.match(command):
        return found[0] + without_secrets(command[found.end() :])
    program = next(iter(command.split()), "")
    # TOKEN=... may stand before the program
    shown = program if re.fullmatch(r"[\w./-]+", program) else ""
    return f"{shown} {HIDDEN}{disk.digest(command)[:16]}"


def _masked_url(found: re.Match) -> str:
    scheme, user, place, query, fragment = found.groups()
    hidden = [
        f"{name}={_hidden(value)}" if equals else _hidden(name)
        for name, equals, value in (part.partition("=") for part in (query or "?")[1:].split("&"))
    ]
    return (
        scheme
        + (f"{HIDDEN}@" if user else "")
        + place
        + (f"?{'&'.join(hidden)}" if query else "")
        + (f"#{_hidden(fragment[1:])}" if fragment else "")
    )


def _hidden(value: str) -> str:
    return value if MASKED_VALUE.fullmatch(value) else HIDDEN


def masked_all(value: Any) -> Any:
    """Every text in nested dicts and lists masked."""
    if isinstance(value, dict):
        return {key: masked_all(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [masked_all(part) for part in value]
    return masked(value) if isinstance(value, str) else value


def is_masked(location: str) -> bool:
    """True for a masked URL or command: it can be found in a cache, but not opened."""
    return scheme_of(location) is not None and HIDDEN in location


def cache_name(location: str) -> str:
    """The name of the folder that a URL is copied into: the same for it and for its masked form.

    location: may be a folder, of which the whole path counts.
    """
    whole = location.rstrip("/") if scheme_of(location) else os.path.abspath(location)
    name = quote(masked(whole), safe="", errors="surrogateescape")
    if len(name) <= 200:
        return name
    return f"{name[:180]}-{disk.digest(name)[:16]}"


def below(location: str, name: str) -> str:
    """The location of a file or folder inside `location`; the query of a URL stays at its end."""
    head, mark, query = location, "", ""
    if scheme_of(location) in ("http", "https"):
        head, mark, query = location.partition("?")
    return type(location)(f"{head.rstrip('/')}/{name}{mark}{query}")


def may_open(location: str) -> bool:
    """True for a folder, for what was typed, and for a scheme that a file may name."""
    return isinstance(location, Typed) or scheme_of(location) in (None, *FROM_FILES)


def refuse_from_file(value: Any, key: str, where: object) -> None:
    """Raise ConfigError where a value from a file would run a program or read the environment.

    value: text, or nested lists and dicts; a text may be KEY=VALUE of another command. where: the
    name of the file.
    """
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            refuse_from_file(part, key, where)
        return
    if not isinstance(value, str):
        return
    if "${" in value:
        raise ConfigError(
            f"{where}: {key}: found ${{...}}, which is not interpolated; write the value itself"
        )
    for location in (value, value.partition("=")[2]):
        location = location.strip()
        if not may_open(location) and not is_masked(location):
            raise ConfigError(
                f"{where}: {key}: found {scheme_of(location)}:, which runs a program; a file may "
                f"name only {', '.join(FROM_FILES)} and folders: type {key}=... on the command line"
            )
