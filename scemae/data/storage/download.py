"""The bytes of a file at a URL, from a store, a folder or a program, in pieces.

The server may be hostile or broken: each file has a limit of bytes and of time, and a server that
sends nothing for SILENT_SECONDS is given up.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import cast
from urllib.parse import urlparse
from urllib.request import url2pathname

from scemae.config import locations
from scemae.config.locations import masked
from scemae.data.storage import url_program
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.data.storage.url_program import OBJECT_STORES, SCHEMES
from scemae.errors import FileError, ShardError
from scemae.files import disk

SILENT_SECONDS = 120.0
# A file may take PATIENCE seconds, and one more for each SLOWEST bytes.
PATIENCE, SLOWEST = 600.0, 2**16
PIECE = 2**20


def scheme_of(location: str) -> str | None:
    """The scheme of a location of shards, None for a folder. Raises ShardError if it is unknown."""
    scheme = locations.scheme_of(location)
    if scheme is not None and scheme not in SCHEMES:
        raise ShardError(
            f"{masked(location)}: found the scheme {scheme!r}, one of {', '.join(SCHEMES)} was "
            "needed; copy the shards to a folder and give that"
        )
    return scheme


def download(url: str, most: int) -> Iterator[bytes]:
    """The file at `url`, in pieces. Raises ShardError above `most` bytes, or if it is too slow."""
    count = 0
    for block in _blocks(url, time.monotonic() + PATIENCE + most / SLOWEST):
        count += len(block)
        if count > most:
            raise ShardError(
                f"{masked(url)}: found more than the {most:,} bytes that it should have; check the "
                "address, or copy the shards there again"
            )
        yield block


def _blocks(url: str, until: float) -> Iterator[bytes]:
    try:
        if scheme_of(url) in OBJECT_STORES:
            folder, _, name = url.rpartition("/")
            yield from RemoteFolder(folder).stream(name)
            return
        if scheme_of(url) in (None, "file"):
            path = url2pathname(urlparse(url).path) if scheme_of(url) else url
            with disk.open_regular(path) as file:
                yield from iter(lambda: file.read(PIECE), b"")
            return
        source = url_program.start(url)
        try:
            yield from _piped(url, source, until)
            if status := source.wait(SILENT_SECONDS):
                program = cast(list[str], source.args)[0]
                raise OSError(f"{program} ended with status {status}")
        finally:
            _end(source)
    except (OSError, ValueError, FileError, ImportError, subprocess.SubprocessError) as error:
        why = " ".join(str(error).split())[:300]
        raise ShardError(
            f"{masked(url)}: cannot be read ({why}); check the address and your access to it"
        ) from error


def _end(source: subprocess.Popen) -> None:
    """End a process and those that it started."""
    try:
        os.killpg(source.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    source.wait()
    if source.stdout is not None:
        source.stdout.close()


def _piped(
    url: str, source: subprocess.Popen, until: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[bytes]:
    """Blocks from a process, until it ends.

    Raises ShardError where none comes for SILENT_SECONDS, or `clock` passes `until`.
    """
    assert source.stdout is not None  # url_program.start opens it as a pipe
    descriptor, ready = source.stdout.fileno(), select.poll()
    ready.register(descriptor, select.POLLIN | select.POLLHUP)
    while True:
        left = min(SILENT_SECONDS, until - clock())
        if left <= 0 or not ready.poll(1000 * left):
            raise ShardError(
                f"{masked(url)}: found no end of it in time ({SILENT_SECONDS:.0f} s without a "
                f"byte, or slower than {SLOWEST:,} bytes a second); try again, or copy the "
                "shards by other means"
            )
        if not (block := os.read(descriptor, PIECE)):
            return
        yield block
