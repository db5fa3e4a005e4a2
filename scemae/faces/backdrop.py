"""The background of a picture: gradients, blotches, out-of-focus clutter, stripes and textures."""

import cv2
import numpy as np
from numpy.random import Generator

from scemae.faces.canvas import HEIGHT, SCALE, WIDTH, blur


def paint_backdrop(kind: str, rng: Generator) -> np.ndarray:
    """A background (436, 356, 3) uint8, painted at half the frame's size and enlarged."""
    h, w = HEIGHT // 2, WIDTH // 2
    cells = (2, 2)
    if kind == "blotches":
        cells = int(rng.integers(3, 9)), int(rng.integers(3, 7))
    base = blotches(rng, cells)
    small = cv2.resize(base, (w, h), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    if kind == "clutter":
        add_clutter(small, rng)
        small = blur(small, rng.uniform(0.4, 4.0))
    elif kind == "stripes":
        add_stripes(small, rng)
    elif kind == "texture":
        strength, shape = rng.uniform(8, 38), (h // 2, w // rng.integers(2, 12), 1)
        grain = rng.normal(0, strength, shape).astype(np.float32)
        enlarged = cv2.resize(grain, (w, h), interpolation=cv2.INTER_LINEAR)[..., None]
        small = (small + enlarged).clip(0, 255).astype(np.uint8)
    return cv2.resize(small, (WIDTH * SCALE, HEIGHT * SCALE), interpolation=cv2.INTER_LINEAR)


def blotches(rng: Generator, cells: tuple[int, int]) -> np.ndarray:
    """Random colours (rows, columns, 3) about a common one."""
    centre = rng.uniform(15, 240) + rng.normal(0, 28, 3)
    return (centre + rng.normal(0, 26, (*cells, 3))).clip(0, 255).astype(np.float32)


def add_clutter(small: np.ndarray, rng: Generator) -> None:
    """Draw boxes, discs and lines of random colours."""
    h, w = small.shape[:2]
    for _ in range(rng.integers(6, 22)):
        x, y, a, b = (int(v) for v in rng.integers(0, (w, h, w // 2, h // 2)))
        colour = tuple(float(v) for v in rng.uniform(0, 255, 3))
        shape = rng.integers(4)
        if shape < 2:
            cv2.rectangle(small, (x, y), (x + a, y + b), colour, -1)
        elif shape == 2:
            cv2.circle(small, (x, y), 1 + a // 3, colour, -1, cv2.LINE_AA)
        else:
            cv2.line(small, (x, y), (x + a - w // 4, y + b), colour, 1 + b // 12, cv2.LINE_AA)


def add_stripes(small: np.ndarray, rng: Generator) -> None:
    """Draw parallel stripes of one colour."""
    h, w = small.shape[:2]
    angle, gap = rng.uniform(0, np.pi), rng.uniform(5, 20)
    along, across = (
        np.array([np.cos(angle), np.sin(angle)]),
        np.array([-np.sin(angle), np.cos(angle)]),
    )
    offsets = (
        np.arange(-160, 160, gap)[:, None, None] * across
        + np.array([[-1], [1]]) * 180 * along
        + (w / 2, h / 2)
    )
    colour = tuple(float(v) for v in small.mean(axis=(0, 1)) + rng.normal(0, 45, 3))
    width = max(1, int(gap * rng.uniform(0.2, 0.6)))
    cv2.polylines(small, list(offsets.astype(np.int32)), False, colour, width, cv2.LINE_AA)
