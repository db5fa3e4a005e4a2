"""Photographs as 136x136 frames of a square box in them, and points of a frame as pixels of the
photograph.

The one definition for benchmarks of photographs, `fit`, `detect` and `match`. Networks see the
central 96x96 of a frame (paper 4): of a box of side s, the middle 0.71 s. Pixel centres are
integers and frames are resized by PIL, so that pixel x of a frame is (x + 1/2) s / 136 - 1/2 of its
box.
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

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Points (l, 2) of the photograph in pixels of the frame."""
        return self.to_crop(points) + CROP

    def from_crop(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `to_crop`."""
        return (points + CROP + 0.5) * (self.side / FRAME) - 0.5 + (self.left, self.top)

    def are_seen(self, points: np.ndarray) -> np.ndarray:
        """(l,) bool: which points of the photograph lie in the part that networks see."""
        crop = self.to_crop(points)
        return np.all((crop >= -0.5) & (crop <= INPUT - 0.5), axis=-1)


def square_box(
    image: Image.Image,
    corners: list[float] | None,
    path: Path,
    *,
    margin: float = 1.0,
    option: str = "--box",
) -> Box:
    """The square of a photograph, as `square_of` finds it. Raises ConfigError."""
    return square_of(image.size, corners, path, margin=margin, option=option)


def square_of(
    size: tuple[int, int],
    corners: list[float] | None,
    path: Path | str,
    *,
    margin: float = 1.0,
    option: str = "--box",
) -> Box:
    """The square around a box [x0, y0, x1, y1], `margin` times as wide as its longer side.

    size: (width, height) of the photograph. Without a box it is that around the largest centred
    square, or around the frame of an aligned CelebA picture of 178x218, its rows 30 to 207
    (PROTOCOL 3.2). `option` is named in errors. Raises ConfigError for a box that shows almost
    nothing of the photograph.
    """
    width, height = size
    if corners is None:
        corners = [*frame_box(width, height)]
    x0, y0, x1, y1 = corners
    if min(x1, width) - max(x0, 0) < SMALLEST or min(y1, height) - max(y0, 0) < SMALLEST:
        raise ConfigError(
            f"{path}: {option}: found {','.join(f'{value:g}' for value in corners)}, x0,y0,x1,y1 "
            f"with at least {SMALLEST} pixels each way of this photograph of {width}x{height} "
            "were needed"
        )
    side = round(margin * max(x1 - x0, y1 - y0))
    if side * side > LARGEST:
        raise ConfigError(
            f"{path}: --box: found a side of {side} pixels; give a box about as large as the face"
        )
    return Box(round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2), side)


def frame_of(image: Image.Image, box: Box) -> Tensor:
    """The frame (3, 136, 136) uint8 of a box; black outside the photograph, as in 300W (PROTOCOL
    3.2).
    """
    left, top, right, bottom = box.corners
    frame = image.crop((left, top, right, bottom)).resize((FRAME, FRAME), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(frame).transpose(2, 0, 1).copy())
