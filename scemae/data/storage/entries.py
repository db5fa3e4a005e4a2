"""The index of a shard as arrays: 40 bytes a sample, where the parsed JSON takes 400."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scemae.data.storage.manifest import ForeignIndex, Index, Shard
from scemae.data.storage.tar_headers import foreign_name, member_name

# Samples whose entries are kept in memory, of each set.
MOST_INDEXED = 2**21


@dataclass
class Entries:
    """Of each sample of a tar: key (n,) bytes; offset and size of its members (n, 2) int64.

    json: of the annotations; of a foreign tar, which has none, (0, 2). suffixes: of the images of a
    foreign tar, (n,) bytes; else None. xxh3: of the images' bytes, (n,) uint64; None where the
    index has none.
    """

    keys: np.ndarray
    jpg: np.ndarray
    json: np.ndarray
    suffixes: np.ndarray | None
    xxh3: np.ndarray | None

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


def entries_of(index: Index | ForeignIndex) -> Entries:
    """Turn a parsed index into arrays."""
    suffixes = np.array(index.suffixes, "S") if isinstance(index, ForeignIndex) else None
    xxh3 = np.array([int(one, 16) for one in index.xxh3], np.uint64) if index.xxh3 else None
    return Entries(
        np.array(index.keys, "S"), _extents(index.jpg), _extents(index.json), suffixes, xxh3
    )


def most_kept(shards: Sequence[Shard]) -> int:
    """For how many of these shards the entries are kept in memory: 8, or as MOST_INDEXED allows."""
    return max(MOST_INDEXED // max((shard.samples for shard in shards), default=1), 8)


def _text(key: bytes) -> str:
    return key.decode("ascii")


def _extents(members: list[list[int]]) -> np.ndarray:
    return np.array(members, dtype=np.int64).reshape(-1, 2)
