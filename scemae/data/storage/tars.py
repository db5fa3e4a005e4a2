"""Tars on a disk, opened when they are read; a bounded number of them stays open."""

import os
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scemae.data.storage.index import Index, most_kept
from scemae.data.storage.index_file import read_index
from scemae.data.storage.manifest import Manifest
from scemae.errors import FileError, ShardError
from scemae.files import disk

# Up to so many shards are all opened at the start, and their indexes read.
CHECKED_AT_START = 512


class LocalTars:
    """Ranges of bytes of tars on a disk. Threads may read at once."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self._shards, self._foreign = folder, manifest.shards, manifest.foreign
        self._tars = Path(manifest.tars or folder)
        if manifest.is_compressed:
            raise ShardError(
                f"{folder}: its tars are compressed, so they are read through a cache; set "
                "data.cache_dir"
            )
        # A file that is dropped while another thread reads it closes after that read.
        self._open = lru_cache(disk.MOST_OPEN)(self._opened)
        self._index = lru_cache(most_kept(self._shards))(self._read_index)

    def read(self, sample: int, shard: int, offset: int, size: int) -> bytes:
        """`size` bytes of tar number `shard`, which belong to `sample`; fewer where it ends before.

        Raises ShardError.
        """
        file = self._open(shard)
        try:
            return os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise ShardError(
                f"{self.path(shard)}: cannot be read ({error.strerror}); check the disk and resume"
            ) from error

    def files(
        self, samples: np.ndarray, shard: int, offsets: np.ndarray
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Where the bytes at `offsets` (b,) of tar number `shard` lie on this disk.

        They belong to `samples` (b,). Returns paths, and for each offset the number of its path and
        its offset in that file, (b,) int64 each.
        """
        return [str(self.path(shard))], np.zeros(len(samples), np.int64), offsets

    def index(self, shard: int) -> Index:
        """The index of a shard, checked. Raises ShardError."""
        return self._index(shard)

    def _read_index(self, shard: int) -> Index:
        return read_index(self.folder, self._shards[shard], self._foreign)

    def check(self) -> None:
        """Raise ShardError for the first tar that is missing or has another size.

        Of more than CHECKED_AT_START, only the names are compared with one listing of the folder.
        """
        if len(self._shards) <= CHECKED_AT_START:
            for number in range(len(self._shards)):
                self._open(number)
            return
        there = {folder: _names(folder) for folder in (self.folder, self._tars)}
        for shard in self._shards:
            for folder, name in ((self._tars, shard.file), (self.folder, shard.index_file)):
                if name not in there[folder]:
                    raise ShardError(
                        f"{folder / name}: missing, the manifest lists it; re-copy the folder, or "
                        "rebuild it with `scemae shards build`"
                    )

    def path(self, shard: int) -> Path:
        """Where tar number `shard` is, for messages."""
        return self._tars / self._shards[shard].file

    def _opened(self, shard: int) -> BinaryIO:
        path, needed = self.path(shard), self._shards[shard].bytes
        try:
            file = disk.open_regular(path)
        except FileError as error:
            raise ShardError(str(error)) from error
        except OSError as error:
            raise ShardError(
                f"{path}: cannot be opened ({error.strerror}), the manifest lists it; re-copy the "
                "folder, or rebuild it with `scemae shards build`"
            ) from error
        found = os.fstat(file.fileno()).st_size
        if found != needed:
            file.close()
            raise ShardError(
                f"{path}: found {found:,} bytes, the manifest says {needed:,}; re-copy it, or "
                "rebuild it with `scemae shards build`"
            )
        return file


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise ShardError(
            f"{folder}: cannot be listed ({error.strerror}), and tars of the manifest lie there"
        ) from error
