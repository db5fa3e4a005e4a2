"""From JPEG bytes to square uint8 frames: random crops are taken from them, the ledger hashes them.

`StreamedFrames` here decodes them on demand; frame_cache.HostFrames has decoded all before.
"""

import io
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import xxhash
from PIL import Image

from scemae.data import randomness
from scemae.data.geometry import frame_box
from scemae.data.order import Slice
from scemae.data.picture import decode_image, decode_jpeg
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import ShardError

MOST_TRIED = 8  # samples tried for one place in a batch: its own, then those that follow it


def decode(data: bytes, size: int) -> np.ndarray:
    """JPEG bytes to the frame (size, size, 3) uint8: CelebA's frame or the central square, resized.

    A foreign tar may hold PNG and other formats (picture.KINDS). Resized by PIL (bilinear) where
    the square is not yet `size`. Raises UnusablePicture (a ValueError) where the bytes are no
    image, or the header asks for too many pixels.
    """
    image = decode_image(data)
    x0, y0, x1, y1 = frame_box(image.shape[1], image.shape[0])
    square = image[y0:y1, x0:x1]
    return square if len(square) == size else resize(square, size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """A square uint8 image to (size, size, 3), PIL's bilinear."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def jpeg_noise(image: np.ndarray, u: float, z: float) -> np.ndarray:
    """DVE's JPEG noise (PROTOCOL 3.1) on an image (W, W, 3): resized, encoded, and resized back.

    Its side becomes max(0.8 W, W (1 + z / 2)), its JPEG quality 30..98. u in [0, 1), z standard
    normal.
    """
    width = image.shape[1]
    other = resize(image, int(max(0.8, 1 + 0.5 * z) * width))
    buffer = io.BytesIO()
    Image.fromarray(other).save(buffer, "JPEG", quality=30 + int(u * 69))
    return resize(decode_jpeg(buffer.getvalue()), width)


def digests(images: Iterable[np.ndarray]) -> np.ndarray:
    """XXH3-128 of each of b uint8 arrays, (b, 16) uint8; 4 microseconds for a frame of 178x178."""
    hashes = [xxhash.xxh3_128_digest(image.data) for image in images]
    return np.stack([np.frombuffer(one, np.uint8) for one in hashes])


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
            found[row], frames[row] = self._frame(sample)
        return found, frames

    def _frame(self, sample: int) -> tuple[int, np.ndarray]:
        """The frame of a sample, and the sample whose frame it is. Raises ShardError.

        Where a sample does not decode, the next one in the shards takes its place: so a batch keeps
        its size and order on any number of ranks.
        """
        count = len(self.shards)
        for tried in range(sample, sample + MOST_TRIED):
            try:
                return tried % count, decode(self.shards.jpeg(tried % count), self.size)
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
