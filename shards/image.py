"""One image on its way into a shard: decoded wholly to check it, and passed on untouched wherever possible."""

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

QUALITY = 95  # of images that have to be encoded anew; chroma is kept at full resolution (4:4:4)
ENCODING = f"JPEG quality {QUALITY}, 4:4:4"  # as the manifest says it


class UnusableImage(Exception):
    """An image that cannot go into a shard; the message is the reason, as the manifest will give it."""


@dataclass(frozen=True)
class Frame:
    """A crop of images of one size, scaled to `size` x `size` with PIL's bilinear filter, and encoded anew.

    `source` is the (width, height) that every image must have; `box` the square (x0, y0, x1, y1) cut out of it;
    `quality` that of the JPEG.
    """

    name: str
    source: tuple[int, int]
    box: tuple[int, int, int, int]
    size: int
    quality: int = QUALITY

    def move(self, landmarks: list[list[float]]) -> list[list[float]]:
        """Carry landmarks (x, y) from pixels of the image to pixels of the frame (PROTOCOL 3.2: shift, then scale)."""
        scale = self.size / (self.box[2] - self.box[0])
        return [[(x - self.box[0]) * scale, (y - self.box[1]) * scale] for x, y in landmarks]

    def options(self) -> dict:
        """What the manifest says of this frame."""
        return {"frame": self.name, "size": self.size, "cut": list(self.box),
                "encoding": f"JPEG quality {self.quality}, 4:4:4"}


def to_jpeg(data: bytes, frame: Frame | None, *, accept_other_formats: bool) -> tuple[bytes, bool]:
    """Return (JPEG bytes, whether they were encoded anew) of one image file. Raises UnusableImage with the reason.

    A JPEG comes back byte for byte unless a `frame` is asked for. PNG, WebP and whatever else PIL reads are encoded
    as JPEG where `accept_other_formats`, and refused elsewhere. Every image is decoded to its last block.
    """
    if data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data)
        if frame is None:
            return data, False
    elif not accept_other_formats:
        raise UnusableImage("empty file" if not data else "not a JPEG")
    else:
        pixels = _decode_other(data)
    if frame is None:
        return _encode(pixels, QUALITY), True
    return _encode(_cut(pixels, frame), frame.quality), True


def _decode_jpeg(data: bytes) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(data, strict=True)  # strict: a missing end or a damaged block is an error
    except ValueError as error:
        raise UnusableImage(f"the JPEG does not decode wholly ({error})") from error


def _decode_other(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image that can be read" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UnusableImage(reason if data else "empty file") from error


def _cut(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    found = (pixels.shape[1], pixels.shape[0])
    if found != frame.source:
        raise UnusableImage(f"{found[0]}x{found[1]} pixels, the {frame.name} frame needs "
                            f"{frame.source[0]}x{frame.source[1]}")
    picture = Image.fromarray(pixels).crop(frame.box)
    return np.asarray(picture.resize((frame.size, frame.size), Image.Resampling.BILINEAR))


def _encode(pixels: np.ndarray, quality: int) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorsubsampling="444")
