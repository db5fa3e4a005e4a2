"""From JPEG bytes to square uint8 frames: what crops are taken from, and what is hashed for the ledger.

A *source* of frames has `frames(samples) -> (found, pixels)`: (b,) the samples whose pixels they really are, and
(b, s, s, 3) uint8. `Streaming` here decodes when it is asked; frame_cache.py has decoded all before.
"""

import io
from collections.abc import Iterable

import numpy as np
import xxhash
from PIL import Image

from scemae.data import randomness
from scemae.data.order import Slice
from scemae.data.picture import decode_jpeg
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import ShardError

STAND_INS = 8  # samples tried for one place in a batch
ROWS = slice(30, 208)  # CelebA's aligned 178x218 image to its 178x178 frame (PROTOCOL 2.4)


def square(image: np.ndarray) -> np.ndarray:
    """The square of an image (h, w, ...) that is its frame: rows 30..207 of an aligned CelebA image, else the centre."""
    if image.shape[:2] == (218, 178):
        return image[ROWS]
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def decode(data: bytes, size: int) -> np.ndarray:
    """JPEG bytes to the frame (size, size, 3) uint8, resized (PIL, bilinear) where its square is not yet `size`.

    Raises ValueError on what is no JPEG, or one whose header says that it is enormous.
    """
    image = square(decode_jpeg(data))
    return image if len(image) == size else resize(image, size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """A square uint8 image to (size, size, 3), PIL's bilinear."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def jpeg_noise(image: np.ndarray, u: float, z: float) -> np.ndarray:
    """DVE's JPEG noise (PROTOCOL 3.1): up or down to max(0.8 W, W (1 + z / 2)), JPEG at quality 30..98, and back.

    u in [0, 1), z standard normal.
    """
    width = image.shape[1]
    other = resize(image, int(max(0.8, 1 + 0.5 * z) * width))
    buffer = io.BytesIO()
    Image.fromarray(other).save(buffer, "JPEG", quality=30 + int(u * 69))
    return resize(decode_jpeg(buffer.getvalue()), width)


def digests(images: Iterable[np.ndarray]) -> np.ndarray:
    """XXH3-128 of each of b uint8 arrays, as (b, 16) uint8: 4 microseconds for a frame of 178."""
    return np.stack([np.frombuffer(xxhash.xxh3_128_digest(image), np.uint8) for image in images])


class Streaming:
    """Frames that are read and decoded when they are asked for."""

    is_on_device = False

    def __init__(self, shards: ShardSet, size: int) -> None:
        self.shards, self.size = shards, size

    def frames(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples (b,) that were found, and their frames (b, s, s, 3). Raises ShardError."""
        found, frames = (
            np.empty_like(samples),
            np.empty((len(samples), self.size, self.size, 3), np.uint8),
        )
        for row, sample in enumerate(samples.tolist()):
            found[row], frames[row] = self._frame(sample)
        return found, frames

    def _frame(self, sample: int) -> tuple[int, np.ndarray]:
        """The frame of a sample, and whose it is: where one is no JPEG the next of the shards stands in for it, so
        that the batch keeps its size and order on any number of ranks."""
        count = len(self.shards)
        for stand_in in range(sample, sample + STAND_INS):
            try:
                return stand_in % count, decode(self.shards.jpeg(stand_in % count), self.size)
            except ValueError as error:
                reason = error
        raise ShardError(
            f"{self.shards.folder}: sample {self.shards.keys[sample]} is no whole JPEG ({reason}), nor are "
            f"the {STAND_INS - 1} after it; run `scemae shards verify` and rebuild the shards"
        )


def consumed_frames(
    source: Streaming, part: Slice, seed: int, noisy_jpeg: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The frames that a slice consumes: the samples (b,) found, and pixels (b, s, s, 3), with JPEG noise where asked."""
    found, frames = source.frames(part.samples)
    if noisy_jpeg:
        u = randomness.uniform(seed, part.epochs, part.samples, randomness.JPEG_QUALITY, 1)[:, 0]
        z = randomness.normal(seed, part.epochs, part.samples, randomness.JPEG_SIZE, 1)[:, 0]
        frames = np.stack([jpeg_noise(*each) for each in zip(frames, u, z)])
    return found, frames
