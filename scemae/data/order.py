"""The global order of samples: a pure function of (seed, epoch), the same for any number of ranks.

Each epoch is a permutation of all samples, and the epochs follow each other in one sequence. Of it,
global batch number s takes the places s * B .. (s + 1) * B - 1. So a batch may span two epochs, no
sample is dropped, and none comes twice in an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# To be raised when the same seed gives another order: a run cannot resume under another version.
ORDER_VERSION = 1


@dataclass
class Slice:
    """One rank's part of a global batch for one micro-step; four arrays (b,), a row for each image.

    `weights` are those of the images in the global mean, `places` their positions in the global
    batch, `global_step` the step that trains on it, 1 for the first. b is at most the micro-batch
    size and the same on every rank: where a rank has fewer images, one is repeated with weight 0.
    """

    global_step: int
    samples: np.ndarray
    epochs: np.ndarray
    weights: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: slice) -> "Slice":
        """Some of its rows."""
        arrays = (self.samples, self.epochs, self.weights, self.places)
        return Slice(self.global_step, *(array[rows] for array in arrays))


def permutation(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order of one epoch, (samples,) int64."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(samples)


class Order:
    """Global batches of `samples` samples; caches the permutations that the last batch used."""

    def __init__(self, samples: int, seed: int, global_batch_size: int) -> None:
        self.samples, self.seed, self.global_batch_size = samples, seed, global_batch_size
        self._permutations: dict[int, np.ndarray] = {}

    def global_batch(self, global_step: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples and epochs of global batch number `global_step`, each (global_batch_size,)."""
        positions = np.arange(self.global_batch_size) + global_step * self.global_batch_size
        epochs, places = np.divmod(positions, self.samples)
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
        """Each epoch that global batches start..stop-1 use, and the samples they draw from it."""
        first, last = start * self.global_batch_size, stop * self.global_batch_size
        for epoch in range(first // self.samples, -(-last // self.samples)):
            begin = epoch * self.samples
            order = permutation(self.seed, epoch, self.samples)
            yield epoch, order[max(first - begin, 0) : min(last - begin, self.samples)]

    def slices(
        self, global_step: int, rank: int, world_size: int, accumulation_steps: int
    ) -> list[Slice]:
        """This rank's micro-steps of one global batch; slices of ranks may differ by one sample.

        A micro-batch's loss is the weighted sum over its images. DeepSpeed averages it over ranks
        and micro-steps, which gives the mean over the global batch.
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
