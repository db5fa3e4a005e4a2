"""The order of a set that grows: each part joins at the edge of an epoch (ours, data.append).

Up to that edge the epochs are those of the parts before it, and from there on those of all of them.
So what a run has seen stays as it was, and what it will see follows from (seed, epoch) and the
positions at which the parts join.
"""

import numpy as np

from scemae.data.line import NEVER, Line


class Growing(Line):
    """Lines of more and more samples, one after the other. Epochs count on from one to the next."""

    def __init__(self, lines: list[Line], joins: list[int]) -> None:
        """joins: for each line the position at which its first epoch begins, 0 for the first.

        Raises ValueError for one that is no edge of an epoch of the line before.
        """
        self._lines, self.samples, self.joins = lines, lines[-1].samples, np.array(joins)
        epochs, windows = [0], [0]
        for line, here, following in zip(lines, joins, joins[1:]):
            count, rest = divmod(following - here, line.samples)
            if rest or count < 0:
                raise ValueError(f"position {following} is no edge of {line.samples} samples")
            epochs.append(epochs[-1] + count)
            windows.append(windows[-1] + count * line.windows)
        self._epochs, self._windows = np.array(epochs), np.array(windows)  # before each line

    @property
    def lines(self) -> list[Line]:
        """As Line.lines."""
        return self._lines

    @property
    def version(self) -> int:  # type: ignore[override]
        """That of the first line, which a run began with."""
        return self.lines[0].version

    @property
    def settings(self) -> dict:
        """Those of the first line; the others' are in the run's record of its parts."""
        return self.lines[0].settings

    @property
    def windows(self) -> int:  # type: ignore[override]
        """Of an epoch of all parts."""
        return self.lines[-1].windows

    @property
    def span(self) -> int:
        """The most that is needed together."""
        return max(line.span for line in self.lines)

    @property
    def memory(self) -> int:
        """Of all lines; an earlier one is small beside the last."""
        return sum(line.memory for line in self.lines)

    def at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """As Line.at."""
        return self.lines[self._of(self._epochs, epoch)].at(epoch, places)

    def groups(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray | None:
        """As Line.groups; of a batch on an edge, those of each line for itself."""
        of = np.searchsorted(self._epochs, epochs, side="right") - 1
        if (of == of[0]).all():
            return self.lines[of[0]].groups(epochs, places)
        found = np.zeros(len(places), np.int64)
        for number in np.unique(of).tolist():
            here = of == number
            groups = self.lines[number].groups(epochs[here], places[here])
            found[here] = (number << 40) + (0 if groups is None else groups.astype(np.int64))
        return found

    def window_in(self, epoch: int, place: int) -> int:
        """As Line.window_in."""
        return self.lines[self._of(self._epochs, epoch)].window_in(epoch, place)

    def reads(self, epoch: int, blocks: np.ndarray) -> np.ndarray:
        """As Line.reads; a block whose samples have not joined is not read."""
        line = self.lines[self._of(self._epochs, epoch)]
        found = np.full(len(blocks), -NEVER)
        there = blocks * self._block < line.samples
        found[there] = line.reads(epoch, blocks[there])
        return found

    @property
    def _block(self) -> int:
        return max(getattr(line, "block", 1) for line in self.lines)

    def split(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As Line.split."""
        of = np.searchsorted(self.joins, positions, side="right") - 1
        sizes = np.array([line.samples for line in self.lines])[of]
        epochs, places = np.divmod(positions - self.joins[of], sizes)
        return epochs + self._epochs[of], places

    def begin(self, epoch: int) -> int:
        """As Line.begin."""
        of = self._of(self._epochs, epoch)
        return int(self.joins[of] + (epoch - self._epochs[of]) * self.lines[of].samples)

    def size(self, epoch: int) -> int:
        """As Line.size."""
        return self.lines[self._of(self._epochs, epoch)].samples

    def windows_before(self, epoch: int) -> int:
        """As Line.windows_before."""
        of = self._of(self._epochs, epoch)
        return int(self._windows[of] + (epoch - self._epochs[of]) * self.lines[of].windows)

    def epoch_of_window(self, window: int) -> int:
        """As Line.epoch_of_window."""
        of = self._of(self._windows, window)
        return int(self._epochs[of] + (window - self._windows[of]) // self.lines[of].windows)

    @staticmethod
    def _of(firsts: np.ndarray, value: int) -> int:
        """The last line that begins at or before `value`."""
        return int(np.searchsorted(firsts, value, side="right")) - 1


def next_edge(sizes: list[int], joins: list[int], position: int) -> int:
    """The first edge of an epoch at or after a position, of parts with these sizes and joins."""
    total = sum(sizes[: len(joins)])
    return joins[-1] + max(-(-(position - joins[-1]) // total), 0) * total
