"""The sizes of images: evaluation frame, its central crop, CelebA's frame (PROTOCOL 3.1, 3.2)."""

FRAME = 136  # side of the evaluation frame in pixels
CROP = 20  # pixels cut off each side of the frame
INPUT = 96  # side of what the network and the scores see: FRAME - 2 * CROP
UNIT = 70  # matching errors are given in pixels of a frame of this side (PROTOCOL 3.4)

CELEBA_SIZE = (178, 218)  # aligned CelebA, width and height
CELEBA_TOP = 30  # rows 30..207 of it are its square frame


def celeba_box() -> tuple[int, int, int, int]:
    """The frame of an aligned CelebA image, as PIL crops it: (0, 30, 178, 208), x0 y0 x1 y1."""
    side = CELEBA_SIZE[0]
    return 0, CELEBA_TOP, side, CELEBA_TOP + side


def frame_box(width: int, height: int) -> tuple[int, int, int, int]:
    """The square of an image that is its frame, as PIL crops it: x0 y0 x1 y1.

    The frame of an aligned CelebA image, else the largest square in the centre.
    """
    if (width, height) == CELEBA_SIZE:
        return celeba_box()
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
