"""Butterflies from above with exact points: a second category, to try own annotations with.

    scemae faces butterflies --layout butterflies --count 600

Each has ten points: head, tail, and left and right antenna, forewing, notch and hindwing. Shape,
colours, patterns, pose, light and background vary; picture i depends on the seed and i alone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from scemae.faces.backdrop import add_clutter, add_stripes, blotches
from scemae.faces.canvas import blur, circle, smooth
from scemae.faces.people import generator
from scemae.files import disk

POINTS = (
    "head",
    "tail",
    *(
        f"{side} {part}"
        for part in ("antenna", "forewing", "notch", "hindwing")
        for side in ("left", "right")
    ),
)
SIDE = 240  # pixels of a picture
SHARP = 2  # drawn so many times as large, against jagged edges
CLICKED = 20  # pictures whose points one would set by hand
WORLD = 11  # stream of random numbers beside those of faces


@dataclass
class Shape:
    """One half of a butterfly in units of its wing: x from the body outwards, y downwards."""

    forewing: np.ndarray  # (n, 2) outline from the body, round to the body
    hindwing: np.ndarray
    points: np.ndarray  # (4, 2): antenna, forewing, notch, hindwing
    head: float  # y
    tail: float


@dataclass
class Paint:
    """Colours and patterns, the same on both sides."""

    wing: np.ndarray  # RGB
    second: np.ndarray
    edge: np.ndarray
    spots: np.ndarray  # (k, 4): x, y, radius, kind of colour
    veins: int
    border: float


def draw_shape(rng: Generator) -> Shape:
    """Wings of random proportions."""
    tip = np.array([rng.uniform(0.85, 1.1), rng.uniform(-0.95, -0.5)])
    notch = np.array([rng.uniform(0.6, 0.82), rng.uniform(-0.02, 0.14)])
    low = np.array([rng.uniform(0.45, 0.78), rng.uniform(0.6, 0.95)])
    bulge = rng.uniform(-0.1, 0.12)
    forewing = np.array(
        [
            (0.03, -0.18),
            (0.35 * tip[0], 0.55 * tip[1] - 0.2 + bulge),
            (0.75 * tip[0], tip[1] - bulge),
            tip,
            (0.95 * tip[0], 0.4 * tip[1] + 0.1 * bulge),
            notch,
            (0.03, 0.08),
        ]
    )
    hindwing = np.array(
        [
            (0.03, 0.0),
            notch,
            (notch[0] + 0.08, 0.5 * (notch[1] + low[1])),
            low,
            (0.45 * low[0], low[1] * rng.uniform(0.7, 0.95)),
            (0.03, 0.3),
        ]
    )
    antenna = np.array([rng.uniform(0.15, 0.35), rng.uniform(-0.85, -0.6)])
    points = np.stack([antenna, tip, notch, low])
    return Shape(forewing, hindwing, points, -0.28, rng.uniform(0.35, 0.6))


def draw_paint(rng: Generator) -> Paint:
    """Random colours, with the edge darker or lighter than the wing."""
    wing, second = rng.uniform(30, 250, 3), rng.uniform(20, 255, 3)
    edge = wing * rng.uniform(0.1, 0.5) if rng.random() < 0.75 else 255 - wing * 0.3
    count = int(rng.integers(1, 6))
    spots = np.stack(
        [
            rng.uniform(0.2, 0.75, count),
            rng.uniform(-0.5, 0.6, count),
            rng.uniform(0.04, 0.13, count),
            rng.integers(0, 3, count),
        ],
        axis=1,
    )
    return Paint(wing, second, edge, spots, int(rng.integers(0, 7)), rng.uniform(0.02, 0.09))


def draw_butterfly(index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture `index`: pixels (240, 240, 3) uint8 RGB, and its points (10, 2)."""
    rng = generator(seed, WORLD, index)
    shape, paint = draw_shape(rng), draw_paint(rng)
    size, angle = rng.uniform(50, 68), rng.normal(0, np.radians(16))
    squeeze = rng.uniform(0.72, 1.0, 2)  # of the left and the right wing: half closed
    centre = SIDE / 2 + rng.normal(0, 6, 2)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])

    def place(points: np.ndarray, side: int) -> np.ndarray:
        """Points of one half, or with side 0 of the body, in pixels of the picture."""
        wide = (-squeeze[0], squeeze[1])[side > 0] if side else 1.0
        return (points * (wide, 1)) @ turn * size + centre

    pixels = _background(rng)
    _shadow(pixels, [place(w, s) for s in (-1, 1) for w in (shape.forewing, shape.hindwing)], rng)
    for side in (-1, 1):
        for wing in (shape.hindwing, shape.forewing):
            _paint_wing(pixels, wing, partial(place, side=side), paint, size)
    _paint_body(pixels, shape, place, paint, rng)
    halves = [place(shape.points, side) for side in (-1, 1)]
    body = place(np.array([(0, shape.head), (0, shape.tail)]), 0)
    points = np.concatenate([body, np.stack(halves, axis=1).reshape(-1, 2)])
    return _photograph(pixels, rng), points


def _fixed(points: np.ndarray) -> np.ndarray:
    """OpenCV's coordinates with 4 fractional bits, on the large canvas."""
    return np.rint(((points + 0.5) * SHARP - 0.5) * 16).astype(np.int32)


def _fill(pixels: np.ndarray, outline: np.ndarray, colour: np.ndarray) -> None:
    cv2.fillPoly(pixels, [_fixed(outline)], tuple(map(float, colour)), cv2.LINE_AA, 4)


def _stroke(pixels: np.ndarray, line: np.ndarray, colour: np.ndarray, width: float) -> None:
    thickness = max(1, round(width * SHARP))
    cv2.polylines(
        pixels, [_fixed(line)], False, tuple(map(float, colour)), thickness, cv2.LINE_AA, 4
    )


