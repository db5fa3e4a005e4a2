"""Hair behind, on and in front of the head, beards, and hats."""

import numpy as np
from numpy.random import Generator

from scemae.faces.canvas import Canvas, ellipse, smooth
from scemae.faces.geometry import INNER_MOUTH, Face
from scemae.faces.people import Moment, Person, mix

# Of the hair that hangs beside the face, in pixels below the ear.
LENGTHS = {"bob": 60.0, "long": 130.0, "curly": 30.0}


def grow(points: np.ndarray, by: float | np.ndarray) -> np.ndarray:
    """A closed outline (n, 2) moved away from its middle by `by` pixels (scalar or (n, 1))."""
    outward = points - points.mean(axis=0)
    return points + outward / np.linalg.norm(outward, axis=1, keepdims=True) * by


def paint_back_hair(canvas: Canvas, face: Face, person: Person, rng: Generator) -> None:
    """The mass of hair behind head and neck, and a bun where it is worn up."""
    thick = 4 + 7 * person.volume
    dark = person.hair * 0.72
    if person.style == "updo":
        bun = face.camera.project(np.array([(0, 50.0, -78)]))[0]
        canvas.fill(ellipse(bun, (17, 14)), dark)
    if person.style not in LENGTHS:
        return
    left, right = face.skull[20] - (thick, 0), face.skull[0] + (thick, 0)
    bottom = face.skull[:, 1].mean() + LENGTHS[person.style] + 6 * person.shape[21]
    flare = 8 + 6 * person.shape[22]
    drop = np.array(
        [
            right,
            (right[0] + flare * 0.6, bottom - 25),
            (right[0] - 4, bottom),
            ((left[0] + right[0]) / 2, bottom - 8),
            (left[0] + 4, bottom),
            (left[0] - flare * 0.6, bottom - 25),
            left,
            face.skull[30] - (0, thick),
        ]
    )
    shape = smooth(drop, closed=True)
    if person.style == "curly":
        shape = grow(shape, rng.uniform(-1, 6, (len(shape), 1)))
    canvas.fill(shape, dark)
    spread = np.linspace(0, 1, 26)[:, None]
    tops, ends = (
        left * (1 - spread) + right * spread,
        drop[5] * (1 - spread) + drop[1] * spread + (0, 22),
    )
    strands(
        canvas,
        np.stack([tops, tops * 0.4 + ends * 0.6 + rng.normal(0, 2, tops.shape), ends], 1),
        dark,
        rng,
    )


def strands(canvas: Canvas, curves: np.ndarray, colour: np.ndarray, rng: Generator) -> None:
    """Draw lines of hair, curves (n, points, 2), in three tones of `colour`."""
    count, knots, _ = curves.shape
    lines = (
        smooth(curves.transpose(1, 0, 2).reshape(knots, -1), steps=3)
        .reshape(-1, count, 2)
        .transpose(1, 0, 2)
    )
    tone = rng.integers(0, 3, len(lines))
    for k, factor in enumerate((0.72, 1.16, 1.34)):
        canvas.stroke(lines[tone == k], (colour * factor + 4 * k).clip(0, 255), 0.5)


