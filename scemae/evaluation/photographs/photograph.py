"""Photographs as 136x136 frames of a square box in them, and points of a frame as pixels of the
photograph.

Networks see the central 96x96 of a frame (paper 4): of a box of side s, the middle 0.71 s. Pixel
centres are integers and frames are resized by PIL, so that pixel x of a frame is (x + 1/2) s / 136
- 1/2 of its box.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scemae.data.geometry import CROP, FRAME, INPUT, frame_box
from scemae.data.picture import LARGEST, SMALLEST
from scemae.errors import ConfigError

CENTRE = "centre"  # in place of a box: that of `square_box` without one
DEFAULT = "the largest centred square (of CelebA's aligned pictures rows 30 to 207)"


@dataclass(frozen=True)
class Box:
    """A square of a photograph, in whole pixels; it may reach beyond the photograph."""

    left: int
    top: int
    side: int

    @property
    def corners(self) -> list[int]:
        """[x0, y0, x1, y1], the last two just outside."""
        return [self.left, self.top, self.left + self.side, self.top + self.side]

    @property
    def seen(self) -> list[float]:
        """[x0, y0, x1, y1] of the part that networks see, in pixels of the photograph."""
        inset = self.side * CROP / FRAME
        return [
            round(self.left + inset, 1),
            round(self.top + inset, 1),
            round(self.left + self.side - inset, 1),
            round(self.top + self.side - inset, 1),
        ]

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Points (l, 2) of the photograph in pixels of the central 96x96 of the frame."""
        return (points - (self.left, self.top) + 0.5) * (FRAME / self.side) - 0.5 - CROP

    def from_crop(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `to_crop`."""
        return (points + CROP + 0.5) * (self.side / FRAME) - 0.5 + (self.left, self.top)


def read_numbers(option: str, text: str, count: int) -> list[float]:
    """`count` numbers from "1,2,3". Raises ConfigError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != count or not np.isfinite(found).all():
        raise ConfigError(
            f"{option}: found {text!r}, {count} numbers with commas between were needed"
        )
    return found


def parse_boxes(texts: list[str] | None, photographs: list[Path]) -> list[list[float] | None]:
    """A box [x0, y0, x1, y1] for each photograph, or None for the centre, from the --box options.

    --box is given once for each photograph or not at all. Raises ConfigError.
    """
    if texts and len(texts) != len(photographs):
        raise ConfigError(
            f"--box: found {len(texts)} for {len(photographs)} photographs; give one for each, in "
            f"their order (x0,y0,x1,y1 or {CENTRE}), or none"
        )
    return [
        None if text == CENTRE else read_numbers("--box", text, 4)
        for text in texts or [CENTRE] * len(photographs)
    ]


def square_box(
    image: Image.Image, corners: list[float] | None, path: Path, *, option: str = "--box"
) -> Box:
    """The square around a box [x0, y0, x1, y1], as wide as its longer side.

    Without a box: the largest centred square, or the frame of an aligned CelebA picture of 178x218,
    its rows 30 to 207 (PROTOCOL 3.2). `option` is named in errors. Raises ConfigError for a box
    that shows almost nothing of the photograph.
    """
    width, height = image.size
    if corners is None:
        left, top, right, _ = frame_box(width, height)
        return Box(left, top, right - left)
    x0, y0, x1, y1 = corners
    if min(x1, width) - max(x0, 0) < SMALLEST or min(y1, height) - max(y0, 0) < SMALLEST:
        raise ConfigError(
            f"{path}: {option}: found {','.join(f'{value:g}' for value in corners)}, x0,y0,x1,y1 "
            f"with at least {SMALLEST} pixels each way of this photograph of {width}x{height} "
            "were needed"
        )
    side = round(max(x1 - x0, y1 - y0))
    if side * side > LARGEST:
        raise ConfigError(
            f"{path}: {option}: found a side of {side} pixels; give a box about as large as the "
            "face"
        )
    return Box(round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2), side)


def frame_of(image: Image.Image, box: Box) -> Tensor:
    """The frame (3, 136, 136) uint8 of a box; black outside the photograph, as in 300W (PROTOCOL
    3.2).
    """
    left, top, right, bottom = box.corners
    frame = image.crop((left, top, right, bottom)).resize((FRAME, FRAME), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(frame).transpose(2, 0, 1).copy())


def parse_points(text: str) -> np.ndarray:
    """Points (l, 2) from "x,y x,y ...". Raises ConfigError."""
    if not text.split():
        needed = '"x,y x,y ..." in pixels of the first photograph'
        raise ConfigError(f"--points: found none; give {needed}, or leave it out")
    return np.array([read_numbers("--points", part, 2) for part in text.split()])


def check_points(points: np.ndarray, box: Box, path: Path, *, option: str = "--points") -> None:
    """Raise ConfigError for the first of the points (l, 2) outside the part that networks see."""
    inside = _are_inside(box.to_crop(points))
    if not inside.all():
        x, y = points[~inside][0]
        raise ConfigError(
            f"{path}: {option}: found {x:g},{y:g}, the network sees x and y of "
            f"{','.join(map(str, box.seen))} (x0,y0,x1,y1), the middle of the box; move the "
            f"point, or give a larger {option.replace('points', 'box')}"
        )


def grid_points(box: Box, across: int) -> np.ndarray:
    """A grid of across * across points (l, 2), row by row, inside the part that networks see."""
    places = (np.arange(across) + 0.5) * (INPUT / across) - 0.5
    return box.from_crop(np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2))


def _are_inside(crop: np.ndarray) -> np.ndarray:
    return np.all((crop >= -0.5) & (crop <= INPUT - 0.5), axis=1)
