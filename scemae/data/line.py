"""What the orders of an epoch's samples have in common: epochs that follow each other in one line.

A position counts the samples of all epochs; an epoch's samples have places from 0. What is read
together is a window; windows are counted over all epochs too.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

NEVER = 2**62  # a window that is not reached


class Line(ABC):
    """The order of the samples of each epoch; here every epoch has all `samples`."""

    version: int  # of the order; the same seed gives another order under another version
    samples: int
    windows: int  # of an epoch

    @property
    def lines(self) -> "list[Line]":
        """The lines that it is made of, one after the other."""
        return [self]

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The settings of the section data that it depends on, for the checkpoint."""

    @property
    @abstractmethod
    def span(self) -> int:
        """Samples that are needed together: a window."""

    @property
    @abstractmethod
    def memory(self) -> int:
        """Bytes in each rank."""

    @abstractmethod
    def at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The samples at the places (p,) of an epoch, int64."""

    @abstractmethod
    def groups(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray | None:
        """What the places (p,) of a batch are sorted by before ranks share them; None: nothing."""

    @abstractmethod
    def window_in(self, epoch: int, place: int) -> int:
        """The window of an epoch that a place is in."""

    @abstractmethod
    def reads(self, epoch: int, blocks: np.ndarray) -> np.ndarray:
        """In which window of an epoch each of the blocks (b,) is read, (b,) int64.

        Below 0 for a block that the epoch does not read.
        """

    def split(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Epochs and places of positions (p,)."""
        epochs, places = np.divmod(positions, self.samples)
        return epochs, places

    def begin(self, epoch: int) -> int:
        """The position that an epoch begins at."""
        return epoch * self.samples

    def size(self, epoch: int) -> int:
        """The samples of an epoch."""
        return self.samples

    def windows_before(self, epoch: int) -> int:
        """The windows of all epochs before this one."""
        return epoch * self.windows

    def epoch_of_window(self, window: int) -> int:
        """The epoch that a window is in."""
        return window // self.windows

    def window_at(self, position: int) -> int:
        """The window of a position."""
        (epoch,), (place,) = (part.tolist() for part in self.split(np.array([position])))
        return self.windows_before(epoch) + self.window_in(epoch, place)

    def next_windows(self, blocks: np.ndarray, now: int) -> np.ndarray:
        """For each of the blocks (b,) the first window that reads it, from window `now` on.

        NEVER for one that this epoch and the next do not read.
        """
        epoch = self.epoch_of_window(now)
        here = self.windows_before(epoch) + self.reads(epoch, blocks)
        later = self.windows_before(epoch + 1) + self.reads(epoch + 1, blocks)
        found = np.where(here >= now, here, later)
        return np.where(found < 0, NEVER, found)
