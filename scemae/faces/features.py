"""Eyes, brows, nose and mouth, drawn exactly through their landmarks."""

import numpy as np

from scemae.faces.canvas import Canvas, ellipse, smooth
from scemae.faces.geometry import INNER_MOUTH, LEFT_EYE, MOUTH, RIGHT_EYE, Face
from scemae.faces.people import Moment, Person, mix

WHITE = np.array([236, 232, 228.0])


def paint_eyes(canvas: Canvas, face: Face, person: Person, moment: Moment) -> None:
    """White, iris, pupil, glint, lashes and lid; the corners are landmarks 36, 39, 42 and 45."""
    unit = np.linalg.norm(face.landmarks68[45] - face.landmarks68[36]) / 52
    dark = mix(person.skin, (25, 12, 12), 0.75)
    for place, centre, outer in ((LEFT_EYE, face.irises[0], 0), (RIGHT_EYE, face.irises[1], 3)):
        eye = face.landmarks68[place]
        upper, lower = smooth(eye[:4]), smooth(eye[[3, 4, 5, 0]])
        outline = np.concatenate([upper, lower[1:-1]])
        if person.makeup > 0.2:
            lid = np.concatenate([upper, (upper - (0, 4.5 * unit))[::-1]])
            canvas.tint(lid, mix(np.ones(3), person.eyeshadow / 170, 0.7 * person.makeup), 1.4)
        with canvas.inside(outline):
            canvas.fill(outline + (eye - eye.mean(axis=0)).mean(axis=0), WHITE)
            canvas.fill(np.concatenate([upper - (0, 1), (upper + (0, 1.4))[::-1]]), WHITE * 0.72)
            canvas.disc(centre, 4.1 * unit, person.iris * 0.45)
            canvas.disc(centre, 3.6 * unit, person.iris)
            canvas.disc(centre + (0, 1.2 * unit), 2.3 * unit, (person.iris * 1.35).clip(0, 255))
            canvas.disc(centre, 1.75 * unit, (10, 8, 8))
            canvas.disc(
                centre + np.array((1.3 * np.sign(moment.light[0]), -1.4)) * unit,
                0.75 * unit,
                (255, 255, 255),
            )
            canvas.disc(eye[3 - outer], 1.3 * unit, mix(person.skin, (190, 90, 90), 0.5))
        crease = upper + (eye[[0, 3]].mean(axis=0) - upper) * -0.18 - (0, 1.9 * unit)
        canvas.stroke([crease[2:-2]], mix(person.skin, (60, 25, 20), 0.42), 0.5)
        canvas.stroke([lower], mix(person.skin, (80, 30, 25), 0.45), 0.5)
        lashes = 0.8 + 1.0 * person.makeup
        canvas.stroke([upper - (0, 0.2)], dark * (1 - 0.6 * person.makeup), lashes)
        rise = (0.4 + 1.2 * person.makeup) * unit
        flick = eye[outer] + (eye[outer] - eye.mean(axis=0)) * np.array((0.16, 0)) - (0, rise)
        canvas.stroke([np.stack([eye[outer], flick])], dark, lashes)


def paint_brows(canvas: Canvas, face: Face, person: Person) -> None:
    """Brows as tapering bands along landmarks 17..21 and 22..26, with a few hairs."""
    unit = np.linalg.norm(face.landmarks68[45] - face.landmarks68[36]) / 52
    for line, taper in (
        (face.landmarks68[17:22], np.array([0.15, 0.6, 0.9, 1.0, 0.8])),
        (face.landmarks68[22:27], np.array([0.8, 1.0, 0.9, 0.6, 0.15])),
    ):
        half = (person.brow_width * unit * 0.5 * taper)[:, None] * (0, 1)
        top, low = smooth(line - half), smooth(line + half)
        with canvas.inside(np.concatenate([top, low[::-1]]), opacity=0.8, soft=0.35):
            canvas.fill(np.concatenate([top - (0, 2), low[::-1] + (0, 2)]), person.brows)
        inward = np.sign(line.mean(axis=0)[0] - face.landmarks68[27][0]) * np.array((1.6, 0)) * unit
        hairs = [
            np.stack([b, t + inward - (0, 0.3)]) for t, b in zip(top[::3], low[::3], strict=True)
        ]
        canvas.stroke(hairs, person.brows * 0.75, 0.5)


