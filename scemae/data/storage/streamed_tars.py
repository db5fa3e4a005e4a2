"""Tars below a URL, read block by block through a cache on a local disk that may be smaller.

A block (blocks.py) is one range request for each tar, made ahead of training (data/read_ahead.py),
and one file of the cache; of a subset as many requests as there are gaps of more than GAP. An index
is a file of the cache too.

Sets that are appended to each other are one set here, whose blocks go on from one to the next.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import numpy as np

from scemae.data.storage.block_cache import BlockCache
from scemae.data.storage.blocks import BLOCKS, Blocks, Part
from scemae.data.storage.gzipped_tars import Pieces, part_of
from scemae.data.storage.index import Index, most_kept
from scemae.data.storage.index_file import parse_index, read_index_bytes
from scemae.data.storage.manifest import Manifest
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.data.storage.tar_headers import BLOCK
from scemae.errors import ShardError
from scemae.files import documents

BLOCK_SAMPLES = 256  # samples of a block where no order says it
INDEX = "index-"  # the names of indexes in the cache begin with this
MOST_LOADS = 100  # downloads of a block that was removed each time before it could be read
T = TypeVar("T")
NextWindows = Callable[[np.ndarray, int], np.ndarray]


class _Waiting(set[int]):
    """The threads that read now, and may wait for a download; not those that download ahead.

    A thread is in it inside of `with`. Not @contextmanager, which takes as long as the read itself.
    """

    def __enter__(self) -> None:
        self.add(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        self.discard(threading.get_ident())


@dataclass(frozen=True)
class Source:
    """A folder of tars below a URL, and where its manifest and indexes are."""

    location: str
    manifest: Manifest
    indexes: RemoteFolder | Path
    remote: RemoteFolder


class StreamedTars:
    """As tars.LocalTars, for tars below URLs."""

    def __init__(
        self,
        sources: list[Source],
        cache: BlockCache,
        block: int,
        note: Callable[[], None] = lambda: None,
    ) -> None:
        """block: samples of a block. note: called when bytes arrive while a reader waits."""
        self.cache, self.block, self.note = cache, block, note
        self.folder, self._sources = cache.folder, sources
        self._shards = [shard for source in sources for shard in source.manifest.shards]
        counts = [len(source.manifest.shards) for source in sources]
        self._source = np.repeat(np.arange(len(sources)), counts)  # of each shard
        # The window that is trained on, and when blocks are needed next (Line.next_windows);
        # None: in no known order.
        self.now, self.next_windows = 0, cast(NextWindows | None, None)
        self.ahead = 1  # windows that are downloaded before they are read
        self._waiting = _Waiting()
        self._index = lru_cache(most_kept(self._shards))(self._read_index)
        self._blocks = Blocks(self._shards, block, self._index)

    def only(self, chosen: np.ndarray) -> None:
        """From now on only these samples (n,) are read; blocks are counted over them."""
        self._blocks.only(chosen)

    def read(self, sample: int, shard: int, offset: int, size: int) -> bytes:
        """`size` bytes of a tar, which belong to `sample`. Raises ShardError."""
        number = self._blocks.number(sample)
        with self._waiting:
            block = self._blocks.of(number)
            part = next(part for part in block.parts if part.has(shard, offset))
            for _ in range(MOST_LOADS):
                data = self.cache.read(block.name, size, part.at + offset - part.start)
                if len(data) == size:
                    return data
                self.load(number, only_before=self.now)
        raise ShardError(
            f"{self.cache.folder}: {block.name} is removed again and again before it is read; "
            "stop whatever else uses this folder, or raise data.cache_gb"
        )

    def files(
        self, samples: np.ndarray, shard: int, offsets: np.ndarray
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """As LocalTars.files, in files of blocks, which are downloaded first. Raises ShardError."""
        blocks, file = np.unique(self._blocks.numbers(samples), return_inverse=True)
        files, at = [], np.zeros(len(samples), np.int64)
        for number in blocks.tolist():
            with self._waiting:
                block = self._blocks.of(number)  # may download the index of the next tar
                self.load(number, only_before=self.now)
            files.append(str(self.cache.path(block.name)))
            for part in block.parts:
                if part.shard == shard:
                    inside = (part.start <= offsets) & (offsets < part.stop)
                    at[inside] = offsets[inside] - part.start + part.at
        return files, file, at

    def load(self, number: int, *, only_before: int) -> bool:
        """Download a block unless it is there; see BlockCache.ensure. Raises ShardError."""
        block = self._blocks.of(number)

        def download(file: BinaryIO) -> None:
            for part in block.parts:
                self._copy(part, file)

        try:
            there = self.cache.ensure(
                block.name,
                block.bytes,
                download,
                self.next_uses,
                only_before=only_before,
                waiting=self._note_arrival,
            )
        except OSError as error:
            raise self._unwritable(error) from error
        if not there and only_before <= self.now:
            raise ShardError(
                f"{self.cache.folder}: found room for data.cache_gb={self.cache.limit / 1e9:g} GB, "
                f"all of it in use, and another block of {block.bytes:,} bytes is needed; raise it"
            )
        return there

    def check(self, shard: int = 0) -> None:
        """Raise ShardError where a tar cannot be read, or has another size."""
        self._read(shard, 0, min(BLOCK, self._shards[shard].bytes), b"".join)

    @property
    def total_bytes(self) -> int:
        """Of all blocks."""
        return self._blocks.total_bytes

    @property
    def fetched_bytes(self) -> int:
        """That come for all blocks, of compressed tars fewer than they have."""
        files = sum(shard.bytes for shard in self._shards)
        return self.total_bytes * files // sum(shard.tar_bytes for shard in self._shards)

    def index(self, shard: int) -> Index:
        """The index of a shard, checked, for a reader. Raises ShardError."""
        with self._waiting:
            return self._index(shard)

    def _read_index(self, shard: int) -> Index:
        found, source = self._shards[shard], self._source_of(shard)
        name, place = found.index_file, source.indexes
        path = str(place / name) if isinstance(place, Path) else place.url(name)
        return parse_index(self._index_bytes(shard), path, found, source.manifest.foreign)

    def _source_of(self, shard: int) -> Source:
        return self._sources[self._source[shard]]

    def _index_bytes(self, shard: int) -> bytes:
        indexes, file = self._source_of(shard).indexes, self._shards[shard].index_file
        if isinstance(indexes, Path):
            return read_index_bytes(indexes / file)
        # The digest is in the name: the same tars may get another index, from another version say.
        name = f"{INDEX}{shard:07d}-{self._shards[shard].index_sha256[:12]}"
        while True:
            try:
                path = self.cache.path(name)
                return documents.read_bytes(path, error=ShardError, remedy="remove it")
            except FileNotFoundError:
                data, _ = indexes.newer(file, None, documents.MOST_JSON) or (b"", None)
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
        uses = np.empty(len(names), np.int64)
        uses[blocks >= 0] = self.next_windows(blocks[blocks >= 0], self.now)
        found = [name.removeprefix(INDEX) for name in names if name.startswith(INDEX)]
        shards = [int(name.partition("-")[0]) for name in found]
        uses[blocks < 0] = self._index_uses(np.array(shards, np.int64))
        return uses.tolist()

    def _index_uses(self, shards: np.ndarray) -> np.ndarray:
        """When indexes are needed next, as their first blocks are.

        But after all blocks that are downloaded now: an index is small, and soon there again. That
        of a shard without a sample of the subset is never needed.
        """
        begin, count = self._blocks.of_shards(shards)
        uses, read = np.full(len(shards), np.iinfo(np.int64).max), count > 0
        if not read.any():
            return uses
        begin, count = begin[read], count[read]
        starts = np.cumsum(count) - count
        blocks = np.arange(count.sum()) + np.repeat(begin - starts, count)
        windows = cast(NextWindows, self.next_windows)(blocks, self.now)
        uses[read] = np.maximum(np.minimum.reduceat(windows, starts), self.now + self.ahead + 1)
        return uses

    def path(self, shard: int) -> str:
        """Where tar number `shard` is, for messages."""
        return self._source_of(shard).remote.url(self._shards[shard].file)

    def _copy(self, part: Part, file: BinaryIO) -> None:
        """Write a part of a tar, which may be compressed, into the file of its block."""
        start, stop, shard = part.start, part.stop, self._shards[part.shard]
        begin = start
        if shard.is_compressed:
            pieces = cast(Pieces, self._index(part.shard).pieces)
            start, stop, begin = pieces.range(start, stop, shard.bytes)

        def write(piece: bytes, at: int) -> None:
            try:
                file.seek(at)
                file.write(piece)
            except OSError as error:  # else it would be taken for one of the network
                raise self._unwritable(error) from error

        def use(came: Iterator[bytes]) -> None:
            if shard.is_compressed:
                size = part.stop - part.start
                came = part_of(came, part.start - begin, size, self.path(part.shard))
            at = part.at
            for piece in came:
                write(piece, at)
                at += len(piece)

        self._read(part.shard, start, stop, use)

    def _unwritable(self, error: OSError) -> ShardError:
        return ShardError(
            f"{self.cache.folder}: a block cannot be written there ({error.strerror}); make room, "
            "or make the folder writable"
        )

    def _read(self, shard: int, start: int, stop: int, use: Callable[[Iterator[bytes]], T]) -> T:
        """Pass bytes start..stop-1 of a shard's file to `use`, in pieces; returns its result."""
        found, remote = self._shards[shard], self._source_of(shard).remote
        return remote.read(found.file, start, stop, found.bytes, use, self._note_arrival)

    def _note_arrival(self) -> None:
        """Tell the watchdog that bytes came, or are coming to another process of the node, but only
        while training waits for some.

        Otherwise downloads would hide from it that training hangs for another reason.
        """
        if self._waiting:
            self.note()


def _number(name: str) -> int:
    """The number of a block by its name; -1 for an index."""
    return int(name.removeprefix(BLOCKS)) if name.startswith(BLOCKS) else -1


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
