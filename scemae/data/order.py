"""The global order of samples: a pure function of (seed, epoch), the same for any number of ranks.

Each epoch has every sample once, and the epochs follow each other in one sequence. Of it, global
batch number s takes the places s * B .. (s + 1) * B - 1. So a batch may span two epochs, no sample
is dropped, and none comes twice in an epoch.

Which sample is at a place of an epoch: `Whole` (version 1) is a permutation of all samples,
lanes.Lanes (version 2) shuffles windows of blocks, for more samples than a node can cache. Which
rank takes which place of a batch changes no result: `Lanes` gives a rank neighbours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scemae.data.line import Line

# More samples than these are ordered by lanes unless data.order says otherwise.
MOST_WHOLE = 2**21
AT_ONCE = 2**22  # places of an epoch that are computed together


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


class Whole(Line):
    """Order version 1: each epoch is a permutation of all samples."""

    version, windows = 1, 1
    settings: dict[str, int] = {}

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self._known: dict[int, np.ndarray] = {}

    @property
    def span(self) -> int:
        """All samples are needed together."""
        return self.samples

    @property
    def memory(self) -> int:
        """An epoch's permutation, and for a moment the next one's."""
        return 16 * self.samples

    def groups(self, epochs: np.ndarray, places: np.ndarray) -> None:
        """The places of a batch are shared out as they come."""

    def window_in(self, epoch: int, place: int) -> int:
        """An epoch is one window."""
        return 0

    def reads(self, epoch: int, blocks: np.ndarray) -> np.ndarray:
        """Every block is needed all the time."""
        return np.zeros(len(blocks), np.int64)

    def at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """As Line.at; keeps the permutations of two epochs."""
        found = self._known.get(epoch)
        if found is None:  # threads that read ahead may ask at the same time
            found = permutation(self.seed, epoch, self.samples)
            self._known = dict([*self._known.items()][-1:]) | {epoch: found}
        return found[places]


class Order:
    """The global batches of a run over `samples` samples.

    line: the order of the samples inside an epoch.
    """

    def __init__(
        self, samples: int, seed: int, global_batch_size: int, line: Line | None = None
    ) -> None:
        self.samples, self.seed, self.global_batch_size = samples, seed, global_batch_size
        self.line = line or Whole(samples, seed)
        self.parts = [self]  # the orders of one set each; a mixture has several

    @property
    def version(self) -> int:
        """1 or 2; the same seed gives another order under another version."""
        return self.line.version

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the section data that it depends on, for the checkpoint."""
        return self.line.settings

    @property
    def span(self) -> int:
        """Samples that are needed together."""
        return self.line.span

    @property
    def memory(self) -> int:
        """Bytes in each rank."""
        return self.line.memory

    def images(self, epochs: float) -> float:
        """How many images so many epochs have."""
        whole = int(epochs)
        return self.line.begin(whole) + (epochs - whole) * self.line.size(whole)

    def epochs(self, steps: int) -> float:
        """How many epochs so many global batches are."""
        (epoch,), (place,) = self.line.split(np.array([steps * self.global_batch_size]))
        return float(epoch + place / self.line.size(epoch))

    def first(self, count: int) -> np.ndarray:
        """The first samples of the first epoch, at most all."""
        return self.line.at(0, np.arange(min(count, self.line.size(0))))

    def global_batch(self, global_step: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples and epochs of global batch number `global_step`, each (global_batch_size,)."""
        return self._at(np.arange(self.global_batch_size) + global_step * self.global_batch_size)

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples and epochs at positions (p,) of the whole sequence."""
        epochs, places = self.line.split(positions)
        chosen = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            chosen[here] = self.line.at(epoch, places[here])
        return chosen, epochs

    def _shared_out(self, global_step: int) -> np.ndarray:
        """The places of a global batch in the order in which ranks share them."""
        places = np.arange(self.global_batch_size)
        positions = global_step * self.global_batch_size + places
        groups = self.line.groups(*self.line.split(positions))
        return places if groups is None else places[groups.argsort(kind="stable")]

    def window_of(self, global_step: int) -> int:
        """The window, counted over all epochs, that a global batch begins in."""
        return self.line.window_at(global_step * self.global_batch_size)

    def drawn(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """The samples that global batches start..stop-1 use, part by part, each of one epoch."""
        first, last = start * self.global_batch_size, stop * self.global_batch_size
        epoch = int(self.line.split(np.array([first]))[0][0])
        while (begin := self.line.begin(epoch)) < last:
            end = min(last - begin, self.line.size(epoch))
            for place in range(max(first - begin, 0), end, AT_ONCE):
                yield epoch, self.line.at(epoch, np.arange(place, min(place + AT_ONCE, end)))
            epoch += 1

    def slices(
        self, global_step: int, rank: int, world_size: int, accumulation_steps: int
    ) -> list[Slice]:
        """This rank's micro-steps of one global batch; slices of ranks may differ by one sample.

        A micro-batch's loss is the weighted sum over its images. DeepSpeed averages it over ranks
        and micro-steps, which gives the mean over the global batch.
        """
        first = global_step * self.global_batch_size
        parts = np.array_split(self._shared_out(global_step), world_size * accumulation_steps)
        rows = max(len(part) for part in parts)
        weight = world_size * accumulation_steps / self.global_batch_size
        mine = []
        for part in parts[rank * accumulation_steps : (rank + 1) * accumulation_steps]:
            filled = np.resize(part, rows) if len(part) else np.zeros(rows, dtype=np.int64)
            weights = np.where(np.arange(rows) < len(part), weight, 0.0).astype(np.float32)
            samples, epochs = self._at(first + filled)
            mine.append(Slice(global_step + 1, samples, epochs, weights, filled))
        return mine


def accumulation_steps(global_batch_size: int, world_size: int, micro_batch_size: int) -> int:
    """How many micro-steps of at most `micro_batch_size` images a rank needs for its slice."""
    return -(-global_batch_size // (world_size * micro_batch_size))
