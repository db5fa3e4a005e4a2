"""Random access to samples of a folder of shards, local or behind a URL: one positioned read per sample."""

import fcntl
import json
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np

from scemae.data.manifest import MANIFEST, Index, Manifest, read_index, read_manifest
from scemae.errors import ShardError


class ShardSet:
    """All samples of one split, in manifest order. Reads are thread-safe (pread) and decode nothing."""

    def __init__(self, folder: Path) -> None:
        """Open every tar of `folder` and check its size. Raises ShardError naming the first that is wrong."""
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self.keys: list[str] = []
        indexes: list[Index] = []
        self._files: list[int] = []
        for shard in self.manifest.shards:
            self._files.append(_open_checked(folder / shard.file, shard.bytes))
            indexes.append(read_index(folder, shard))
            self.keys += indexes[-1].keys
        if not self.keys:
            raise ShardError(f"{folder}: found no sample at all; build the shards again from a source with images")
        self._shard = np.repeat(np.arange(len(indexes)), [len(index.keys) for index in indexes])
        self._jpg = np.concatenate([np.array(index.jpg, dtype=np.int64).reshape(-1, 2) for index in indexes])
        self._json = np.concatenate([np.array(index.json, dtype=np.int64).reshape(-1, 2) for index in indexes])

    def __len__(self) -> int:
        return len(self.keys)

    def jpeg(self, i: int) -> bytes:
        """The JPEG bytes of sample `i`, as they were in the source."""
        return self._read(i, self._jpg[i])

    def annotation(self, i: int) -> dict:
        """The annotation of sample `i`: `file`, and where known `landmarks`, `identity`, `box`."""
        return json.loads(self._read(i, self._json[i]))

    def _read(self, i: int, where: np.ndarray) -> bytes:
        offset, size = int(where[0]), int(where[1])
        data = os.pread(self._files[self._shard[i]], size, offset)
        if len(data) != size:
            shard = self.manifest.shards[self._shard[i]].file
            raise ShardError(f"{self.folder / shard}: {self.keys[i]} ends after {len(data)} of {size} bytes; "
                             "the file changed while in use, re-copy it and resume")
        return data

    def __del__(self) -> None:
        for file in getattr(self, "_files", []):
            os.close(file)


def open_shards(location: str, cache_dir: str | None = None) -> ShardSet:
    """Open the shards at `location`: a folder, or a URL of one that webdataset can open (http:, s3:, pipe:, ...).

    What a URL names is copied into `cache_dir` once and read from there. Raises ShardError.
    """
    if "://" not in location and not location.startswith("pipe:"):
        return ShardSet(Path(location))
    if cache_dir is None:
        raise ShardError(f"{location}: a URL needs a folder to copy the shards into; set data.cache_dir")
    return ShardSet(fetch(location, Path(cache_dir)))


def fetch(url: str, cache_dir: Path) -> Path:
    """Copy manifest, indexes and tars below `url` into `cache_dir` through webdataset's opener; return the folder.

    A file that is already there in the right size is kept; each arrives under its name only when whole.
    """
    folder = cache_dir / quote(url.rstrip("/"), safe="")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one rank of a node copies, the others wait and find it done
        _copy(f"{url.rstrip('/')}/{MANIFEST}", folder / MANIFEST)
        for shard in read_manifest(folder).shards:
            for name, size in ((shard.index_file, None), (shard.file, shard.bytes)):
                here = folder / name
                if not here.exists() or (size is not None and here.stat().st_size != size):
                    _copy(f"{url.rstrip('/')}/{name}", here)
    return folder


def _copy(url: str, path: Path) -> None:
    from webdataset.gopen import gopen  # imports slowly, and only URLs need it

    aside = path.with_name(path.name + f".partial-{os.getpid()}")
    try:
        with gopen(url) as source, open(aside, "wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
    except (OSError, ValueError) as error:
        aside.unlink(missing_ok=True)
        raise ShardError(f"{url}: cannot be read ({error}); check the address and your access to it") from error
    os.replace(aside, path)


def _open_checked(path: Path, needed: int) -> int:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ShardError(f"{path}: cannot be opened ({error.strerror}), the manifest lists it; re-copy the folder, "
                         "or rebuild it with `scemae shards build`") from error
    found = os.fstat(file).st_size
    if found != needed:
        os.close(file)
        raise ShardError(f"{path}: found {found:,} bytes, the manifest says {needed:,}; re-copy it, or rebuild it "
                         "with `scemae shards build`")
    return file
