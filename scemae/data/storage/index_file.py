"""Files of indexes, beside the tar or where its manifest is.

train-000000.index is a MessagePack map of columns, 26 bytes a sample where keys have nine letters;
that of a compressed tar is compressed too. The same samples give the same bytes. Shards of earlier
versions have JSON instead, train-000000.index.json, which is read, and no longer written.

An index that skips, repeats or moves a member is refused.
"""

import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scemae.data.storage.gzipped_tars import Pieces, inflated
from scemae.data.storage.index import (
    Index,
    check_layout,
    check_pieces,
    check_places,
    foreign_index,
    own_index,
)
from scemae.data.storage.manifest import INDEX_AGAIN, REBUILD, Shard, repeated_in
from scemae.errors import ShardError
from scemae.files import disk, documents
from scemae.files.documents import KEY, QUOTED_KEY, SUFFIX, Extent, Hash64, Key, QuotedKey, Suffix

# Bytes that the keys of one index may take as an array, in which each is as long as the longest.
MOST_KEYS = 2**28
GZIPPED = b"\x1f\x8b"  # an index that is compressed begins with this


def write_index(folder: Path, shard: Shard, index: Index) -> None:
    """Write the index of a shard, atomically, and note it in `shard`. Raises ShardError."""
    is_foreign = index.suffixes is not None
    columns = (
        _joined(index.keys),
        index.jpg[:, 1].astype("<u4").tobytes(),
        index.json[:, 1].astype("<u4").tobytes(),
        index.jpg[:, 0].astype("<u8").tobytes() if is_foreign else b"",
        b"" if index.suffixes is None else _joined(index.suffixes),
        b"" if index.xxh3 is None else index.xxh3.astype("<u8").tobytes(),
    )
    if index.pieces is None:
        data = documents.msgpack_bytes(_Columns(*columns))
    else:
        places = (one.astype("<u8").tobytes() for one in (index.pieces.tar, index.pieces.file))
        data = documents.msgpack_bytes(_PieceColumns(*columns, *places))
        data = gzip.compress(data, mtime=0)
    shard.packed, shard.index_sha256 = True, disk.digest(data)
    path = folder / shard.index_file
    if len(data) > documents.MOST_JSON:
        raise ShardError(
            f"{path}: {len(index):,} samples need an index of {len(data):,} bytes, at most "
            f"{documents.MOST_JSON:,} are read; put fewer samples into each tar"
        )
    disk.write_bytes(path, data)


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
    if data.startswith(GZIPPED):
        data = b"".join(inflated([data], documents.MOST_JSON, path))
    read = _of_columns if shard.packed else _of_json
    index = read(data, path, shard, foreign, remedy)
    if foreign:
        check_places(path, index, shard)
    else:
        check_layout(path, index, shard)
        check_pieces(path, index, shard)
    return index


@dataclass
class _Columns:
    """As in the file: each text ends with a line feed; sizes are uint32, other numbers uint64.

    offsets and suffixes: of the images of a foreign tar; of an own one empty.
    """

    keys: bytes
    jpg: bytes
    json: bytes
    offsets: bytes = b""
    suffixes: bytes = b""
    xxh3: bytes = b""


@dataclass
class _PieceColumns(_Columns):
    """Of a compressed tar: where its pieces begin, in the tar and in the file, uint64."""

    tar: bytes = b""
    file: bytes = b""


