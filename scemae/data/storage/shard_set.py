"""Random access to the samples of a folder of shards, local or at a URL: one read per member.

Tars and their indexes are opened when a sample of theirs is read, and a bounded number of either is
kept: a set of 50,000 shards starts like one of five.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np
import xxhash

from scemae.config.locations import is_masked, masked, may_open
from scemae.data.storage import url_program
from scemae.data.storage.download import scheme_of
from scemae.data.storage.fetch import fetch
from scemae.data.storage.manifest import Annotation, Manifest, read_manifest
from scemae.data.storage.members import Members, together
from scemae.data.storage.streamed_sets import TarsOfOne, stream
from scemae.data.storage.streamed_tars import BLOCK_SAMPLES, StreamedTars
from scemae.data.storage.tar_headers import BLOCK, is_header, member_name, wrong_header
from scemae.data.storage.tars import CHECKED_AT_START, LocalTars
from scemae.errors import ShardError
from scemae.files import documents


class ShardSet:
    """All samples of one split, in manifest order. Threads may read at once; nothing is decoded."""

    def __init__(
        self, folder: Path, manifest: Manifest | None = None, tars: TarsOfOne | None = None
    ) -> None:
        """Of a folder, or of `tars` that are streamed with their `manifest`.

        Raises ShardError for the first tar or index that is missing or wrong, as far as that is
        checked at the start.
        """
        self.folder = folder
        self.manifest = manifest or read_manifest(folder)
        self.digest = self.manifest.digest()  # equal if and only if the samples are
        self.tars_digest = self.manifest.tars_digest()
        shards = self.manifest.shards
        self.opened_by = tars.opened_by if tars else None
        # of each set that it is made of, as those of its order are; None: files of a folder
        self.streams: list[StreamedTars | None] = [tars.streamed if tars else None]
        self._tars = tars or LocalTars(folder, self.manifest)
        # The first sample of each shard, as a list: bisect takes a tenth of searchsorted's time.
        self._first = list(accumulate((shard.samples for shard in shards), initial=0))
        self.keys = Keys(self)
        self._index = self._tars.index
        if not len(self):
            raise ShardError(
                f"{folder}: found no sample; build the shards again from a source with images"
            )
        self._tars.check()
        few = tars is None and len(shards) <= CHECKED_AT_START and not self.manifest.foreign
        if few and len(set(self.keys)) < len(self):
            raise ShardError(
                f"{folder}: found a key in two of its shards; rebuild them with "
                "`scemae shards build`"
            )

    def __len__(self) -> int:
        return self._first[-1]

    def __reduce__(self) -> tuple:
        """Pickled as its folder: the other process opens the files again (Ray Tune pickles it)."""
        return (_again, self.opened_by) if self.opened_by else (ShardSet, (self.folder,))

    @property
    def digests(self) -> set[str]:
        """All by which a run may know these samples: earlier versions knew the tars'."""
        return {self.digest, self.tars_digest}

    def jpeg(self, i: int) -> bytes:
        """The JPEG bytes of sample `i`, as they were in the source; a foreign tar may hold PNGs."""
        shard, row = self._find(i)
        index = self._index(shard)
        data = self._read(i, shard, index.jpg[row], index.image_name(row))
        if index.xxh3 is not None and xxhash.xxh3_64_intdigest(data) != index.xxh3[row]:
            raise ShardError(
                f"{self._tars.path(shard)}: the bytes of {index.image_name(row)} are not those "
                "of its index; run `scemae shards verify` and copy the shards again (streamed "
                f"ones: empty {self.folder} too)"
            )
        return data

    def members(self, samples: np.ndarray) -> Members:
        """Where the images of samples (b,) lie on this disk. Raises ShardError.

        Of streamed shards, the blocks that they are in are downloaded first.
        """
        shards = np.searchsorted(self._first, samples, side="right") - 1
        parts = []
        for shard in np.unique(shards).tolist():
            rows = np.flatnonzero(shards == shard)
            parts.append((rows, self._members_of(shard, samples[rows])))
        return together(len(samples), parts)

    def _members_of(self, shard: int, samples: np.ndarray) -> Members:
        """As members, of one shard."""
        index, rows = self._index(shard), samples - self._first[shard]
        offset, size = index.jpg[rows].T
        files, file, at = self._tars.files(samples, shard, offset - BLOCK)
        hashed = np.full(len(rows), index.xxh3 is not None)
        return Members(
            files,
            file,
            at,
            size + BLOCK,
            [index.image_name(row) for row in rows.tolist()],
            np.zeros(len(rows), np.uint64) if index.xxh3 is None else index.xxh3[rows],
            hashed,
            np.full(len(rows), self.manifest.foreign),
        )

    def annotation(self, i: int) -> Annotation:
        """The annotation of sample `i`; of a foreign tar its file name alone. Raises ShardError."""
        shard, row = self._find(i)
        index = self._index(shard)
        if self.manifest.foreign:
            return {"file": index.image_name(row)}
        name = member_name(index.key(row), True)
        return documents.parse_json(
            self._read(i, shard, index.json[row], name),
            Annotation,
            f"{self._tars.path(shard)}: {name}",
            error=ShardError,
            remedy="rebuild the shards with `scemae shards build`",
        )

    def key(self, i: int) -> str:
        """The key of sample `i`."""
        shard, row = self._find(i)
        return self._index(shard).key(row)

    def all_keys(self) -> Iterator[str]:
        """The keys of all samples, index after index."""
        for shard in range(len(self.manifest.shards)):
            yield from self._index(shard).all_keys()

    def _find(self, i: int) -> tuple[int, int]:
        """The shard of sample `i`, and its place there."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        shard = bisect_right(self._first, i) - 1
        return shard, i - self._first[shard]

    def _read(self, i: int, shard: int, where: np.ndarray, name: str) -> bytes:
        """The bytes of one member. They are read together with its tar header, which is checked."""
        offset, size = int(where[0]), int(where[1])
        data = self._tars.read(i, shard, offset - BLOCK, size + BLOCK)
        if len(data) != size + BLOCK:
            raise ShardError(
                f"{self._tars.path(shard)}: {name} ends after {max(len(data) - BLOCK, 0)} of "
                f"{size} bytes; the file changed while in use, re-copy it and resume"
            )
        if not is_header(data, name, size, self.manifest.foreign):
            raise ShardError(wrong_header(data, name, self._tars.path(shard)))
        return data[BLOCK:]


class Keys(Iterable[str]):
    """The keys of all samples; an index is read when a key of its shard is asked for."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, i: int) -> str:
        return self._shards.key(int(i))

    def __iter__(self) -> Iterator[str]:
        return self._shards.all_keys()


