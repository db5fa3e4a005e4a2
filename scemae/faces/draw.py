"""From an identity and a moment to the finished picture."""

from functools import cache

import cv2
import numpy as np
from numpy.random import Generator

from scemae.faces.backdrop import paint_backdrop
from scemae.faces.canvas import HEIGHT, WIDTH, Canvas, blur
from scemae.faces.covers import paint_cover, paint_glasses
from scemae.faces.features import paint_brows, paint_eyes, paint_mouth, paint_nose
from scemae.faces.geometry import Face
from scemae.faces.hair import (
    paint_back_hair,
    paint_beard,
    paint_cap_of_hair,
    paint_front_hair,
    paint_hat,
)
from scemae.faces.head import paint_body, paint_light, paint_marks, paint_relief, paint_skin
from scemae.faces.people import Moment, Person, generator


def draw_face(face: Face, person: Person, moment: Moment, rng: Generator) -> np.ndarray:
    """The picture (218, 178, 3) uint8 RGB; the face's landmarks are in its pixels."""
    canvas = Canvas(paint_backdrop(moment.backdrop, rng))
    paint_back_hair(canvas, face, person, rng)
    paint_body(canvas, face, person, moment, rng)
    paint_cap_of_hair(canvas, face, person, rng)
    paint_skin(canvas, face, person)
    paint_marks(canvas, face, person)
    paint_beard(canvas, face, person, rng)
    paint_nose(canvas, face, person, moment)
    paint_mouth(canvas, face, person)
    paint_eyes(canvas, face, person, moment)
    paint_brows(canvas, face, person)
    paint_front_hair(canvas, face, person, rng)
    paint_hat(canvas, face, moment, rng)
    paint_relief(canvas, face, person, moment)
    paint_light(canvas, face, moment)
    canvas.spread_shade()
    paint_glasses(canvas, face, moment, rng)
    paint_cover(canvas, face, person, moment, rng)
    return photograph(canvas.pixels, moment, rng)


def photograph(pixels: np.ndarray, moment: Moment, rng: Generator) -> np.ndarray:
    """Average pixels down to the frame, blur and add noise as a camera does."""
    image = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    if moment.blur:
        image = blur(image, moment.blur)
    top, left = rng.integers(0, 64, 2)
    grain = film_grain()[top : top + HEIGHT, left : left + WIDTH]
    return cv2.addWeighted(image, 1.0, grain, moment.noise, -128 * moment.noise)


@cache
def film_grain() -> np.ndarray:
    """Fixed noise (uint8, mean 128) from which each picture takes a window."""
    rng = generator(0, 3)
    grey = rng.normal(0, 1, (HEIGHT + 64, WIDTH + 64, 1)) + 0.6 * rng.normal(
        0, 1, (HEIGHT + 64, WIDTH + 64, 3)
    )
    return (128 + 42 * grey).clip(0, 255).astype(np.uint8)