def paint_cap_of_hair(canvas: Canvas, face: Face, person: Person, rng: Generator) -> None:
    """The hair on the skull, or a bare skull; the face is painted over it up to the hairline."""
    if person.style == "bald":
        canvas.fill(face.skull, person.skin * 0.97)
        return
    base, extra = {"buzz": (1, 0), "short": (3, 3), "curly": (8, 8)}.get(person.style, (3, 6))
    thick = base + extra * person.volume
    shape = grow(face.skull, thick)
    shape[20:, 1] -= 0.5 * thick * np.sin(np.arange(20) * np.pi / 20)
    lumps = {"curly": 6.0, "buzz": 0.0, "swept": 4.0}.get(person.style, 2.0)
    shape = smooth(grow(shape, rng.uniform(0, lumps, (40, 1))), closed=True)
    canvas.fill(shape, mix(person.hair, person.skin, 0.30 if person.style == "buzz" else 0))
    if person.style == "buzz":
        return
    if person.style == "curly":
        middle = grow(face.skull, thick / 2)[np.arange(16, 64) % 40] + rng.normal(0, 5, (48, 2))
        curls = (
            middle[:, None]
            + rng.uniform(2, 5, (48, 1, 1)) * ellipse(np.zeros(2), (1, 1), count=7)[None, :6]
        )
        strands(canvas, curls, person.hair, rng)
        return
    gleam = grow(face.skull, thick * 0.3)[np.arange(22, 39) % 40]
    canvas.tint(np.concatenate([gleam + (0, 3), gleam[::-1] + (0, 9)]), 1.35, 2.4)
    outer = grow(face.skull, thick - 1)[
        np.arange(19, 42) % 40
    ]  # from left over the top to the right
    inner = smooth(face.hairline, steps=4)[np.linspace(0, 48, 23).astype(int)]
    share = np.sort(rng.uniform(-0.1, 1, (32, 1, 1)), axis=0)
    split = int(np.clip(11 + 9 * person.parting, 4, 18))
    for half in (np.arange(split, -1, -1), np.arange(split, 23)):
        keys = half[np.linspace(0, len(half) - 1, 5).astype(int)]
        locks = outer[keys] * share + inner[keys] * (1 - share) + rng.normal(0, 0.6, (32, 5, 2))
        strands(canvas, locks, person.hair, rng)


def paint_front_hair(canvas: Canvas, face: Face, person: Person, rng: Generator) -> None:
    """Locks beside the face, bangs over the forehead, and a short fringe along the hairline."""
    hairline, thick = face.hairline, 5 + 6 * person.volume
    if person.style in ("bald", "buzz"):
        return
    if person.style in ("long", "bob"):
        length = LENGTHS[person.style] - 12 + 6 * person.shape[21]
        split = int(np.clip(6 + 5 * person.parting, 2, 10))
        for edge, side in ((hairline[split::-1], -1), (hairline[split:], 1)):
            cover = 1.5 + 4 * (person.shape[22] > 0)
            fall = np.array([(0, 0.35 * length), (-2 * side, 0.7 * length), (3 * side, length)])
            inner = np.concatenate([edge, edge[-1:] + fall])
            outer = (
                inner + np.linspace(0, 1, len(inner))[:, None] * (side * (15 + thick), -3) - (0, 2)
            )
            inner = inner - np.linspace(0, 1, len(inner))[:, None] ** 0.5 * (side * cover, 0)
            canvas.fill(np.concatenate([smooth(inner), smooth(outer)[::-1]]), person.hair)
            share = rng.uniform(0, 1, (24, 1, 1))
            locks = inner * share + outer * (1 - share) + rng.normal(0, 0.5, (24, *inner.shape))
            strands(canvas, locks, person.hair, rng)
    if person.bangs:
        brows = face.landmarks68[[17, 18, 19, 21, 22, 24, 25, 26]]
        top = smooth(hairline[1:12])[np.linspace(0, 50, 8).astype(int)]
        low = top + (brows - top) * (0.35 + 0.55 * person.bangs)
        jagged = smooth(low) + (0, 1) * rng.uniform(-2.5, 1.5, (36, 1))
        canvas.fill(np.concatenate([smooth(top) - (0, 5), jagged[::-1]]), person.hair)
        pick = rng.integers(0, 36, 40)
        tips, roots = jagged[pick], smooth(top)[pick] - (0, 6)
        strands(
            canvas, np.stack([roots, roots * 0.5 + tips * 0.5 + (2, 0), tips], 1), person.hair, rng
        )
        canvas.tint(np.concatenate([low, low[::-1] + (0, 6)]), 0.8, 2.4)
    else:
        root = smooth(hairline, steps=4)[rng.integers(2, 46, 40)]
        out = root - face.landmarks68[27]
        out = out / np.linalg.norm(out, axis=1, keepdims=True)
        lean = np.array((person.parting * 3, 0))
        tips = root - out * rng.uniform(-1, 1.2, (40, 1))
        strands(canvas, np.stack([root + out * 5 + lean, tips], 1), person.hair, rng)
        canvas.tint(np.concatenate([hairline - (0, 1), hairline[::-1] + (0, 2.5)]), 0.86, 1.4)


