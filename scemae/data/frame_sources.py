"""Frames by the numbers of their samples: read from the shards and decoded on demand.

frame_cache.HostFrames has decoded all before; ProcessFrames (decode_processes.py) lets processes
do it.
"""

from typing import Protocol

import numpy as np

from scemae.data import randomness
from scemae.data.decode import decode_into, jpeg_noise
from scemae.data.order import Slice
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import ShardError

MOST_TRIED = 8  # samples tried for one place in a batch: its own, then those that follow it


class FrameSource(Protocol):
    """Square frames of `size` pixels in host memory, by the number of the sample."""

    size: int

    def frames(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples (b,) whose frames these really are, and the frames (b, s, s, 3) uint8."""


class StreamedFrames:
    """Frames that are read and decoded on demand."""

    def __init__(self, shards: ShardSet, size: int) -> None:
        self.shards, self.size = shards, size

    def frames(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples (b,) that were found, and their frames (b, s, s, 3). Raises ShardError."""
        found = np.empty_like(samples)
        frames = np.empty((len(samples), self.size, self.size, 3), np.uint8)
        for row, sample in enumerate(samples.tolist()):
            found[row] = self._read(sample, frames[row])
        return found, frames

    def _read(self, sample: int, frame: np.ndarray) -> int:
        """Fill the frame of a sample; returns the sample whose frame it is. Raises ShardError.

        Where a sample does not decode, the next one in the shards takes its place: so a batch keeps
        its size and order on any number of ranks.
        """
        count = len(self.shards)
        for tried in range(sample, sample + MOST_TRIED):
            try:
                decode_into(frame, self.shards.jpeg(tried % count))
                return tried % count
            except ValueError as error:
                reason = error
        raise ShardError(
            f"{self.shards.folder}: sample {self.shards.keys[sample]} is no whole JPEG ({reason}), "
            f"nor are the {MOST_TRIED - 1} after it; run `scemae shards verify` and rebuild the "
            "shards"
        )


def consumed_frames(
    source: FrameSource, part: Slice, seed: int, noisy_jpeg: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The frames that a slice trains on, and the ledger hashes: found (b,), pixels (b, s, s, 3).

    noisy_jpeg: with DVE's JPEG noise, drawn for each (epoch, sample).
    """
    found, frames = source.frames(part.samples)
    if noisy_jpeg:
        u = randomness.uniform(seed, part.epochs, part.samples, randomness.JPEG_QUALITY, 1)[:, 0]
        z = randomness.normal(seed, part.epochs, part.samples, randomness.JPEG_SIZE, 1)[:, 0]
        frames = np.stack([jpeg_noise(*each) for each in zip(frames, u, z)])
    return found, frames