def open_shards(
    location: str,
    cache_dir: str | None = None,
    *,
    may_copy: bool = True,
    note: Callable[[], None] = lambda: None,
) -> ShardSet:
    """Open the shards at `location`: a folder, a URL (url_program.SCHEMES) or a typed pipe:COMMAND.

    Shards at a URL, or in a folder whose manifest names one, are copied into `cache_dir` once and
    read from there. may_copy: False uses only an earlier copy, where `cache_dir` comes from a file
    of another user. note: called while bytes arrive. Raises ShardError.
    """
    if not needs_cache(location):
        return ShardSet(Path(location))
    folder = _cache_of(location, cache_dir)
    return ShardSet(fetch(location, folder, may_copy=may_copy, note=note))


def needs_cache(location: str) -> bool:
    """Whether tars are read through a cache: they are at a URL, which may be one that the manifest
    in a folder names, or compressed.
    """
    if scheme_of(location) is not None:
        return True
    manifest = read_manifest(Path(location))
    is_at_url = manifest.tars is not None and scheme_of(manifest.tars) is not None
    return is_at_url or manifest.is_compressed


def stream_shards(
    locations: list[str],
    cache_dir: str | None,
    cache_gb: float,
    block: int = BLOCK_SAMPLES,
    note: Callable[[], None] = lambda: None,
) -> list[ShardSet]:
    """The shards at URLs, read in blocks of so many samples through one cache of that size.

    note: called while bytes arrive that a reader waits for. Raises ShardError.
    """
    folder = _cache_of(locations[0], cache_dir)
    found = stream(locations, folder, int(cache_gb * 1e9), block, note)
    return [ShardSet(tars.folder, manifest, tars) for manifest, tars in found]


def _cache_of(location: str, cache_dir: str | None) -> Path:
    if cache_dir is None:
        if not may_open(location) and not is_masked(location):
            url_program.refuse(location)  # a cache would not help
        raise ShardError(
            f"{masked(location)}: its tars are at a URL, or compressed, and so are read through a "
            "folder; set data.cache_dir (of evaluate and tables: cache_dir; of verify-resume: "
            "--cache-dir)"
        )
    return Path(cache_dir)


def _again(locations: list[str], cache_dir: str, cache_bytes: int, block: int) -> ShardSet:
    """A streamed set in another process."""
    ((manifest, tars),) = stream(locations, cache_dir, cache_bytes, block)
    return ShardSet(tars.folder, manifest, tars)
