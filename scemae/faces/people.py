"""Identities and the moments they are drawn in: pure functions of a seed and a number."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import ArrayLike

T = TypeVar("T")
SHAPE_NUMBERS = 24

SKIN = np.array(
    [
        (228, 186, 162),
        (218, 168, 138),
        (206, 154, 120),
        (180, 124, 92),
        (146, 96, 68),
        (92, 60, 46),
    ],
    float,
)
DARK_HAIR = np.array([(22, 18, 18), (38, 28, 24), (58, 40, 30)], float)
LIGHT_HAIR = np.array(
    [(92, 62, 40), (140, 100, 62), (204, 164, 108), (226, 196, 146), (150, 66, 34)], float
)
GREY_HAIR = np.array([(128, 126, 126), (206, 204, 200)], float)
DYED_HAIR = np.array([(150, 40, 60), (60, 70, 150), (190, 110, 160), (40, 110, 100)], float)
IRISES = np.array(
    [(58, 36, 22), (84, 52, 28), (110, 84, 44), (88, 116, 84), (92, 128, 162), (120, 140, 150)],
    float,
)
COVERS = ("none", "hand", "scarf", "microphone", "strand", "mask")
STYLES = ("bald", "buzz", "short", "swept", "curly", "bob", "long", "updo")
STYLE_CHANCES = (
    (0.03, 0.02, 0.06, 0.07, 0.12, 0.20, 0.35, 0.15),
    (0.10, 0.20, 0.32, 0.18, 0.10, 0.03, 0.05, 0.02),
)


@dataclass(frozen=True)
class Person:
    """What all pictures of one identity share.

    Colours are RGB in 0..255; `shape` are standard normal numbers for geometry.py.
    """

    shape: np.ndarray
    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    brows: np.ndarray
    iris: np.ndarray
    style: str
    bangs: float
    parting: float
    volume: float
    brow_width: float
    beard: float
    moustache: float
    makeup: float
    eyeshadow: np.ndarray
    freckles: int
    wrinkles: float
    wears_glasses: bool


@dataclass(frozen=True)
class Moment:
    """What belongs to one picture.

    Angles in radians; `jitter` is roll, log-scale, and shift in pixels (x, y).
    """

    yaw: float
    pitch: float
    tilt: float
    smile: float
    mouth_open: float
    eye_closure: float
    brow_raise: float
    frown: float
    gaze: np.ndarray
    jitter: np.ndarray
    light: np.ndarray
    contrast: float
    light_colour: np.ndarray
    exposure: float
    backdrop: str
    glasses: str
    hat: str
    cover: str
    blur: float
    noise: float
    quality: int


def generator(*key: int) -> Generator:
    """A random stream that depends only on the key, which is made of non-negative integers."""
    return Generator(Philox(SeedSequence(key)))


def mix(a: np.ndarray, b: ArrayLike, weight: float) -> np.ndarray:
    """Colour between a (weight 0) and b (weight 1)."""
    return a + (np.asarray(b, float) - a) * weight


def pick(rng: Generator, options: tuple[T, ...], chances: tuple[float, ...]) -> T:
    """One of `options`; `chances` sum to one. (Generator.choice takes ten times as long.)"""
    at, reached = rng.random(), 0.0
    for option, chance in zip(options, chances, strict=True):
        reached += chance
        if at < reached:
            return option
    return options[-1]


@lru_cache(maxsize=20_000)
def draw_person(seed: int, identity: int) -> Person:
    """Identity number `identity` (from 1) of the world `seed`."""
    rng = generator(seed, 1, identity)
    # A row of the style tables: 0 longer hair and make-up, 1 shorter hair and beards.
    bearded = int(rng.random() < 0.5)
    tone = rng.beta(0.9, 1.5) * (len(SKIN) - 1.001)
    skin = mix(SKIN[int(tone)], SKIN[int(tone) + 1], tone % 1) * rng.normal(1, 0.015, 3)
    hair = sample_hair(rng, tone) * rng.normal(1, 0.05, 3)
    makeup = (rng.random() < 0.65) * rng.uniform(0.2, 1.0) * (1 - bearded)
    natural = mix(skin, (168, 62, 66), rng.uniform(0.25, 0.5))
    painted = np.array([(178, 26, 50), (208, 70, 96), (140, 30, 60), (196, 92, 84)], float)[
        rng.integers(4)
    ]
    beard = bearded * pick(rng, (0.0, 0.3, 0.85), (0.5, 0.3, 0.2))
    return Person(
        shape=np.clip(rng.standard_normal(SHAPE_NUMBERS), -2.2, 2.2),
        skin=skin.clip(30, 254),
        hair=hair.clip(12, 250),
        lips=mix(natural, painted, makeup * 0.8),
        brows=mix(hair, skin * 0.4, 0.35).clip(12, 200),
        iris=IRISES[rng.integers(2 if tone > 2.5 else len(IRISES))] * rng.uniform(0.8, 1.2),
        style=pick(rng, STYLES, STYLE_CHANCES[bearded]),
        bangs=rng.uniform(0.5, 1) * (rng.random() < 0.25),
        parting=rng.uniform(-0.7, 0.7),
        volume=rng.uniform(0.0, 1.0),
        brow_width=rng.uniform(1.6, 3.2) + 0.7 * bearded,
        beard=beard,
        moustache=max(beard * rng.integers(2), 0.8 * bearded * (rng.random() < 0.12)),
        makeup=makeup,
        eyeshadow=np.array([(110, 70, 90), (70, 80, 130), (90, 60, 50), (60, 50, 60)], float)[
            rng.integers(4)
        ],
        freckles=int(rng.integers(10, 40)) * (rng.random() < 0.12),
        wrinkles=rng.beta(1, 2.5),
        wears_glasses=bool(rng.random() < 0.18),
    )


def sample_hair(rng: Generator, tone: float) -> np.ndarray:
    """A hair colour; light hair is rarer on dark skin (`tone` 0 light .. 5 dark)."""
    chances = np.array([1.0 + 2 * (tone > 2), 1.6 * (tone <= 2) + 0.1, 0.35, 0.12])
    family = pick(
        rng, (DARK_HAIR, LIGHT_HAIR, GREY_HAIR, DYED_HAIR), tuple(chances / chances.sum())
    )
    return family[rng.integers(len(family))]


def draw_moment(rng: Generator, person: Person) -> Moment:
    """A moment of `person`: pose, expression, light, cover of the face, quality of the camera."""
    direction = rng.normal((0, -0.5, 0), (0.75, 0.45, 0.01)) + (0, 0, rng.uniform(0.5, 1.2))
    warmth = rng.normal(0, 0.07)
    return Moment(
        yaw=min(max(rng.normal(0, 0.29), -0.66), 0.66),
        pitch=min(max(rng.normal(0, 0.13), -0.34), 0.34),
        tilt=min(max(rng.normal(0, 0.14), -0.4), 0.4),
        smile=pick(rng, (rng.uniform(-0.4, 0.2), rng.uniform(0.3, 1.1)), (0.5, 0.5)),
        mouth_open=pick(
            rng, (0.0, rng.uniform(0.05, 0.35), rng.uniform(0.3, 1.0)), (0.5, 0.35, 0.15)
        ),
        eye_closure=pick(
            rng, (rng.uniform(-0.15, 0.3), rng.uniform(0.3, 0.7), 0.93), (0.8, 0.14, 0.06)
        ),
        brow_raise=min(max(rng.normal(0, 0.45), -0.7), 1.3),
        frown=max(0.0, rng.normal(-0.2, 0.5)),
        gaze=rng.normal(0, (1.5, 0.6)),
        jitter=rng.normal(0, (np.deg2rad(4), 0.04, 2, 2)),
        light=direction / np.linalg.norm(direction),
        contrast=rng.uniform(0.1, 0.7),
        light_colour=np.array([1 + warmth, 1.0, 1 - warmth]) * rng.normal(1, 0.03, 3),
        exposure=rng.uniform(0.8, 1.22),
        backdrop=pick(
            rng,
            ("gradient", "blotches", "clutter", "stripes", "texture"),
            (0.2, 0.25, 0.3, 0.1, 0.15),
        ),
        glasses=pick(
            rng,
            ("none", "clear", "sun"),
            (0.1, 0.8, 0.1) if person.wears_glasses else (0.94, 0.01, 0.05),
        ),
        hat=pick(rng, ("none", "beanie", "cap", "brim", "band"), (0.88, 0.04, 0.04, 0.02, 0.02)),
        cover=pick(rng, COVERS, (0.86, 0.04, 0.025, 0.03, 0.03, 0.015)),
        blur=pick(rng, (0.0, rng.uniform(0.4, 1.4)), (0.6, 0.4)),
        noise=pick(rng, (0.01, rng.uniform(0.02, 0.12)), (0.4, 0.6)),
        quality=int(rng.integers(60, 97)),
    )
