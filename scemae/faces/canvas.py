"""A picture while it is drawn: pixels at twice the final size, and a small layer of soft shade."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import cv2
import numpy as np

from scemae.data.geometry import CELEBA_SIZE

WIDTH, HEIGHT = CELEBA_SIZE
SCALE = 2  # of `pixels` to the frame, against jagged edges
SHIFT = 4  # fractional bits of OpenCV's integer coordinates
SOFT = 0.5  # of `shade` to the frame: everything on it is blurred

Colour = np.ndarray | tuple[float, float, float]  # RGB in 0..255
Number = float | np.floating


@cache
def spline_weights(count: int, closed: bool, steps: int = 5) -> np.ndarray:
    """Weights (m, count) of a Catmull-Rom curve through `count` points."""
    spans = count if closed else count - 1
    t = (np.arange(steps) / steps)[:, None]
    basis = (
        np.concatenate(
            [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1
        )
        / 2
    )
    weights = np.zeros((spans * steps + (not closed), count))
    for span in range(spans):
        for k in range(4):
            near = (span + k - 1) % count if closed else min(max(span + k - 1, 0), count - 1)
            weights[span * steps : (span + 1) * steps, near] += basis[:, k]
    if not closed:
        weights[-1, -1] = 1
    return weights


def smooth(points: np.ndarray, *, closed: bool = False, steps: int = 5) -> np.ndarray:
    """A curve (m, 2) through points (n, 2)."""
    return spline_weights(len(points), closed, steps) @ points


def to_fixed(points: np.ndarray, scale: float = SCALE) -> np.ndarray:
    """Fixed-point coordinates on a canvas `scale` times the frame.

    Whole numbers are centres of pixels in both.
    """
    unit = scale * (1 << SHIFT)
    return np.rint(points * unit + (0.5 * unit - 0.5 * (1 << SHIFT))).astype(np.int32)


class Canvas:
    """All methods take points (n, 2) in pixels of the 178x218 frame and RGB colours in 0..255."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels  # (436, 356, 3) uint8
        self.shade = np.ones((int(HEIGHT * SOFT), int(WIDTH * SOFT), 3), np.float32)
        self.tints: dict[float, np.ndarray] = {}

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.pixels, [to_fixed(points)], tuple(map(float, colour)), cv2.LINE_AA, SHIFT)

    def stroke(
        self, lines: list | np.ndarray, colour: Colour, width: float, *, closed: bool = False
    ) -> None:
        """Draw lines, (k, n, 2) or a list of (n, 2), `width` pixels wide (in steps of a half)."""
        thickness = max(1, round(width * SCALE))
        fixed = (
            list(to_fixed(lines))
            if isinstance(lines, np.ndarray)
            else [to_fixed(line) for line in lines]
        )
        cv2.polylines(
            self.pixels, fixed, closed, tuple(map(float, colour)), thickness, cv2.LINE_AA, SHIFT
        )

    def disc(self, centre: np.ndarray, radius: Number, colour: Colour) -> None:
        """Fill a circle."""
        x, y = to_fixed(np.asarray(centre))
        size = round(radius * SCALE * (1 << SHIFT))
        cv2.circle(
            self.pixels, (int(x), int(y)), size, tuple(map(float, colour)), -1, cv2.LINE_AA, SHIFT
        )

    @contextmanager
    def inside(
        self, outline: np.ndarray, opacity: float = 1.0, soft: float = 0.0
    ) -> Iterator[None]:
        """What is drawn in this block shows only inside `outline`.

        It gets `opacity`, and a border that fades over `soft` pixels.
        """
        fixed = to_fixed(outline)
        rows, cols = box(fixed, int((14 + 2 * soft) * SCALE), self.pixels.shape)
        before = self.pixels[rows, cols].copy()
        whole = self.pixels
        yield
        if not before.size:
            return
        mask = np.zeros(before.shape[:2], np.uint8)
        origin = np.array((cols.start << SHIFT, rows.start << SHIFT), np.int32)
        cv2.fillPoly(mask, [fixed - origin], 255, cv2.LINE_AA, SHIFT)
        if soft:
            mask = blur(mask, soft * SCALE)
        part = cv2.merge([mask] * 3)
        after = cv2.multiply(whole[rows, cols], part, scale=opacity / 255)
        if opacity < 1:
            part = cv2.multiply(part, 1.0, scale=opacity)  # type: ignore[call-overload]  # a scalar
        whole[rows, cols] = cv2.add(
            after, cv2.multiply(before, cv2.bitwise_not(part), scale=1 / 255)
        )

    def tint(self, points: np.ndarray, factor: float | tuple | np.ndarray, soft: float) -> None:
        """Multiply the light inside a polygon by `factor`, scalar or RGB, blur `soft` pixels.

        Tints of one softness share a layer, which is blurred once at the end; where they overlap,
        the later one replaces the earlier.
        """
        if soft not in self.tints:
            self.tints[soft] = np.ones_like(self.shade)
        colour = np.broadcast_to(np.asarray(factor, float), 3).tolist()
        cv2.fillPoly(self.tints[soft], [to_fixed(points, SOFT)], colour, shift=SHIFT)

    def spread_shade(self) -> None:
        """Multiply the pixels by all light and shade."""
        for soft, layer in self.tints.items():
            self.shade *= blur(layer, soft * SOFT)
        small = np.clip(self.shade * 120, 0, 255).astype(np.uint8)
        large = cv2.resize(
            small, (self.pixels.shape[1], self.pixels.shape[0]), interpolation=cv2.INTER_LINEAR
        )
        cv2.multiply(self.pixels, large, self.pixels, scale=1 / 120)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of an image or mask, `sigma` in its own pixels."""
    size = 2 * int(np.ceil(2 * sigma)) + 1
    return cv2.GaussianBlur(image, (size, size), sigma, borderType=cv2.BORDER_REPLICATE)


def box(fixed: np.ndarray, margin: int, shape: tuple) -> tuple[slice, slice]:
    """Rows and columns of a canvas of `shape` around fixed-point coordinates, with a `margin`."""
    (x0, y0), (x1, y1) = (
        (fixed.min(axis=0) >> SHIFT).tolist(),
        (fixed.max(axis=0) >> SHIFT).tolist(),
    )
    rows = slice(min(max(y0 - margin, 0), shape[0]), min(max(y1 + margin + 2, 0), shape[0]))
    return rows, slice(min(max(x0 - margin, 0), shape[1]), min(max(x1 + margin + 2, 0), shape[1]))


def ellipse(
    centre: np.ndarray, radii: tuple[Number, Number], angle: float = 0.0, count: int = 24
) -> np.ndarray:
    """An ellipse (count, 2), turned by `angle` radians."""
    points = circle(count) * radii
    if angle:
        c, s = np.cos(angle), np.sin(angle)
        points = points @ np.array([(c, s), (-s, c)])
    return points + centre


@cache
def circle(count: int) -> np.ndarray:
    """The unit circle (count, 2), clockwise in the picture from the right."""
    t = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(t), np.sin(t)], axis=1)
