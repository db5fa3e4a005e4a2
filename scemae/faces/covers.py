"""Things that cover a face: glasses, a hand, a scarf, a microphone, a strand of hair, a mask."""

import numpy as np
from numpy.random import Generator

from scemae.faces.canvas import Canvas, ellipse, smooth
from scemae.faces.geometry import CIRCLE, LEFT_EYE, RIGHT_EYE, Face
from scemae.faces.people import Moment, Person


def paint_glasses(canvas: Canvas, face: Face, moment: Moment, rng: Generator) -> None:
    """Clear or dark glasses: two lenses in front of the eyes, a bridge and the arms to the ears."""
    if moment.glasses == "none":
        return
    colour = (rng.uniform(5, 90) + rng.normal(0, 12, 3)).clip(0, 255)
    wide, high, square = rng.uniform(12, 15), rng.uniform(8.5, 12), rng.uniform(0.55, 1.0)
    lens = np.sign(CIRCLE) * np.abs(CIRCLE) ** square * (wide, high)
    lenses = []
    for eye in (LEFT_EYE, RIGHT_EYE):
        centre = face.solid[eye].mean(axis=0) + (0, 2, 8)
        depth = -0.012 * (lens[:, 0] + centre[0]) ** 2 + 0.012 * centre[0] ** 2
        lenses.append(face.camera.project(np.column_stack([lens, depth]) + centre))
    rim = rng.choice([0.5, 1.0, 2.0])
    for outline in lenses:
        if moment.glasses == "sun":
            with canvas.inside(outline, opacity=rng.uniform(0.8, 1.0)):
                canvas.fill(outline * 1.02 - outline.mean(axis=0) * 0.02, colour * 0.5)
                canvas.fill(
                    outline[20:] * 0.8 + outline.mean(axis=0) * 0.2,
                    colour * 0.5 + rng.uniform(10, 70),
                )
        else:
            glare = (
                outline.mean(axis=0)
                + np.array([(-2, -9), (2, -9), (-3, 9), (-7, 9)])
                + rng.uniform(-6, 6)
            )
            with canvas.inside(outline, opacity=rng.uniform(0.05, 0.25)):
                canvas.fill(glare, (255, 255, 255))
    canvas.stroke(lenses, colour, rim, closed=True)
    bridge = np.stack([lenses[0][1], (lenses[0][1] + lenses[1][19]) / 2 - (0, 2), lenses[1][19]])
    canvas.stroke([smooth(bridge)], colour, rim)
    if moment.yaw > -0.25:
        canvas.stroke([np.stack([lenses[0][21], face.ears[0][30]])], colour, rim)
    if moment.yaw < 0.25:
        canvas.stroke([np.stack([lenses[1][39], face.ears[1][30]])], colour, rim)


def paint_cover(canvas: Canvas, face: Face, person: Person, moment: Moment, rng: Generator) -> None:
    """Draw what `moment.cover` names."""
    painters = {
        "hand": paint_hand,
        "scarf": paint_scarf,
        "microphone": paint_microphone,
        "strand": paint_strand,
        "mask": paint_mask,
    }
    if moment.cover != "none":
        painters[moment.cover](canvas, face, person, rng)


def paint_hand(canvas: Canvas, face: Face, person: Person, rng: Generator) -> None:
    """A palm with four fingers, from below, on a cheek or before the mouth."""
    side = rng.choice([-1, 1])
    palm = face.landmarks68[8] + (side * rng.uniform(6, 40), rng.uniform(2, 18))
    reach = np.array((side * rng.uniform(-0.5, 0.35), -1.0))
    across = np.array((reach[1], -reach[0])) * -1
    for k in (3, 2, 1, 0):
        start = palm + across * (k - 1.5) * 8.5
        end = start + reach * (30, 26, 28, 20)[k] + across * (k - 1.5) * rng.uniform(-1, 2)
        canvas.stroke([np.stack([start, end])], person.skin * 0.72, 9.5)
        canvas.stroke([np.stack([start, end])], person.skin * 0.92, 8)
        canvas.fill(ellipse(end - (0, 2), (2.2, 2.8)), person.skin * 1.02)
    canvas.fill(ellipse(palm, (17, 16)), person.skin * 0.92)
    wrist = palm - reach * 90
    arm = np.stack(
        [palm - across * 14, palm + across * 14, wrist + across * 12, wrist - across * 12]
    )
    canvas.fill(arm, person.skin * 0.88)