def _paint_wing(
    pixels: np.ndarray, wing: np.ndarray, place: Callable, paint: Paint, size: float
) -> None:
    whole = smooth(wing, closed=True)
    centre = wing.mean(axis=0)
    _fill(pixels, place(whole), paint.edge)
    inner = centre + (whole - centre) * (1 - 2.5 * paint.border)
    _fill(pixels, place(inner), paint.wing)
    _fill(pixels, place(centre * 0.7 + (whole - centre) * 0.4), paint.second)
    root = wing[0]
    for part in np.linspace(0.15, 0.85, paint.veins):
        end = inner[int(part * (len(inner) - 1))]
        _stroke(pixels, place(np.stack([root, end])), paint.edge, 0.8)
    colours = (paint.edge, paint.second, np.full(3, 240.0))
    mask = np.zeros(pixels.shape[:2], np.uint8)
    cv2.fillPoly(mask, [_fixed(place(inner))], 255, cv2.LINE_AA, 4)
    spotted = pixels.copy()
    for x, y, radius, kind in paint.spots:
        _fill(spotted, place(circle(20) * radius + (x, y)), colours[int(kind)])
        _fill(spotted, place(circle(16) * radius * 0.4 + (x, y)), paint.edge)
    pixels[mask > 127] = spotted[mask > 127]


def _paint_body(
    pixels: np.ndarray, shape: Shape, place: Callable, paint: Paint, rng: Generator
) -> None:
    dark = paint.edge * 0.4 + rng.uniform(10, 60)
    middle = 0.5 * (shape.head + shape.tail)
    half = 0.5 * (shape.tail - shape.head)
    outline = circle(24) * (rng.uniform(0.05, 0.08), half) + (0, middle)
    for side in (-1, 1):
        tip = shape.points[0]
        bend = np.array([0.3 * tip[0], 0.5 * (tip[1] + shape.head)])
        line = smooth(np.stack([(0, shape.head), bend, tip]))
        _stroke(pixels, place(line, side), dark, 1.2)
        _fill(pixels, place(circle(12) * 0.03 + tip, side), dark)
    _fill(pixels, place(outline, 0), dark)
    _fill(pixels, place(circle(16) * 0.07 + (0, shape.head + 0.04), 0), dark * 0.7)


def _shadow(pixels: np.ndarray, outlines: list[np.ndarray], rng: Generator) -> None:
    mask = np.zeros(pixels.shape[:2], np.uint8)
    shift = rng.uniform(2, 7, 2)
    for outline in outlines:
        cv2.fillPoly(mask, [_fixed(smooth(outline, closed=True) + shift)], 255, cv2.LINE_AA, 4)
    soft = blur(mask, 3.0 * SHARP).astype(np.float32)[..., None] / 255
    pixels[:] = (pixels * (1 - rng.uniform(0.2, 0.5) * soft)).astype(np.uint8)


def _background(rng: Generator) -> np.ndarray:
    """Blotches, leaves and clutter, (480, 480, 3) uint8."""
    half = SIDE // 2
    base = blotches(rng, (int(rng.integers(2, 8)), int(rng.integers(2, 8))))
    small = cv2.resize(base, (half, half), interpolation=cv2.INTER_CUBIC)
    small = small.clip(0, 255).astype(np.uint8)
    kind = rng.random()
    if kind < 0.45:
        add_clutter(small, rng)
        small = blur(small, rng.uniform(0.3, 3.0))
    elif kind < 0.65:
        add_stripes(small, rng)
    return cv2.resize(small, (SIDE * SHARP,) * 2, interpolation=cv2.INTER_LINEAR)


def _photograph(pixels: np.ndarray, rng: Generator) -> np.ndarray:
    """Down to the final size, with light from one side, blur and noise."""
    image = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    ramp = np.linspace(-1, 1, SIDE)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.25)
    light = 1 + strength * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None])
    image *= (light * rng.uniform(0.75, 1.1))[..., None]
    if rng.random() < 0.5:
        image = blur(image, rng.uniform(0.4, 1.1))
    return (image + rng.normal(0, rng.uniform(1, 7), image.shape)).clip(0, 255).astype(np.uint8)


def write_picture(index: int, out: Path, seed: int) -> np.ndarray:
    """Write picture `index` as JPEG; returns its points (10, 2)."""
    pixels, points = draw_butterfly(index, seed)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92]
    )
    with disk.create(out / "pictures" / name(index)) as file:
        file.write(jpeg.tobytes())
    return points


def write_butterflies(out: Path, count: int, seed: int, draw: Callable) -> None:
    """Write OUT/pictures, and the points of the first 20 pictures (clicked.json), of the last sixth
    (test.json, their names in test.txt) and of all (points.json), in our own JSON.
    """
    (out / "pictures").mkdir(parents=True)
    drawn = draw(partial(write_picture, out=out, seed=seed), [*range(count)])
    tested = range(max(count - count // 6, min(CLICKED, count - 1)), count)
    for file, rows in (
        ("points.json", range(count)),
        ("clicked.json", range(min(CLICKED, tested.start))),
        ("test.json", tested),
    ):
        pictures = {name(i): np.round(drawn[i], 2).tolist() for i in rows}
        text = json.dumps({"points": POINTS, "pictures": pictures}) + "\n"
        with disk.create(out / file) as target:
            target.write(text.encode())
    with disk.create(out / "test.txt") as target:
        target.write("".join(f"{name(i)}\n" for i in tested).encode())


def name(index: int) -> str:
    """The file name of picture `index`."""
    return f"butterfly-{index + 1:05d}.jpg"
