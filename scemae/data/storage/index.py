"""The index of a tar: which samples it holds and where, so that one read gets any of them.

train-000000.index beside train-000000.tar is a MessagePack map of columns, compressed by zlib: 13
bytes a sample on a disk, 40 in memory as arrays. Shards of earlier versions have the same as JSON,
train-000000.index.json, five times as large.

An own tar holds nothing but the JPEG and the JSON of the first sample, then those of the second,
and so on, in the order of its index. So the sizes alone determine where each member starts, and an
index that skips, repeats or moves one is refused. Of a foreign tar, which may hold more, the index
has the place and the suffix of each image.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scemae.data.storage.manifest import INDEX_AGAIN, REBUILD, Shard, repeated_in
from scemae.data.storage.tar_headers import BLOCK, RECORD, foreign_name, in_blocks, member_name
from scemae.errors import ShardError
from scemae.files import disk, documents
from scemae.files.documents import Extent, Hash64, Key, QuotedKey, Suffix

LARGEST = 2**28  # bytes of one member
# Samples whose index is kept in memory, of each set.
MOST_INDEXED = 2**21
KEYS = re.compile(rb"([A-Za-z0-9_.-]{1,95}\n)*")
QUOTED_KEYS = re.compile(rb"([A-Za-z0-9_.~%-]{1,3000}\n)*")  # other characters are %XX
SUFFIXES = re.compile(rb"([A-Za-z0-9]{1,8}\n)*")


@dataclass
class Index:
    """Of each of n samples: key (n,) bytes; offset and size of its members in bytes (n, 2) int64.

    json: of the annotations; of a foreign tar, which has none, (0, 2). suffixes: of the images of a
    foreign tar, (n,) bytes; else None. xxh3: XXH3-64 of the images' bytes, (n,) uint64; None in
    indexes of earlier versions.
    """

    keys: np.ndarray
    jpg: np.ndarray
    json: np.ndarray
    suffixes: np.ndarray | None = None
    xxh3: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def samples(self, annotations: Iterable[bytes]) -> Iterator[tuple[bytes, int, bytes]]:
        """Key, hash and annotation of each sample, of which their digest is made (content.py)."""
        hashes = [] if self.xxh3 is None else self.xxh3.tolist()
        return zip(self.keys.tolist(), hashes, annotations)

    def key(self, row: int) -> str:
        """The key of a sample."""
        return _text(self.keys[row])

    def all_keys(self) -> list[str]:
        """The keys of all samples."""
        return [_text(key) for key in self.keys.tolist()]

    def image_name(self, row: int) -> str:
        """The name of an image in its tar."""
        if self.suffixes is None:
            return member_name(self.key(row), False)
        return foreign_name(self.key(row), _text(self.suffixes[row]))


def own_index(
    keys: Sequence[str], jpg: Sequence[int], json: Sequence[int], xxh3: Sequence[int] | None = None
) -> Index:
    """The index of an own tar: keys, sizes of its JPEGs and annotations in bytes, hashes."""
    hashes = None if xxh3 is None else np.array(xxh3, np.uint64)
    sizes = np.stack([np.array(jpg, np.int64), np.array(json, np.int64)], axis=1)
    return _own(np.array(keys, "S"), sizes, hashes)


def foreign_index(
    keys: Sequence[str],
    places: Sequence[tuple[int, int]],
    suffixes: Sequence[str],
    xxh3: Sequence[int],
) -> Index:
    """The index of a foreign tar: of each image its quoted key, offset and size, suffix, hash."""
    return Index(
        np.array(keys, "S"),
        np.array(places, np.int64).reshape(-1, 2),
        np.empty((0, 2), np.int64),
        np.array(suffixes, "S"),
        np.array(xxh3, np.uint64),
    )


def write_index(folder: Path, shard: Shard, index: Index) -> None:
    """Write the index of a shard, atomically, and note it in `shard`."""
    data = documents.packed(
        _Columns(
            _joined(index.keys),
            index.jpg[:, 1].astype("<u4").tobytes(),
            index.json[:, 1].astype("<u4").tobytes(),
            b"" if index.suffixes is None else index.jpg[:, 0].astype("<u8").tobytes(),
            b"" if index.suffixes is None else _joined(index.suffixes),
            b"" if index.xxh3 is None else index.xxh3.astype("<u8").tobytes(),
        )
    )
    shard.packed, shard.index_sha256 = True, disk.digest(data)
    disk.write_bytes(folder / shard.index_file, data)


def read_index(folder: Path, shard: Shard, foreign: bool = False) -> Index:
    """Read the index of one shard and check it against the manifest. Raises ShardError."""
    path = folder / shard.index_file
    return parse_index(read_index_bytes(path), path, shard, foreign)


def read_index_bytes(path: Path) -> bytes:
    """The content of an index on a disk. Raises ShardError."""
    try:
        return documents.read_bytes(path, error=ShardError, remedy=REBUILD)
    except FileNotFoundError as error:
        raise ShardError(
            f"{path}: missing, the manifest lists it; re-copy the folder or rebuild it "
            "with `scemae shards build`"
        ) from error


def parse_index(data: bytes, path: object, shard: Shard, foreign: bool = False) -> Index:
    """The index of one shard, checked against the manifest. Raises ShardError."""
    if disk.digest(data) != shard.index_sha256:
        raise ShardError(
            f"{path}: its SHA-256 is not the manifest's; re-copy it or run `scemae shards verify`"
        )
    remedy = INDEX_AGAIN if foreign else REBUILD
    if shard.packed:
        columns = documents.parse_packed(data, _Columns, path, error=ShardError, remedy=remedy)
        index = _of_columns(columns, path, shard, foreign, remedy)
    else:
        index = _of_json(data, path, shard, foreign, remedy)
    if foreign:
        _check_places(path, index, shard)
    else:
        check_layout(path, index, shard)
    return index


def most_kept(shards: Sequence[Shard]) -> int:
    """For how many of these shards the index is kept in memory: 8, or as MOST_INDEXED allows."""
    return max(MOST_INDEXED // max((shard.samples for shard in shards), default=1), 8)


@dataclass
class _Columns:
    """As in the file: texts end with a line feed; sizes are uint32, the rest uint64.

    offsets and suffixes: of the images of a foreign tar; of an own one empty.
    """

    keys: bytes
    jpg: bytes
    json: bytes
    offsets: bytes = b""
    suffixes: bytes = b""
    xxh3: bytes = b""


def _of_columns(found: _Columns, path: object, shard: Shard, foreign: bool, remedy: str) -> Index:
    """The arrays of columns whose lengths are right. Raises ShardError."""
    count = shard.samples
    of_foreign = 8 * count if foreign else 0
    if (
        found.keys.count(b"\n") != count
        or len(found.jpg) != 4 * count
        or len(found.json) != (0 if foreign else 4 * count)
        or len(found.offsets) != of_foreign
        or found.suffixes.count(b"\n") != of_foreign // 8
        or len(found.xxh3) not in (0, 8 * count)
    ):
        raise ShardError(
            f"{path}: its columns do not hold {count:,} samples, as the manifest says; {remedy}"
        )
    if not (QUOTED_KEYS if foreign else KEYS).fullmatch(found.keys):
        raise ShardError(f"{path}: found a key that no tar of such shards has; {remedy}")
    keys = _split(found.keys)
    if repeated := repeated_in(keys):
        raise ShardError(f"{path}: found the key {_text(repeated)!r} more than once; {remedy}")
    jpg, json = (np.frombuffer(sizes, "<u4").astype(np.int64) for sizes in (found.jpg, found.json))
    xxh3 = np.frombuffer(found.xxh3, "<u8").astype(np.uint64) if found.xxh3 else None
    if not foreign:
        return _own(np.array(keys, "S"), np.stack([jpg, json], axis=1), xxh3)
    if not SUFFIXES.fullmatch(found.suffixes):
        raise ShardError(f"{path}: found a suffix that no image has; {remedy}")
    offsets = np.frombuffer(found.offsets, "<u8").astype(np.int64)
    return Index(
        np.array(keys, "S"),
        np.stack([offsets, jpg], axis=1),
        np.empty((0, 2), np.int64),
        np.array(_split(found.suffixes), "S"),
        xxh3,
    )


def _own(keys: np.ndarray, sizes: np.ndarray, xxh3: np.ndarray | None) -> Index:
    """Of an own tar with members of these sizes (n, 2): each is a header and whole blocks."""
    ends = np.cumsum(BLOCK + in_blocks(sizes.ravel()))
    starts = np.concatenate([[0], ends])[: sizes.size].reshape(-1, 2) + BLOCK
    jpg, json = np.stack([starts, sizes], axis=2).transpose(1, 0, 2).astype(np.int64)
    return Index(keys, jpg, json, None, xxh3)


@dataclass
class _Json:
    """The index of an own tar in earlier versions."""

    keys: list[Key] = field(default_factory=list)
    jpg: list[Extent] = field(default_factory=list)
    json: list[Extent] = field(default_factory=list)
    xxh3: list[Hash64] = field(default_factory=list)


@dataclass
class _ForeignJson:
    """The index of a foreign tar in earlier versions."""

    keys: list[QuotedKey] = field(default_factory=list)
    jpg: list[Extent] = field(default_factory=list)
    suffixes: list[Suffix] = field(default_factory=list)
    xxh3: list[Hash64] = field(default_factory=list)


def _of_json(data: bytes, path: object, shard: Shard, foreign: bool, remedy: str) -> Index:
    """As _of_columns, of shards of earlier versions."""
    found: _Json | _ForeignJson = (
        documents.parse_json(data, _ForeignJson, path, error=ShardError, remedy=remedy)
        if foreign
        else documents.parse_json(data, _Json, path, error=ShardError, remedy=remedy)
    )
    others = found.json if isinstance(found, _Json) else found.suffixes
    hashes = len(found.xxh3) or shard.samples
    if not len(found.keys) == len(found.jpg) == len(others) == hashes == shard.samples:
        raise ShardError(
            f"{path}: lists {len(found.keys):,} samples, {len(found.jpg):,} images and "
            f"{len(others):,} {'suffixes' if foreign else 'annotations'}, the manifest says "
            f"{shard.samples:,} of each; {remedy}"
        )
    if repeated := repeated_in(found.keys):
        raise ShardError(f"{path}: found the key {repeated!r} more than once; {remedy}")
    xxh3 = np.array([int(one, 16) for one in found.xxh3], np.uint64) if found.xxh3 else None
    keys, jpg = np.array(found.keys, "S"), _extents(found.jpg)
    if isinstance(found, _Json):
        return Index(keys, jpg, _extents(found.json), None, xxh3)
    return Index(keys, jpg, _extents([]), np.array(found.suffixes, "S"), xxh3)


def _check_places(path: object, index: Index, shard: Shard) -> None:
    """Raise ShardError unless the images of a foreign tar lie in it one after the other."""
    places = index.jpg
    starts, ends = places[:, 0] - BLOCK, places.sum(axis=1)
    if (
        (places[:, 0] % BLOCK).any()
        or (starts < np.concatenate([[0], ends])[: len(starts)]).any()
        or (places[:, 0] > shard.bytes).any()
        or (places[:, 1] > LARGEST).any()
        or (len(ends) and ends[-1] > shard.bytes)
    ):
        raise ShardError(
            f"{path}: does not describe {shard.samples:,} images that follow each other in a tar "
            f"of {shard.bytes:,} bytes; {INDEX_AGAIN}"
        )


def check_layout(path: object, index: Index, shard: Shard) -> None:
    """Raise ShardError unless the members in the index fill the tar, one after the other."""
    # Offset and size of each member, in the tar's order.
    members = np.stack([index.jpg, index.json], axis=1).reshape(-1, 2)
    if len(members) and members[:, 1].max() > LARGEST:
        raise ShardError(
            f"{path}: found a member of {members[:, 1].max():,} bytes, at most {LARGEST:,} were "
            f"expected; {REBUILD}"
        )
    ends = np.cumsum(BLOCK + in_blocks(members[:, 1]))
    needed = np.concatenate([[0], ends])[:-1] + BLOCK
    if len(wrong := np.flatnonzero(members[:, 0] != needed)):
        row = int(wrong[0])
        raise ShardError(
            f"{path}: says that {member_name(index.key(row // 2), row % 2)} begins at byte "
            f"{members[row, 0]:,} of the tar, the members before it end at byte {needed[row]:,}; "
            f"{REBUILD}"
        )
    length = int(ends[-1]) if len(ends) else 0
    if -(-(length + 2 * BLOCK) // RECORD) * RECORD != shard.bytes:
        raise ShardError(
            f"{path}: lists members that end at byte {length:,} of a tar of {shard.bytes:,}; "
            f"{REBUILD}"
        )


def _joined(texts: np.ndarray) -> bytes:
    return b"".join(text + b"\n" for text in texts.tolist())


def _split(texts: bytes) -> list[bytes]:
    return texts.split(b"\n")[:-1]


def _text(key: bytes) -> str:
    return key.decode("ascii")


def _extents(members: list[list[int]]) -> np.ndarray:
    return np.array(members, dtype=np.int64).reshape(-1, 2)
