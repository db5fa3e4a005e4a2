"""Pictures as they may be given to a model: paths, PIL images, arrays and tensors, one or many."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from scemae.data.framing import Box, frame_of, square_box
from scemae.data.geometry import FRAME
from scemae.data.picture import (
    UnusablePicture,
    check_pixels,
    check_sides,
    read_picture,
    to_rgb,
    turned,
)
from scemae.errors import DataError
from scemae.evaluation.photographs.boxes import BoxFunction, corners_of
from scemae.evaluation.photographs.photograph_features import BoxedPhotograph

# One picture: a path, an image of PIL, an array (h, w, 3) or a tensor (3, h, w).
Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
# (x0, y0, x1, y1) in pixels of the picture; a function of the picture (PIL, upright) that returns
# its boxes, of which the largest is used; None: the largest centred square.
Corners: TypeAlias = Sequence[float] | BoxFunction | None
BOXES = (
    "give one (x0, y0, x1, y1) for all, a function that finds it in a picture, or a list with one "
    "of these or None for each"
)
KINDS = (
    "a path, an image of PIL, an array (h, w, 3) or a tensor (3, h, w), of uint8 or of floats in "
    "[0, 1], or many of them"
)


def split(pictures: Any) -> list[Picture]:
    """The pictures of one, of a list, or of a batch (b, h, w, 3) or tensor (b, 3, h, w).

    Raises DataError where there is none.
    """
    is_batch = isinstance(pictures, (np.ndarray, Tensor)) and pictures.ndim == 4
    found = list(pictures) if is_batch or isinstance(pictures, (list, tuple)) else [pictures]
    if not found:
        raise DataError(f"found no picture; give {KINDS}")
    return found


def frames_of(pictures: Any, boxes: Any = None) -> Tensor:
    """The frames (b, 3, 136, 136), floats in [0, 1], of pictures and a box for each.

    boxes: None, one box for all pictures, a function that finds them, or a list with one of these
    for each. Gradients pass
    through floats of tensors. Raises DataError or ConfigError.
    """
    found = split(pictures)
    corners = boxes_of(boxes, len(found))
    numbered = zip(found, corners, strict=True)
    return torch.stack([_frame(one, box, _name(one, i)) for i, (one, box) in enumerate(numbered)])


def boxes_of(boxes: Any, count: int) -> list[Corners]:
    """A box, a function or None for each of `count` pictures. Raises DataError."""
    if boxes is None or callable(boxes):
        return [boxes] * count
    if not isinstance(boxes, (Sequence, np.ndarray)):
        raise DataError(f"box: found {str(boxes)[:60]!r}; {BOXES}")
    if len(boxes) == 4 and all(isinstance(one, (int, float)) for one in boxes):
        return [_numbers(boxes)] * count
    if len(boxes) != count:
        raise DataError(f"box: found {len(boxes)} boxes for {count} pictures; {BOXES}")
    return [one if one is None or callable(one) else _numbers(one) for one in boxes]


def photograph_of(picture: Picture, corners: Corners, number: int = 0) -> BoxedPhotograph:
    """A picture as 8-bit RGB with its box, which `match` and `detect` take.

    Raises DataError or ConfigError.
    """
    name = _name(picture, number)
    image = _image(picture, name)
    box = square_box(image, _found(corners, image, name), name, option="box")
    return BoxedPhotograph(name, image, box)


def _found(corners: Corners, image: Image.Image, name: Path) -> list[float] | None:
    """The box of a picture, by asking a function where one is given. Raises DataError."""
    is_given = corners is None or callable(corners)
    return corners_of(corners if is_given else _numbers(corners), image, name)


def _numbers(corners: Any) -> list[float]:
    try:
        found = [float(one) for one in corners]
    except (TypeError, ValueError):
        found = []
    if len(found) != 4 or not np.isfinite(found).all():
        raise DataError(f"box: found {str(corners)[:60]}, four numbers x0, y0, x1, y1 were needed")
    return found


def _name(picture: Picture, number: int) -> Path:
    """What errors call a picture."""
    return Path(picture) if isinstance(picture, (str, Path)) else Path(f"picture {number}")


def _frame(picture: Picture, corners: Corners, name: Path) -> Tensor:
    if not isinstance(picture, Tensor) or not picture.is_floating_point():
        image = _image(picture, name)
        box = square_box(image, _found(corners, image, name), name, option="box")
        return frame_of(image, box).float() / 255
    _check(picture, name)
    try:
        check_sides(picture.shape[2], picture.shape[1])
    except UnusablePicture as error:
        raise DataError(f"{name}: {error}; give another picture") from error
    if corners is None and picture.shape[1:] == (FRAME, FRAME):
        return picture.float()
    # only a function looks at the pixels
    size = (picture.shape[2], picture.shape[1])
    image = _image(picture, name) if callable(corners) else Image.new("1", size)
    found = _found(corners, image, name)
    return _resized(picture.float(), square_box(image, found, name, option="box"))


def _resized(picture: Tensor, box: Box) -> Tensor:
    """The frame of a box of a tensor (3, h, w), with a graph; black outside, as `frame_of`."""
    left, top, right, bottom = box.corners
    height, width = picture.shape[1:]
    margins = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
    inside = picture[:, max(top, 0) : bottom, max(left, 0) : right]
    return functional.interpolate(
        functional.pad(inside, margins)[None],
        size=(FRAME, FRAME),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[0]


def _image(picture: Picture, name: Path) -> Image.Image:
    """A picture as 8-bit RGB of at least 32 pixels each way. Raises DataError."""
    if isinstance(picture, (str, Path)):
        return read_picture(Path(picture))
    try:
        if isinstance(picture, Image.Image):
            check_pixels(*picture.size)
            image = to_rgb(turned(picture))
        else:
            image = Image.fromarray(_pixels(picture, name))
        check_sides(*image.size)
    except UnusablePicture as error:
        raise DataError(f"{name}: {error}; give another picture") from error
    return image


def _pixels(picture: Any, name: Path) -> np.ndarray:
    """An array or tensor as (h, w, 3) uint8; floats in [0, 1] are rounded."""
    _check(picture, name)
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().permute(1, 2, 0).numpy()
    if picture.dtype != np.uint8:
        picture = (255 * picture).round().astype(np.uint8)
    return np.ascontiguousarray(picture)


def _check(picture: Any, name: Path) -> None:
    if not isinstance(picture, (np.ndarray, Tensor)):
        raise DataError(f"{name}: found a {type(picture).__name__}; give {KINDS}")
    channels = 0 if isinstance(picture, Tensor) else -1
    if picture.ndim != 3 or picture.shape[channels] != 3:
        raise DataError(f"{name}: found the shape {tuple(picture.shape)}; give {KINDS}")
    kind = str(picture.dtype).removeprefix("torch.")
    if kind == "uint8":
        return
    if not kind.startswith(("float", "bfloat")):
        raise DataError(f"{name}: found numbers of type {kind}; give {KINDS}")
    extremes = picture.detach() if isinstance(picture, Tensor) else picture
    low, high = (float(one) for one in (extremes.min(), extremes.max()))
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"{name}: found floats from {low:g} to {high:g}, they must lie in [0, 1]; divide 8-bit "
            "values by 255, and do not normalise: the model does"
        )