def paint_nose(canvas: Canvas, face: Face, person: Person, moment: Moment) -> None:
    """Nostrils between landmarks 31..35, wings, and on a turned head the bridge's far edge."""
    p = face.landmarks68
    unit = np.linalg.norm(p[45] - p[36]) / 52
    dark = mix(person.skin, (50, 15, 12), 0.55)
    base = p[35] - p[31]
    angle = np.arctan2(base[1], base[0])
    for inner, wing, side in ((p[32], p[31], -1), (p[34], p[35], 1)):
        hole = inner * 0.72 + wing * 0.28
        spread = np.clip(np.linalg.norm(inner - wing) * 0.40, 0.5, 2.3)
        nostril = ellipse(hole - (0, 0.4), (spread, 0.95 * unit), angle + 0.25 * side)
        canvas.fill(nostril, mix(person.skin, (40, 10, 8), 0.75))
        arc = np.stack(
            [
                wing + np.array((0.1 * side, -4.8)) * unit,
                wing + np.array((1.3 * side, -2.2)) * unit,
                wing,
                wing * 0.6 + inner * 0.4 + (0, 0.5),
            ]
        )
        canvas.stroke([smooth(arc)], mix(person.skin, dark, 0.75), 0.5)
    canvas.stroke([smooth(p[32:35] + (0, 0.4))], mix(person.skin, dark, 0.6), 0.5)
    if abs(moment.yaw) > 0.22:
        side = np.sign(moment.yaw)
        edge = p[27:31] + np.array([1.6, 1.4, 1.6, 2.6])[:, None] * unit * side * (1, 0)
        canvas.stroke([smooth(edge)], mix(person.skin, dark, min(1.0, 1.6 * abs(moment.yaw))), 0.5)


def paint_mouth(canvas: Canvas, face: Face, person: Person) -> None:
    """Lips along landmarks 48..59; inside 60..67 the dark mouth, a row of teeth and the tongue."""
    outer, inner = face.landmarks68[MOUTH], face.landmarks68[INNER_MOUTH]
    unit = np.linalg.norm(face.landmarks68[45] - face.landmarks68[36]) / 52
    top, low = smooth(outer[:7]), smooth(outer[[6, 7, 8, 9, 10, 11, 0]])
    roof, floor = smooth(inner[:5]), smooth(inner[[4, 5, 6, 7, 0]])
    canvas.fill(np.concatenate([low, roof]), person.lips)
    canvas.fill(np.concatenate([top, roof[::-1]]), person.lips * 0.84)
    gloss = outer[[10, 9, 8]] * 0.55 + inner[[7, 6, 5]] * 0.45
    canvas.tint(
        np.concatenate([gloss + (0, 0.7), gloss[::-1] - (0, 0.7)]), 1.18 + 0.15 * person.makeup, 1.0
    )
    hollow = np.concatenate([roof, floor[1:-1]])
    height = inner[6, 1] - inner[2, 1]
    if height > 1.0:
        with canvas.inside(hollow):
            canvas.fill(hollow, (48, 14, 16))
            if height > 6:
                canvas.fill(ellipse(inner[6] + (0, 1.0), (7 * unit, 0.34 * height)), (176, 74, 78))
            teeth = np.concatenate(
                [roof - (0, 2), (roof + (0, min(height * 0.8, 4.6 * unit)))[::-1]]
            )
            canvas.fill(teeth, (232, 226, 214))
            ends = np.array([(0, -2), (0, min(height, 4.4))])
            joints = [inner[2] + ends + (k * unit, 0) for k in (-6.5, -3.2, 0, 3.2, 6.5)]
            canvas.stroke(joints, (205, 196, 184), 0.5)
        canvas.stroke([roof], person.lips * 0.5, 0.5)
    else:
        canvas.stroke([roof], person.lips * 0.42, 1.0)
    for corner in (outer[0], outer[6]):
        canvas.tint(ellipse(corner, (1.8, 1.6)), 0.74, 1.0)
