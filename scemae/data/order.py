"""The global order of samples: a pure function of (seed, epoch), the same for any number of ranks.

The epochs are laid end to end, each a full permutation of all samples, and global batch number s is the stretch
[s * B, (s + 1) * B) of that line: a batch may span two epochs, no sample is dropped, none comes twice in an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ORDER_VERSION = (
    1  # another order of the same seed would be another version: a run cannot go on under it
)


@dataclass
class Slice:
    """What one rank draws for one micro-step: samples and their epochs, the weight of each in the global mean, and its
    place in the global batch of `global_step` (the step that trains on it, 1 for the first).

    All four have `micro_batch_size` rows or fewer, the same on every rank; where a rank has less to do, a
    sample is repeated with weight 0.
    """

    global_step: int
    samples: np.ndarray
    epochs: np.ndarray
    weights: np.ndarray
    places: np.ndarray

    def __getitem__(self, rows: slice) -> "Slice":
        """Some of its rows."""
        return Slice(
            self.global_step,
            self.samples[rows],
            self.epochs[rows],
            self.weights[rows],
            self.places[rows],
        )


def permutation(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order of one epoch, (samples,) int64."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(samples)


class Order:
    """Global batches of `samples` samples; keeps the permutations that the current batch touches."""

    def __init__(self, samples: int, seed: int, global_batch_size: int) -> None:
        self.samples, self.seed, self.global_batch_size = samples, seed, global_batch_size
        self._permutations: dict[int, np.ndarray] = {}

    def global_batch(self, global_step: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples and epochs of global batch number `global_step`, each (global_batch_size,)."""
        line = np.arange(self.global_batch_size) + global_step * self.global_batch_size
        epochs, places = np.divmod(line, self.samples)
        touched = range(epochs[0], epochs[-1] + 1)
        known = self._permutations
        self._permutations = {
            e: known[e] if e in known else permutation(self.seed, e, self.samples) for e in touched
        }
        chosen = np.empty_like(places)
        for epoch, order in self._permutations.items():
            here = epochs == epoch
            chosen[here] = order[places[here]]
        return chosen, epochs

    def drawn(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """What global batches start..stop-1 draw: each epoch they touch, with its samples, in order."""
        first, last = start * self.global_batch_size, stop * self.global_batch_size
        for epoch in range(first // self.samples, -(-last // self.samples)):
            begin = epoch * self.samples
            line = permutation(self.seed, epoch, self.samples)
            yield epoch, line[max(first - begin, 0) : min(last - begin, self.samples)]

    def slices(
        self, global_step: int, rank: int, world_size: int, accumulation_steps: int
    ) -> list[Slice]:
        """This rank's micro-steps of one global batch; slices of ranks may differ by one sample.

        A micro-batch's loss is the weighted sum over its images; averaged over ranks and micro-steps, as DeepSpeed
        does, it is the mean over the global batch.
        """
        samples, epochs = self.global_batch(global_step)
        parts = np.array_split(np.arange(self.global_batch_size), world_size * accumulation_steps)
        rows = max(len(part) for part in parts)
        weight = world_size * accumulation_steps / self.global_batch_size
        mine = []
        for part in parts[rank * accumulation_steps : (rank + 1) * accumulation_steps]:
            filled = np.resize(part, rows) if len(part) else np.zeros(rows, dtype=np.int64)
            weights = np.where(np.arange(rows) < len(part), weight, 0.0).astype(np.float32)
            mine.append(Slice(global_step + 1, samples[filled], epochs[filled], weights, filled))
        return mine


def accumulation_steps(global_batch_size: int, world_size: int, micro_batch_size: int) -> int:
    """How many micro-steps of at most `micro_batch_size` images a rank needs for its slice."""
    return -(-global_batch_size // (world_size * micro_batch_size))
