"""Several sets of shards as one: the samples of the first, then those of the second, ..."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np

from scemae.data.storage.manifest import Annotation, Manifest
from scemae.data.storage.members import Members, together
from scemae.data.storage.shard_set import Keys, ShardSet
from scemae.files import disk


class Joined(ShardSet):
    """The samples of several sets. A key may be in two of them."""

    def __init__(self, sets: list[ShardSet]) -> None:
        self._sets = sets
        self._first = list(accumulate(map(len, sets), initial=0))
        self.folder = Path(" + ".join(str(one.folder) for one in sets))
        self.streams = [stream for one in sets for stream in one.streams]
        self.manifest = Manifest(
            " + ".join(one.manifest.dataset for one in sets),
            " + ".join(one.manifest.split for one in sets),
            len(self),
            [shard for one in sets for shard in one.manifest.shards],
        )
        self.digest = _together((len(one), one.digest) for one in sets)
        self.tars_digest = _together((len(one), one.tars_digest) for one in sets)
        self.keys = Keys(self)

    @property
    def sizes(self) -> list[int]:
        """How many samples each set has."""
        return [len(one) for one in self._sets]

    def __len__(self) -> int:
        return self._first[-1]

    def __reduce__(self) -> tuple:
        return Joined, (self._sets,)

    def jpeg(self, i: int) -> bytes:
        """As ShardSet.jpeg."""
        one, own = self._own(i)
        return one.jpeg(own)

    def members(self, samples: np.ndarray) -> Members:
        """As ShardSet.members."""
        numbers = np.searchsorted(self._first, samples, side="right") - 1
        parts = []
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            parts.append((rows, self._sets[number].members(samples[rows] - self._first[number])))
        return together(len(samples), parts)

    def annotation(self, i: int) -> Annotation:
        """As ShardSet.annotation."""
        one, own = self._own(i)
        return one.annotation(own)

    def key(self, i: int) -> str:
        """As ShardSet.key."""
        one, own = self._own(i)
        return one.key(own)

    def all_keys(self) -> Iterator[str]:
        """As ShardSet.all_keys."""
        for one in self._sets:
            yield from one.all_keys()

    def _own(self, i: int) -> tuple[ShardSet, int]:
        """The set of sample `i`, and its number there."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        number = bisect_right(self._first, i) - 1
        return self._sets[number], i - self._first[number]


def _together(sets: Iterable[tuple[int, str]]) -> str:
    """A digest of several sets, from the samples and the digest of each."""
    return disk.digest("\n".join(f"{samples} {digest}" for samples, digest in sets))


class Grown(Joined):
    """A set and what was appended to it: one set, which the parts join one after the other."""

    def __init__(self, parts: list[ShardSet], joins: list[int]) -> None:
        """joins: for each part the position of a run's samples from which on it belongs to it."""
        super().__init__(parts)
        self.joins = joins
        self.streams = self.streams[:1]  # the parts share one
        self.digest, self.tars_digest = self._digests_of(len(parts))

    def _digests_of(self, count: int) -> tuple[str, str]:
        """Both digests of the first parts."""
        first = self._sets[0].manifest
        shards = [shard for one in self._sets[:count] for shard in one.manifest.shards]
        together = Manifest(first.dataset, first.split, 0, shards)
        return together.digest(), together.tars_digest()

    def __reduce__(self) -> tuple:
        return Grown, (self._sets, self.joins)

    @property
    def digests(self) -> set[str]:
        """As ShardSet.digests, before and after each part joined."""
        return {digest for i in range(len(self._sets)) for digest in self._digests_of(i + 1)}

    @property
    def parts(self) -> list[ShardSet]:
        """The parts by themselves."""
        return self._sets
