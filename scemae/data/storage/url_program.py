"""The program that prints the file at a URL: curl or ais; a shell only for pipe: commands.

A URL that was read from a file may come from anybody. It is passed as one argument, or through
curl's standard input, so that the list of processes does not show a password; curl expands no
pattern in it and follows no redirection to another protocol. A pipe: command is run only where the
user typed the location (locations.Typed).
"""

import subprocess
import tempfile
from typing import IO, Any

from scemae.config.locations import Typed, is_masked, masked, may_open, scheme_of
from scemae.errors import ShardError

CURL = ("http", "https", "sftp", "ftps", "scp")
OBJECT_STORES = ("s3", "gs", "az")  # remote_folder.py reads them
SCHEMES = ("file", "pipe", *CURL, *OBJECT_STORES, "ais", "hf")
OPTIONS = [
    "fail",
    "silent",
    "show-error",
    "location",
    "globoff",
    "connect-timeout = 30",
    "retry = 30",
    "retry-delay = 2",
]


def refuse(location: str) -> None:
    """Raise ShardError for a location that must not be opened, and say what to do."""
    if is_masked(location):
        raise ShardError(
            f"{location}: found no copy of it in the cache, and *** stands for what is not kept in "
            "files; give the whole location on the command line"
        )
    if not may_open(location):
        raise ShardError(
            f"{masked(location)}: found in a file, and {scheme_of(location)}: runs a program, "
            "which is not done because a file names it; type the location on the command line "
            "yourself (data.shards=..., in verify-resume --shards ...), or copy the shards to a "
            "folder and give that"
        )


def start(location: str) -> subprocess.Popen:
    """A process, in its own session, that prints the file at `location`.

    Raises ShardError, OSError, ValueError.
    """
    refuse(location)
    scheme = scheme_of(location)
    if scheme == "pipe":
        if not isinstance(location, Typed):  # refuse() has checked it; a second lock
            raise ShardError(f"{masked(location)}: not typed by the user")
        return _started(["sh", "-c", location.removeprefix("pipe:")])
    if any(not one.isprintable() for one in location):
        raise ValueError("it holds a character that cannot be printed")
    if scheme == "ais":
        return _started(["ais", "get", location, "-"])
    return _curl(*_of_hugging_face(location)) if scheme == "hf" else _curl(location, [])


def _of_hugging_face(location: str) -> tuple[str, list[str]]:
    """The https: URL of a file on the Hugging Face Hub, and curl's options for the user's token."""
    from huggingface_hub import HfFileSystem, get_token, hf_hub_url

    found: Any = HfFileSystem().resolve_path(location)  # of a repository, or of a bucket
    url = hf_hub_url(
        repo_id=found.repo_id,
        filename=found.path_in_repo,
        repo_type=found.repo_type,
        revision=found.revision,
    )
    token = get_token()
    return url, [f"oauth2-bearer = {_quoted(token)}"] if token else []


def _curl(url: str, more: list[str]) -> subprocess.Popen:
    protocols = "=http,https" if scheme_of(url) in ("http", "https") else f"={scheme_of(url)}"
    lines = [
        *OPTIONS,
        f"proto = {_quoted(protocols)}",
        f"proto-redir = {_quoted(protocols)}",
        *more,
        f"url = {_quoted(url)}",
    ]
    with tempfile.TemporaryFile() as file:  # without a name
        file.write("\n".join(lines).encode())
        file.seek(0)
        return _started(["curl", "--config", "-"], file)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _started(command: list[str], stdin: int | IO = subprocess.DEVNULL) -> subprocess.Popen:
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, start_new_session=True)
