"""Random access to the samples of a folder of shards, local or at a URL: one read per member."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scemae.config.locations import is_masked, masked, may_open
from scemae.data.storage import url_program
from scemae.data.storage.fetch import fetch, scheme_of
from scemae.data.storage.manifest import (
    BLOCK,
    Annotation,
    Index,
    Manifest,
    is_header,
    member_name,
    read_index,
    read_manifest,
    wrong_header,
)
from scemae.errors import FileError, ShardError
from scemae.files import disk, documents


class ShardSet:
    """All samples of one split, in manifest order. Threads may read at once; nothing is decoded."""

    def __init__(self, folder: Path) -> None:
        """Open every tar, check its size and its index. Raises ShardError for the first bad one."""
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self._paths = [folder / shard.file for shard in self.manifest.shards]
        self.keys: list[str] = []
        indexes: list[Index] = []
        self._files: list[BinaryIO] = []
        for shard, path in zip(self.manifest.shards, self._paths):
            self._files.append(_open_checked(path, shard.bytes))
            indexes.append(read_index(folder, shard))
            self.keys += indexes[-1].keys
        if not self.keys:
            raise ShardError(
                f"{folder}: found no sample; build the shards again from a source with images"
            )
        if len(set(self.keys)) < len(self.keys):
            raise ShardError(
                f"{folder}: found a key in two of its shards; rebuild them with "
                "`scemae shards build`"
            )
        self._shard = np.repeat(np.arange(len(indexes)), [len(index.keys) for index in indexes])
        self._jpg = _extents([index.jpg for index in indexes])
        self._json = _extents([index.json for index in indexes])

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple:
        """Pickled as its folder: the other process opens the files again (Ray Tune pickles it)."""
        return ShardSet, (self.folder,)

    def jpeg(self, i: int) -> bytes:
        """The JPEG bytes of sample `i`, as they were in the source."""
        return self._read(i, self._jpg[i], member_name(self.keys[i], False))

    def annotation(self, i: int) -> Annotation:
        """The annotation of sample `i`. Raises ShardError."""
        name = member_name(self.keys[i], True)
        return documents.parse_json(
            self._read(i, self._json[i], name),
            Annotation,
            f"{self._path(i)}: {name}",
            error=ShardError,
            remedy="rebuild the shards with `scemae shards build`",
        )

    def _read(self, i: int, where: np.ndarray, name: str) -> bytes:
        """The bytes of one member. They are read together with its tar header, which is checked."""
        offset, size = int(where[0]), int(where[1])
        data = os.pread(self._files[self._shard[i]].fileno(), size + BLOCK, offset - BLOCK)
        if len(data) != size + BLOCK:
            raise ShardError(
                f"{self._path(i)}: {self.keys[i]} ends after {max(len(data) - BLOCK, 0)} of {size} "
                "bytes; the file changed while in use, re-copy it and resume"
            )
        if not is_header(data, name, size):
            raise ShardError(wrong_header(data, name, self._path(i)))
        return data[BLOCK:]

    def _path(self, i: int) -> Path:
        return self._paths[self._shard[i]]


def open_shards(location: str, cache_dir: str | None = None, *, may_copy: bool = True) -> ShardSet:
    """Open the shards at `location`: a folder, a URL (url_program.SCHEMES) or a typed pipe:COMMAND.

    Shards at a URL are copied into `cache_dir` once and read from there. may_copy: False uses only
    an earlier copy, where `cache_dir` comes from a file of another user. Raises ShardError.
    """
    if scheme_of(location) is None:
        return ShardSet(Path(location))
    if cache_dir is None:
        if not may_open(location) and not is_masked(location):
            url_program.refuse(location)  # a cache would not help
        raise ShardError(
            f"{masked(location)}: a URL needs a folder to copy the shards into; set data.cache_dir"
        )
    return ShardSet(fetch(location, Path(cache_dir), may_copy=may_copy))


def _extents(lists: list[list[list[int]]]) -> np.ndarray:
    """Offset and size (n, 2) int64 of the members of all shards."""
    return np.concatenate([np.array(part, dtype=np.int64).reshape(-1, 2) for part in lists])


def _open_checked(path: Path, needed: int) -> BinaryIO:
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
            f"{path}: found {found:,} bytes, the manifest says {needed:,}; re-copy it, or rebuild "
            "it with `scemae shards build`"
        )
    return file
