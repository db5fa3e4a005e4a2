"""One image for a shard: decoded to its end to check it, and stored byte for byte if possible."""

from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

from scemae.data.picture import UnusablePicture, check_sides, decode_jpeg, is_turned, open_picture

QUALITY = 95  # of images that must be encoded anew; chroma keeps its full resolution (4:4:4)
ENCODING = f"JPEG quality {QUALITY}, 4:4:4"  # in the manifest


@dataclass(frozen=True)
class Frame:
    """A crop of images of one size, scaled to `size` x `size` (PIL, bilinear) and encoded anew.

    `source` is the (width, height) that every image must have; `box` the square (x0, y0, x1, y1)
    that is cut out; `quality` that of the JPEG.
    """

    name: str
    source: tuple[int, int]
    box: tuple[int, int, int, int]
    size: int
    quality: int = QUALITY

    def move(self, landmarks: list[list[float]]) -> list[list[float]]:
        """Landmarks (x, y) of the image in pixels of the frame (PROTOCOL 3.2)."""
        scale = self.size / (self.box[2] - self.box[0])
        return [[(x - self.box[0]) * scale, (y - self.box[1]) * scale] for x, y in landmarks]

    def options(self) -> dict:
        """This frame in the options of a manifest."""
        return {
            "frame": self.name,
            "size": self.size,
            "cut": list(self.box),
            "encoding": f"JPEG quality {self.quality}, 4:4:4",
        }


@dataclass(frozen=True)
class Stored:
    """An image for a shard: JPEG bytes, (width, height), and whether it was encoded anew."""

    jpeg: bytes
    size: tuple[int, int]
    anew: bool


def to_jpeg(
    data: bytes, frame: Frame | None, *, accept_other_formats: bool, upright: bool = False
) -> Stored:
    """One image file as a JPEG. Raises UnusablePicture with the reason for the manifest.

    A JPEG is returned byte for byte unless `frame` is given, or it is turned and `upright` is set.
    Other formats are encoded as JPEG if `accept_other_formats`, else refused. Every image is
    decoded to its last block.
    """
    is_jpeg = data[:2] == b"\xff\xd8"
    if data and not is_jpeg and not accept_other_formats:
        raise UnusablePicture("not a JPEG")
    pixels = (
        decode_jpeg(data, strict=True)
        if is_jpeg
        else np.asarray(open_picture(data, upright=upright))
    )
    check_sides(pixels.shape[1], pixels.shape[0])
    if frame:
        return _encoded(_cut(pixels, frame), frame.quality)
    if not is_jpeg:
        return _encoded(pixels, QUALITY)
    if upright and is_turned(data):
        del pixels  # up to 300 MB: the turned ones are decoded again
        return _encoded(np.asarray(open_picture(data)), QUALITY)
    return Stored(data, (pixels.shape[1], pixels.shape[0]), False)


def check_annotation(annotation: dict, size: tuple[int, int]) -> None:
    """Raises UnusablePicture where a landmark, or a corner of the box, lies far outside the image.

    Far: by more than its `size` (width, height). Points a little outside are common, since the edge
    cuts off faces.
    """
    box = annotation.get("box") or []
    for what, points in (
        ("landmark", annotation.get("landmarks") or []),
        ("corner of the box", [box[:2], box[2:]] if box else []),
    ):
        for number, point in enumerate(points, start=1):
            x, y = point or (0, 0)  # None: a missing point
            if not (-size[0] <= x <= 2 * size[0] and -size[1] <= y <= 2 * size[1]):
                raise UnusablePicture(
                    f"{what} {number} lies at ({x:g}, {y:g}), far outside of its "
                    f"{size[0]}x{size[1]} pixels"
                )


def _cut(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    found = (pixels.shape[1], pixels.shape[0])
    if found != frame.source:
        raise UnusablePicture(
            f"{found[0]}x{found[1]} pixels, the {frame.name} frame needs "
            f"{frame.source[0]}x{frame.source[1]}"
        )
    picture = Image.fromarray(pixels).crop(frame.box)
    return np.asarray(picture.resize((frame.size, frame.size), Image.Resampling.BILINEAR))


def _encoded(pixels: np.ndarray, quality: int) -> Stored:
    jpeg = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorsubsampling="444"
    )
    return Stored(jpeg, (pixels.shape[1], pixels.shape[0]), True)
