"""Which bytes of which tars a block of streamed shards is: arithmetic, nothing is read here.

A block is the V = data.block samples kV .. (k+1)V - 1, counted over all shards, or over a subset:
neighbours in a tar, or at the end of one and the start of the next. Each of its parts is one range
of a tar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from scemae.data.storage.gzipped_tars import PIECE
from scemae.data.storage.index import Index
from scemae.data.storage.manifest import Shard
from scemae.data.storage.tar_headers import BLOCK, in_blocks

BLOCKS = "block-"  # the names of their files begin with this
GAP = 32 * 1024  # bytes that nobody needs and that are read, to save a request
MEASURED = 16  # blocks of a subset whose size is looked up, to know that of all


@dataclass(frozen=True)
class Part:
    """A range of bytes of a tar, and where it lies in the file of its block."""

    shard: int
    start: int
    stop: int
    at: int

    def has(self, shard: int, offset: int) -> bool:
        """Whether a byte of a tar is in it."""
        return self.shard == shard and self.start <= offset < self.stop


@dataclass(frozen=True)
class Block:
    """A block: the name of its file, and the parts that it has, one after the other."""

    name: str
    parts: tuple[Part, ...]

    @cached_property
    def bytes(self) -> int:
        """Of its file."""
        return sum(part.stop - part.start for part in self.parts)


class Blocks:
    """The blocks of `size` samples of some shards. Threads may ask at once."""

    def __init__(self, shards: Sequence[Shard], size: int, index: Callable[[int], Index]) -> None:
        """index: that of a shard, by its number; it may be downloaded for that."""
        self.size, self._shards, self._index = size, shards, index
        self._first = np.cumsum([0, *(shard.samples for shard in shards)])
        self._chosen: np.ndarray | None = None  # the samples (n,) of a subset, ascending
        self.of = lru_cache(4096)(self._of)

    def only(self, chosen: np.ndarray) -> None:
        """From now on count over these samples (n,) alone, ascending."""
        self._chosen = chosen
        self.of.cache_clear()

    def numbers(self, samples: np.ndarray) -> np.ndarray:
        """The numbers of the blocks that samples (b,) are in, (b,)."""
        if self._chosen is not None:
            samples = np.searchsorted(self._chosen, samples)
        return samples // self.size

    def number(self, sample: int) -> int:
        """As `numbers`, of one."""
        if self._chosen is not None:
            sample = int(np.searchsorted(self._chosen, sample))
        return sample // self.size

    def of_shards(self, shards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each of some shards (n,) its first block, and how many it has or shares, (n,) each.

        0 where none of its samples is in the subset.
        """
        first, last = self._first[shards], self._first[shards + 1]
        if self._chosen is not None:
            first, last = np.searchsorted(self._chosen, [first, last])
        begin = first // self.size
        return begin, np.where(first < last, 1 + (last - 1) // self.size - begin, 0)

    @property
    def total_bytes(self) -> int:
        """Of the files of all blocks."""
        if self._chosen is None:
            return sum(shard.tar_bytes for shard in self._shards)
        count = -(-len(self._chosen) // self.size)
        some = np.unique(np.linspace(0, count - 1, MEASURED).astype(int)).tolist()
        return sum(self.of(block).bytes for block in some) * count // len(some)

    def _samples_of(self, number: int) -> np.ndarray:
        first, last = number * self.size, (number + 1) * self.size
        if self._chosen is not None:
            return self._chosen[first:last]
        return np.arange(first, min(last, int(self._first[-1])))

    def _of(self, number: int) -> Block:
        """A block by its number."""
        samples = self._samples_of(number)
        shards = np.searchsorted(self._first, samples, side="right") - 1
        cuts = np.flatnonzero((np.diff(samples) != 1) | (np.diff(shards) != 0)) + 1
        parts: list[Part] = []
        for run in np.split(np.arange(len(samples)), cuts):
            shard = int(shards[run[0]])
            index, begin = self._index(shard), int(self._first[shard])
            start = int(index.jpg[samples[run[0]] - begin, 0]) - BLOCK
            ends = index.json if len(index.json) else index.jpg
            offset, size = ends[samples[run[-1]] - begin].tolist()
            stop, last = offset + in_blocks(size), parts[-1] if parts else None
            gap = GAP if index.pieces is None else PIECE  # a piece comes as a whole
            if last and last.shard == shard and start - last.stop <= gap:
                parts[-1] = replace(last, stop=stop)
            else:
                at = last.at + last.stop - last.start if last else 0
                parts.append(Part(shard, start, stop, at))
        return Block(f"{BLOCKS}{number:09d}", tuple(parts))
