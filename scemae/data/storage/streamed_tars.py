"""Tars below a URL, read block by block through a cache on a local disk that may be smaller.

A block is the V = data.block samples kV .. (k+1)V - 1: neighbours in a tar, or at the end of one
and the start of the next. It is one range request for each tar, made ahead of training
(data/read_ahead.py), and one file of the cache. An index is a file of the cache too.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from scemae.config.locations import cache_name, masked, scheme_of
from scemae.data.storage import url_program
from scemae.data.storage.block_cache import BlockCache
from scemae.data.storage.manifest import (
    BLOCK,
    MANIFEST,
    ForeignIndex,
    Index,
    Manifest,
    in_blocks,
    parse_index,
    parse_manifest,
)
from scemae.data.storage.remote_folder import SCHEMES, RemoteFolder
from scemae.errors import ShardError
from scemae.files import disk, documents

AHEAD = 1  # windows that are downloaded before they are read
BLOCK_SAMPLES = 256  # samples of a block where no order says it
NextWindows = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class _Part:
    """A range of bytes of a tar, and where it lies in the file of its block."""

    shard: int
    start: int
    stop: int
    at: int


class StreamedTars:
    """As tars.LocalTars, for tars below a URL."""

    def __init__(
        self,
        remote: RemoteFolder,
        cache: BlockCache,
        manifest: Manifest,
        block: int,
        note: Callable[[], None] = lambda: None,
    ) -> None:
        """block: samples of a block. note: called when bytes arrive while a reader waits."""
        self.remote, self.cache, self.block, self.note = remote, cache, block, note
        self.folder, self._shards = cache.folder, manifest.shards
        self._foreign = manifest.foreign
        self._first = np.cumsum([0, *(shard.samples for shard in manifest.shards)])
        # The window that is trained on, and when blocks are needed next (Order.next_windows);
        # None: in no known order.
        self.now, self.next_windows = 0, cast(NextWindows | None, None)
        self._waiting: set[int] = set()  # threads that read, perhaps waiting for a download
        self._parts = lru_cache(4096)(self._parts_of)

    def read(self, sample: int, shard: int, offset: int, size: int) -> bytes:
        """`size` bytes of a tar, which belong to `sample`. Raises ShardError."""
        block = sample // self.block
        with self._reader_waits():
            part = next(part for part in self._parts(block) if part.shard == shard)
            for _ in range(100):
                try:
                    with open(self.cache.path(_name(block)), "rb", buffering=0) as file:
                        return os.pread(file.fileno(), size, part.at + offset - part.start)
                except FileNotFoundError:
                    self.load(block, only_before=self.now)
        raise ShardError(
            f"{self.cache.folder}: block {block} is removed again and again before it is read; "
            "stop whatever else uses this folder, or raise data.cache_gb"
        )

    def load(self, block: int, *, only_before: int) -> bool:
        """Download a block unless it is there; see BlockCache.ensure. Raises ShardError."""
        parts = self._parts(block)
        size = sum(part.stop - part.start for part in parts)

        def download(file: BinaryIO) -> None:
            for part in parts:
                file.write(self._range(part.shard, part.start, part.stop))

        try:
            there = self.cache.ensure(
                _name(block), size, download, self.next_uses, only_before=only_before
            )
        except OSError as error:
            raise ShardError(
                f"{self.cache.folder}: a block cannot be written there ({error.strerror}); make "
                "room, or make the folder writable"
            ) from error
        if not there and only_before <= self.now:
            raise ShardError(
                f"{self.cache.folder}: found room for data.cache_gb={self.cache.limit / 1e9:g} GB, "
                f"all of it in use, and another block of {size:,} bytes is needed; raise it"
            )
        return there

    @property
    def opened_by(self) -> tuple[str, str, int, int]:
        """The arguments of `stream` that open it again."""
        cache_dir = str(self.folder.parent.parent)
        return self.remote.location, cache_dir, self.cache.limit, self.block

    def check(self) -> None:
        """Raise ShardError where the first tar cannot be read, or has another size."""
        self._range(0, 0, BLOCK)

    @property
    def total_bytes(self) -> int:
        """Of all tars."""
        return sum(shard.bytes for shard in self._shards)

    def index(self, shard: int) -> Index | ForeignIndex:
        """The index of a shard, checked, for a reader. Raises ShardError."""
        with self._reader_waits():
            return self._checked_index(shard)

    @contextmanager
    def _reader_waits(self) -> Iterator[None]:
        """Around what a reader does, and not around what is downloaded ahead."""
        self._waiting.add(threading.get_ident())
        try:
            yield
        finally:
            self._waiting.discard(threading.get_ident())

    def _checked_index(self, shard: int) -> Index | ForeignIndex:
        found = self._shards[shard]
        url = self.remote.url(found.index_file)
        return parse_index(self._index(shard), url, found, self._foreign)

    def _index(self, shard: int) -> bytes:
        name = self._shards[shard].index_file
        path = self.cache.path(name)
        while True:
            try:
                return documents.read_bytes(path, error=ShardError, remedy="remove it")
            except FileNotFoundError:
                data = b"".join(self.remote.stream(name))
                self._note_arrival()
                self.cache.ensure(
                    name,
                    len(data),
                    lambda file: _write(file, data),
                    self.next_uses,
                    only_before=self.now,
                )

    def next_uses(self, names: list[str]) -> list[int]:
        """When blocks are needed next, in windows; now, where no order says it."""
        blocks = np.array([_number(name) for name in names], np.int64)
        if self.next_windows is None:  # the oldest first
            ages = [-self.cache.made(name) for name in names]
            return [self.now + 1 + age - min(ages) for age in ages]
        uses = np.full(len(names), self.now + AHEAD + 1, np.int64)  # that of indexes
        uses[blocks >= 0] = self.next_windows(blocks[blocks >= 0], self.now)
        return uses.tolist()

    def path(self, shard: int) -> str:
        """Where tar number `shard` is, for messages."""
        return self.remote.url(self._shards[shard].file)

    def _range(self, shard: int, start: int, stop: int) -> bytes:
        found = self._shards[shard]
        data = self.remote.read(found.file, start, stop, found.bytes)
        self._note_arrival()
        return data

    def _note_arrival(self) -> None:
        """Tell the watchdog that bytes came, but only while training waits for some.

        Otherwise downloads would hide from it that training hangs for another reason.
        """
        if self._waiting:
            self.note()

    def _parts_of(self, block: int) -> tuple[_Part, ...]:
        first, last = block * self.block, min((block + 1) * self.block, int(self._first[-1]))
        parts: list[_Part] = []
        at = 0
        while first < last:
            shard = int(np.searchsorted(self._first, first, side="right")) - 1
            index, begin = self._checked_index(shard), int(self._first[shard])
            end = min(last, int(self._first[shard + 1])) - 1
            start = index.jpg[first - begin][0] - BLOCK
            offset, size = (index.json or index.jpg)[end - begin]
            stop = offset + in_blocks(size)
            parts.append(_Part(shard, start, stop, at))
            at, first = at + stop - start, end + 1
        return tuple(parts)


def stream(
    location: str, cache_dir: Path, limit: int, block: int, note: Callable[[], None] = lambda: None
) -> tuple[Manifest, StreamedTars]:
    """The manifest and the tars at a URL, through a cache of `limit` bytes. Raises ShardError."""
    url_program.refuse(location)
    if scheme_of(location) not in SCHEMES:
        raise ShardError(
            f"{masked(location)}: found a scheme that can only be copied whole, data.cache_gb "
            f"streams {', '.join(SCHEMES)}; leave data.cache_gb out"
        )
    remote, text = RemoteFolder(location), b""
    for piece in remote.stream(MANIFEST):
        text += piece
        if len(text) > documents.MOST_JSON:
            raise ShardError(
                f"{remote.url(MANIFEST)}: found more than {documents.MOST_JSON:,} bytes; check the "
                "address"
            )
    manifest = parse_manifest(text, remote.url(MANIFEST))
    place = cache_dir / cache_name(location)
    folder = disk.make_folders(place / f"{manifest.digest()[:16]}-blocks-of-{block}", cache_dir)
    return manifest, StreamedTars(remote, BlockCache(folder, limit), manifest, block, note)


def _name(block: int) -> str:
    return f"block-{block:09d}"


def _number(name: str) -> int:
    """The number of a block by its name; -1 for an index."""
    return int(name.removeprefix("block-")) if name.startswith("block-") else -1


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
