"""The options of `match` and `detect` that name places in a photograph: boxes, points, a grid.

data/framing.py has the box itself and its frame.
"""

from pathlib import Path

import numpy as np

from scemae.data.framing import Box
from scemae.data.geometry import INPUT
from scemae.errors import ConfigError

CENTRE = "centre"  # in place of a box: that of `square_box` without one
DEFAULT = "the largest centred square (of CelebA's aligned pictures rows 30 to 207)"


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


def parse_points(text: str) -> np.ndarray:
    """Points (l, 2) from "x,y x,y ...". Raises ConfigError."""
    if not text.split():
        needed = '"x,y x,y ..." in pixels of the first photograph'
        raise ConfigError(f"--points: found none; give {needed}, or leave it out")
    return np.array([read_numbers("--points", part, 2) for part in text.split()])


def check_points(points: np.ndarray, box: Box, path: Path, *, option: str = "--points") -> None:
    """Raise ConfigError for the first of the points (l, 2) outside the part that networks see."""
    inside = box.are_seen(points)
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
