"""Batches mixed from several sets of shards in exact shares.

Of every global batch the first c_1 places are the first set's, the next c_2 the second's, and so
on. Each set has epochs and an order of its own: a small set comes round more often. So a mixture is
as exact as one set: any number of ranks, any place to go on from, no sample twice in an epoch of
its set. A sample's number is its number in its set, after those of the sets before.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from scemae.data.order import Order
from scemae.errors import ConfigError

SEEDS = 2**32  # from the seed of one set's order to that of the next


class MixedOrder(Order):
    """The orders of several sets, side by side."""

    def __init__(self, parts: list[Order]) -> None:
        self.parts = parts
        self.seed = parts[0].seed
        self.samples = sum(part.samples for part in parts)
        self.global_batch_size = sum(part.global_batch_size for part in parts)
        self._places = np.cumsum([0, *(part.global_batch_size for part in parts)])
        self._offsets = np.cumsum([0, *(part.samples for part in parts)])

    @property
    def version(self) -> int:
        """The highest of the sets'."""
        return max(part.version for part in self.parts)

    @property
    def settings(self) -> dict:
        """Those of the sets, with the images of each in a batch."""
        sets = [{"images": part.global_batch_size, **part.settings} for part in self.parts]
        return {"mixture": sets}

    @property
    def span(self) -> int:
        """Samples that are needed together."""
        return sum(part.span for part in self.parts)

    @property
    def memory(self) -> int:
        """Bytes in each rank."""
        return sum(part.memory for part in self.parts)

    def images(self, epochs: float) -> float:
        """How many images so many epochs have, of all sets together."""
        return epochs * self.samples

    def epochs(self, steps: int) -> float:
        """How many epochs of all sets together so many global batches are."""
        return steps * self.global_batch_size / self.samples

    def first(self, count: int) -> np.ndarray:
        """The first samples, in the shares of the mixture."""
        return self._at(np.arange(count))[0]

    def drawn(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """As Order.drawn, set after set."""
        for part, offset in zip(self.parts, self._offsets):
            for epoch, samples in part.drawn(start, stop):
                yield epoch, samples + offset

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps, places = np.divmod(positions, self.global_batch_size)
        samples, epochs = np.empty_like(places), np.empty_like(places)
        for part, begin, end, offset in zip(
            self.parts, self._places, self._places[1:], self._offsets
        ):
            here = (begin <= places) & (places < end)
            own = steps[here] * part.global_batch_size + places[here] - begin
            samples[here], epochs[here] = part._at(own)
            samples[here] += offset
        return samples, epochs

    def _shared_out(self, global_step: int) -> np.ndarray:
        shared = [part._shared_out(global_step) for part in self.parts]
        return np.concatenate([part + begin for part, begin in zip(shared, self._places)])


def parse_mixture(entries: list[str], batch: int) -> list[tuple[str, int]]:
    """The sets of a mixture: of each its location, and how many images of a batch are from it.

    batch: images of a global batch.

    entries: LOCATION:SHARE. Raises ConfigError for shares that are none, that do not add up to 1,
    or that are no whole number of images.
    """
    found: list[tuple[str, Fraction]] = []
    for entry in entries:
        location, _, text = entry.rpartition(":")
        try:
            share = Fraction(text)
        except (ValueError, ZeroDivisionError):
            share = Fraction(0)
        if not location or not 0 < share < 1:
            raise ConfigError(
                f"data.mix: found {entry!r}, LOCATION:SHARE with a share between 0 and 1 was "
                "needed, such as [shards/a:0.75,shards/b:0.25]"
            )
        # the type of a text that was typed allows a program (config/locations.py)
        found.append((type(entry)(location), share))
    if (total := sum(share for _, share in found)) != 1:
        raise ConfigError(f"data.mix: its shares add up to {float(total):g}, 1 was needed")
    for location, share in found:
        if (share * batch).denominator != 1:
            raise ConfigError(
                f"data.mix: {float(share):g} of a batch of {batch} is no whole number of images; "
                f"give {round(share * batch) or 1}/{batch} ({location}) or another "
                "optim.global_batch_size"
            )
    return [(location, int(share * batch)) for location, share in found]
