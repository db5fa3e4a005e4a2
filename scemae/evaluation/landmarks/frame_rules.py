"""The rules by which a stored image and its landmarks become a 136x136 frame, one for each kind of
data set.

What happens before the resize to 136x136 (`FRAME`) is DVE's and differs per data set (PROTOCOL 3.1,
3.2 [F]). All resizes are PIL bilinear.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from scemae.data.framing import frame_of, square_box
from scemae.data.geometry import CELEBA_SIZE, CELEBA_TOP, FRAME, celeba_box
from scemae.errors import ConfigError

BOX, WINDOW = 52, 100  # 300W: the box becomes 52 px wide, the window around it is 100x100
RAISED = 2  # 300W: the window's centre lies 2 px above the centre of the box
LARGEST = 2**13  # 300W: allowed side of an image whose box has been scaled

Framed = tuple[Image.Image, np.ndarray]


def _celeba_frame(
    image: Image.Image, landmarks: np.ndarray, offset: float, cropped: bool
) -> Framed:
    side = CELEBA_SIZE[0]
    if cropped:  # `scemae shards build celeba --resize N` stored the landmarks in this frame
        return _resized(image), landmarks * (FRAME / image.width)
    if image.size != CELEBA_SIZE:
        raise ValueError(f"found an image of {image.size}, needed aligned CelebA's {CELEBA_SIZE}")
    image = image.crop(celeba_box())
    return _resized(image), (landmarks + offset - (0, CELEBA_TOP)) * (FRAME / side)


def _stretched(image: Image.Image, landmarks: np.ndarray, offset: float, _: object) -> Framed:
    return _resized(image), (landmarks + offset) * (FRAME / np.array(image.size))


def _box_frame(
    image: Image.Image, landmarks: np.ndarray, offset: float, box: list[float] | None
) -> Framed:
    """300W (PROTOCOL 3.2 [F]), in Matlab's counting: pixels from 1, widths max - min + 1.

    DVE leaves the filter of the first resize to PIL's default, which has changed with PIL's
    versions: bilinear here [U].
    """
    if box is None or len(box) != 4 or not (box[2] > box[0] and box[3] > box[1]):
        raise ValueError(f"found the box {box}, needed [x0, y0, x1, y1]")
    low, high = np.array(box[:2], float), np.array(box[2:], float)
    size = high - low + 1
    scale = BOX / size[0]  # the width alone sets the scale: aspect is kept
    centre = np.floor(scale * (low + (size + 1) / 2))
    left, top = (int(edge) for edge in centre - WINDOW // 2 - (0, RAISED))
    if scale * max(image.size) > LARGEST:
        raise ValueError(
            f"found the box {box} in an image of {image.size}, which would be enlarged to more "
            f"than {LARGEST} px"
        )
    scaled = image.resize(
        (max(1, int(image.width * scale)), max(1, int(image.height * scale))),
        Image.Resampling.BILINEAR,
    )
    window = scaled.crop((left, top, left + WINDOW, top + WINDOW))  # PIL pads with zeros
    return _resized(window), (landmarks * scale - (left, top) + offset) * (FRAME / WINDOW)


def _photograph_frame(
    image: Image.Image,
    landmarks: np.ndarray,
    offset: float,
    extra: tuple[list[float] | None, float],
) -> Framed:
    """The square around an object's box, or of the whole picture (data/framing.py)."""
    corners, margin = extra
    try:
        square = square_box(image, corners, Path("box"), margin=margin)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    frame = Image.fromarray(frame_of(image, square).permute(1, 2, 0).numpy())
    return frame, square.to_frame(landmarks + offset)


def _resized(image: Image.Image) -> Image.Image:
    return image.resize((FRAME, FRAME), Image.Resampling.BILINEAR)


# By name. Each takes an image, its raw landmarks (l, 2), their offset and an argument of its own.
RULES: dict[str, Callable] = {
    "celeba": _celeba_frame,
    "stretch": _stretched,
    "box": _box_frame,
    "photograph": _photograph_frame,
}