def _of_columns(data: bytes, path: object, shard: Shard, foreign: bool, remedy: str) -> Index:
    """The index in a file of columns. Raises ShardError."""
    found = documents.parse_msgpack(data, _PieceColumns, path, error=ShardError, remedy=remedy)
    count = shard.samples
    of_foreign = count if foreign else 0
    if (
        found.keys.count(b"\n") != count
        or len(found.jpg) != 4 * count
        or len(found.json) != (0 if foreign else 4 * count)
        or len(found.offsets) != 8 * of_foreign
        or found.suffixes.count(b"\n") != of_foreign
        or len(found.xxh3) not in (0, 8 * count)
        or len(found.tar) % 8
        or len(found.tar) != len(found.file)
    ):
        raise ShardError(
            f"{path}: its columns do not hold {count:,} samples, as the manifest says; {remedy}"
        )
    keys = _checked(found.keys, QUOTED_KEY if foreign else KEY, f"{path}: found a key", remedy)
    _refuse_repeated(keys, path, remedy)
    jpg, json = (np.frombuffer(sizes, "<u4") for sizes in (found.jpg, found.json))
    xxh3 = np.frombuffer(found.xxh3, "<u8") if found.xxh3 else None
    if not foreign:
        index = own_index(keys, np.stack([jpg, json], axis=1), xxh3)
        if shard.is_compressed:  # the index of a plain copy has them still
            index.pieces = Pieces(_places(found.tar), _places(found.file))
        return index
    suffixes = _checked(found.suffixes, SUFFIX, f"{path}: found a suffix", remedy)
    # One that is too large for int64 would become negative, and another one by later sums.
    offsets = np.minimum(np.frombuffer(found.offsets, "<u8"), shard.bytes + 1)
    return foreign_index(keys, np.stack([offsets, jpg], axis=1), suffixes, xxh3)


def _places(column: bytes) -> np.ndarray:
    """A column of places; one that is too large for int64 as the largest that is not."""
    return np.minimum(np.frombuffer(column, "<u8"), 2**62).astype(np.int64)


def _checked(texts: bytes, pattern: str, found: str, remedy: str) -> list[bytes]:
    """The texts of a column, each as the pattern says. Raises ShardError."""
    if not re.fullmatch(rf"(?:{pattern}\n)*".encode(), texts):
        raise ShardError(f"{found} that no tar of such shards has; {remedy}")
    lines = texts.split(b"\n")[:-1]
    if len(lines) * max(map(len, lines), default=0) > MOST_KEYS:
        raise ShardError(
            f"{found} far longer than the others, of {len(lines):,}; put fewer samples into each "
            "tar, or give them shorter names"
        )
    return lines


def _refuse_repeated(keys: list[bytes], path: object, remedy: str) -> None:
    if repeated := repeated_in(keys):
        raise ShardError(f"{path}: found the key {repeated.decode()!r} more than once; {remedy}")


@dataclass
class _Json:
    """The JSON in which earlier versions wrote the index of an own tar."""

    keys: list[Key] = field(default_factory=list)
    jpg: list[Extent] = field(default_factory=list)
    json: list[Extent] = field(default_factory=list)
    xxh3: list[Hash64] = field(default_factory=list)


@dataclass
class _ForeignJson:
    """The JSON in which earlier versions wrote the index of a foreign tar."""

    keys: list[QuotedKey] = field(default_factory=list)
    jpg: list[Extent] = field(default_factory=list)
    suffixes: list[Suffix] = field(default_factory=list)
    xxh3: list[Hash64] = field(default_factory=list)


def _of_json(data: bytes, path: object, shard: Shard, foreign: bool, remedy: str) -> Index:
    """The index in a JSON file of an earlier version. Raises ShardError."""
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
    keys = [key.encode() for key in found.keys]
    _refuse_repeated(keys, path, remedy)
    xxh3 = np.array([int(one, 16) for one in found.xxh3], np.uint64) if found.xxh3 else None
    if isinstance(found, _ForeignJson):
        return foreign_index(keys, found.jpg, found.suffixes, xxh3)
    jpg, json = (np.array(places, np.int64).reshape(-1, 2) for places in (found.jpg, found.json))
    return Index(np.array(keys, "S"), jpg, json, None, xxh3)


def _joined(texts: np.ndarray) -> bytes:
    return b"".join(text + b"\n" for text in texts.tolist())