def paint_scarf(canvas: Canvas, face: Face, person: Person, rng: Generator) -> None:
    """Cloth up to the chin or the lips."""
    colour = (rng.uniform(20, 230) + rng.normal(0, 45, 3)).clip(0, 255)
    height = rng.uniform(-14, 14)
    left, right, chin = face.landmarks68[3], face.landmarks68[13], face.landmarks68[8]
    top = smooth(
        np.stack(
            [left - (12, 0), left + (2, 12), chin - (0, height), right + (-2, 12), right + (12, 0)]
        )
    )
    canvas.fill(np.concatenate([top, [(right[0] + 40, 260), (left[0] - 40, 260)]]), colour)
    for k in (6, 15, 27, 40):
        canvas.stroke([top + (0, k) + rng.normal(0, 1, 2)], colour * rng.uniform(0.65, 0.85), 1.5)


def paint_microphone(canvas: Canvas, face: Face, person: Person, rng: Generator) -> None:
    """A microphone from a lower corner towards the mouth."""
    side = rng.choice([-1, 1])
    head = face.landmarks68[57] + (side * rng.uniform(2, 20), rng.uniform(6, 16))
    tail = head + np.array((side * rng.uniform(10, 60), 90))
    canvas.stroke([np.stack([head, tail])], (28, 28, 30), 9)
    canvas.stroke([np.stack([head, tail]) - (2, 0)], (70, 70, 74), 2)
    canvas.disc(head, 9, (58, 58, 62))
    canvas.disc(head - (2, 2), 6, (92, 92, 96))
    grid = [ellipse(head, (8, k)) for k in (2, 5)] + [ellipse(head, (k, 8)) for k in (2, 5)]
    canvas.stroke(grid, (40, 40, 44), 0.5, closed=True)


def paint_strand(canvas: Canvas, face: Face, person: Person, rng: Generator) -> None:
    """A lock of hair across the forehead and one eye."""
    side = rng.choice([-1, 1])
    start = face.hairline[6] + (side * rng.uniform(0, 12), -4)
    end = face.landmarks68[2 if side < 0 else 14] + (
        rng.uniform(-2, 6) * -side,
        rng.uniform(-8, 30),
    )
    bend = (start + end) / 2 + np.array((side * rng.uniform(-4, 14), -rng.uniform(0, 10)))
    for k in range(14):
        curve = smooth(np.stack([start, bend, end]) + rng.normal(0, 2.2, (3, 2)))
        canvas.stroke([curve], (person.hair * (0.75, 1.0, 1.25)[k % 3]).clip(0, 255), 1)


def paint_mask(canvas: Canvas, face: Face, person: Person, rng: Generator) -> None:
    """A cloth mask over nose and mouth, with loops to the ears."""
    p = face.landmarks68
    colour = np.array([(170, 205, 222), (235, 235, 232), (30, 32, 36), (190, 120, 130)], float)[
        rng.integers(4)
    ]
    edge = np.stack(
        [p[2], p[29] + (-9, 3), p[29], p[29] + (9, 3), p[14], p[12], p[8] + (0, 2), p[4]]
    )
    canvas.fill(smooth(edge, closed=True), colour)
    for k in (0.3, 0.5, 0.7):
        fold = smooth(np.stack([p[3], p[29] * (1 - k) + p[8] * k + (0, 2), p[13]]))
        canvas.stroke([fold], colour * 0.8, 0.5)
    canvas.stroke(
        [np.stack([p[2], face.ears[0][30]]), np.stack([p[14], face.ears[1][30]])], colour * 0.9, 0.5
    )
