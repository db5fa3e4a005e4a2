"""The index of a tar: which samples it holds and where, so that one read gets any of them.

An own tar (`scemae shards build` wrote it) holds nothing but the JPEG and the JSON of the first
sample, then those of the second, and so on, in the order of its index. So the sizes alone determine
where each member starts. A foreign tar (others wrote it) may hold more; its index has the place and
the suffix of each image.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scemae.data.storage.gzipped_tars import Pieces
from scemae.data.storage.manifest import INDEX_AGAIN, REBUILD, Shard
from scemae.data.storage.tar_headers import BLOCK, RECORD, foreign_name, in_blocks, member_name
from scemae.errors import ShardError

LARGEST = 2**28  # bytes of one member
# Samples whose index is kept in memory, of each set.
MOST_INDEXED = 2**21


@dataclass
class Index:
    """Of each of n samples: key (n,) bytes; offset and size of its members in bytes (n, 2) int64.

    json: of the annotations; of a foreign tar, which has none, (0, 2). suffixes: of the images of a
    foreign tar, (n,) bytes; else None. xxh3: XXH3-64 of the images' bytes, (n,) uint64; None in
    indexes of earlier versions. pieces: of a tar that was compressed.
    """

    keys: np.ndarray
    jpg: np.ndarray
    json: np.ndarray
    suffixes: np.ndarray | None = None
    xxh3: np.ndarray | None = None
    pieces: Pieces | None = None

    def __len__(self) -> int:
        return len(self.keys)

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

    def samples(self, annotations: Iterable[bytes]) -> Iterator[tuple[bytes, int, bytes]]:
        """Key, hash and annotation of each sample, of which their digest is made (content.py)."""
        assert self.xxh3 is not None  # those of earlier versions were never asked
        return zip(self.keys.tolist(), self.xxh3.tolist(), annotations)


def own_index(
    keys: Sequence[str | bytes],
    sizes: Sequence[Sequence[int]] | np.ndarray,
    xxh3: Sequence[int] | np.ndarray | None = None,
) -> Index:
    """The index of an own tar whose JPEGs and annotations have these sizes (n, 2), in bytes."""
    of_members = np.array(sizes, np.int64).reshape(-1, 2)
    ends = np.cumsum(BLOCK + in_blocks(of_members.ravel()))  # each is a header and whole blocks
    starts = np.concatenate([[0], ends])[: of_members.size].reshape(-1, 2) + BLOCK
    jpg, json = np.stack([starts, of_members], axis=2).transpose(1, 0, 2)
    return Index(
        np.array(keys, "S"), jpg, json, None, None if xxh3 is None else np.array(xxh3, np.uint64)
    )


def foreign_index(
    keys: Sequence[str | bytes],
    places: Sequence[Sequence[int]] | np.ndarray,
    suffixes: Sequence[str | bytes],
    xxh3: Sequence[int] | np.ndarray | None,
) -> Index:
    """The index of a foreign tar: of each image its quoted key, offset and size, suffix, hash."""
    return Index(
        np.array(keys, "S"),
        np.array(places, np.int64).reshape(-1, 2),
        np.empty((0, 2), np.int64),
        np.array(suffixes, "S"),
        None if xxh3 is None else np.array(xxh3, np.uint64),
    )


def most_kept(shards: Sequence[Shard]) -> int:
    """How many indexes are kept in memory: those of MOST_INDEXED samples, but at least 8."""
    return max(MOST_INDEXED // max([1, *(shard.samples for shard in shards)]), 8)


def check_places(path: object, index: Index, shard: Shard) -> None:
    """Raise ShardError unless the images of a foreign tar lie in it one after the other."""
    places = index.jpg
    starts, ends = places[:, 0] - BLOCK, places.sum(axis=1)
    if (
        (places[:, 0] % BLOCK).any()
        or (starts < np.concatenate([[0], ends])[: len(starts)]).any()
        or (places[:, 1] > LARGEST).any()
        or (len(ends) and ends[-1] > shard.bytes)
    ):
        raise ShardError(
            f"{path}: does not describe {shard.samples:,} images that follow each other in a tar "
            f"of {shard.bytes:,} bytes; {INDEX_AGAIN}"
        )


def check_layout(path: object, index: Index, shard: Shard) -> None:
    """Raise ShardError unless the members of the index, one behind the other, fill an own tar."""
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
    if -(-(length + 2 * BLOCK) // RECORD) * RECORD != shard.tar_bytes:
        raise ShardError(
            f"{path}: lists members that end at byte {length:,} of a tar of {shard.tar_bytes:,}; "
            f"{REBUILD}"
        )


def check_pieces(path: object, index: Index, shard: Shard) -> None:
    """Raise ShardError unless the pieces of a compressed tar follow each other, and each begins
    with a sample.
    """
    if (pieces := index.pieces) is None:
        return
    begins = np.concatenate([[0], index.jpg[:, 0] - BLOCK])
    if not (
        len(pieces.tar)
        and pieces.tar[0] == 0
        and (np.diff(pieces.tar) > 0).all()
        and np.isin(pieces.tar, begins).all()
        and (np.diff(pieces.file) > 0).all()
        and pieces.file[-1] < shard.bytes
    ):
        raise ShardError(
            f"{path}: its pieces are not those of a compressed tar of {shard.bytes:,} bytes; "
            f"{REBUILD}"
        )


def _text(key: bytes) -> str:
    return key.decode("ascii")
