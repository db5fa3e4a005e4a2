"""From JPEG bytes to square uint8 frames: random crops are taken from them, the ledger hashes them.

frame_sources.py reads the bytes and decodes them on demand; frame_cache.py has decoded all before.
"""

import io
from collections.abc import Iterable

import numpy as np
import xxhash
from PIL import Image

from scemae.data.geometry import frame_box
from scemae.data.picture import decode_image, decode_jpeg


def decode(data: bytes, size: int) -> np.ndarray:
    """JPEG bytes to the frame (size, size, 3) uint8: CelebA's frame or the central square, resized.

    A foreign tar may hold PNG and other formats (picture.KINDS). Resized by PIL (bilinear) where
    the square is not yet `size`. Raises UnusablePicture (a ValueError) where the bytes are no
    image, or the header asks for too many pixels.
    """
    frame = np.empty((size, size, 3), np.uint8)
    decode_into(frame, data)
    return frame


def decode_into(frame: np.ndarray, data: bytes) -> None:
    """As `decode`, into a frame (size, size, 3); without a copy where the JPEG has its size."""
    image, size = decode_image(data, into=frame), len(frame)
    if image is frame:
        return
    x0, y0, x1, y1 = frame_box(image.shape[1], image.shape[0])
    square = image[y0:y1, x0:x1]
    frame[:] = square if len(square) == size else resize(square, size)


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