def paint_beard(canvas: Canvas, face: Face, person: Person, rng: Generator) -> None:
    """A beard along the jaw and a moustache above the lip; the mouth is painted afterwards."""
    p, inner = face.landmarks68, face.landmarks68[INNER_MOUTH]
    colour = mix(person.hair, person.brows, 0.4)
    if person.beard:
        line = np.stack(
            [
                p[1],
                p[48] * 0.45 + p[2] * 0.55,
                p[48] + (-2, 3),
                p[59],
                p[57] + (0, 2),
                p[55],
                p[54] + (2, 3),
                p[54] * 0.45 + p[14] * 0.55,
                p[15],
            ]
        )
        shape = np.concatenate([smooth(p[1:16] + (0, 1.5 * person.beard)), smooth(line)[::-1]])
        with canvas.inside(shape, opacity=0.25 + 0.7 * person.beard, soft=2.0):
            canvas.fill(shape + (0, 2), colour)
            seed = smooth(p[2:15])[np.linspace(0, 60, 46).astype(int)]
            lift = rng.uniform(0, 0.55, (46, 1))
            start = seed + (inner.mean(axis=0) - seed) * lift
            strands(canvas, np.stack([start, start + (seed - p[27]) * 0.06], 1), colour, rng)
    if person.moustache:
        top = p[[31, 32, 33, 34, 35]] * 0.45 + p[[49, 50, 51, 52, 53]] * 0.55
        shape = np.concatenate(
            [[p[48] - (1, 0)], top, [p[54] + (1, 0)], p[[53, 52, 51, 50, 49]] + (0, 0.6)]
        )
        with canvas.inside(shape, opacity=0.3 + 0.6 * person.moustache, soft=0.7):
            canvas.fill(grow(shape, 3), colour)


def paint_hat(canvas: Canvas, face: Face, moment: Moment, rng: Generator) -> None:
    """A beanie, cap, brimmed hat or headband over the upper half of the skull."""
    if moment.hat == "none":
        return
    colour = (rng.uniform(20, 230) + rng.normal(0, 40, 3)).clip(0, 255)
    crown = grow(face.skull, 9)[np.arange(19, 42) % 40]  # from left over the top to the right
    line = smooth(face.hairline[2:11], steps=3)
    line = np.concatenate([crown[:1], line + (0, rng.uniform(-2, 5)), crown[-1:]])
    if moment.hat == "band":
        canvas.fill(np.concatenate([smooth(line), smooth(line - (0, 12))[::-1]]), colour)
        return
    crown[:, 1] -= rng.uniform(0, 6)
    canvas.fill(np.concatenate([smooth(crown), smooth(line)[::-1]]), colour)
    canvas.tint(np.concatenate([line, line[::-1] + (0, 7)]), 0.66, 2.4)
    if moment.hat == "beanie":
        canvas.fill(np.concatenate([smooth(line), smooth(line - (0, 11))[::-1]]), colour * 0.85)
        ribs = [np.stack([a, a - (0, 10)]) for a in smooth(line)[::5]]
        canvas.stroke(ribs, colour * 0.65, 0.5)
    elif moment.hat == "cap":
        brim = face.camera.project(
            np.array([(38, 86.0, 4), (27, 88, 28), (0, 89, 38), (-27, 88, 28), (-38, 86, 4)])
        )
        canvas.fill(np.concatenate([smooth(brim), line[4:-4] - (0, 2)]), colour * 0.8)
    else:
        turn = np.linspace(0, np.pi, 13)
        brim = np.stack([78 * np.cos(turn), np.full(13, 82.0), 62 * np.sin(turn) - 30], 1)
        canvas.fill(np.concatenate([face.camera.project(brim), line]), colour * 0.9)
        canvas.stroke([smooth(line - (0, 4))], colour * 0.4, 4)
