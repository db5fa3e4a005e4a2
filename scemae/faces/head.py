"""Neck, ears, skin and the light that falls on them."""

import cv2
import numpy as np
from numpy.random import Generator

from scemae.faces.canvas import HEIGHT, WIDTH, Canvas, ellipse, smooth
from scemae.faces.geometry import Face
from scemae.faces.people import Moment, Person, mix


def face_outline(face: Face) -> np.ndarray:
    """The face's outline: a smooth closed curve through landmarks 0..16 and the hairline."""
    return smooth(np.concatenate([face.landmarks68[:17], face.hairline[11:0:-1]]), closed=True)


def paint_body(canvas: Canvas, face: Face, person: Person, moment: Moment, rng: Generator) -> None:
    """Neck, shoulders and collar; the body stands upright while the head is tilted and turned."""
    tilt = moment.tilt + moment.jitter[0]
    down, across = np.array([np.sin(tilt), np.cos(tilt)]), np.array([np.cos(tilt), -np.sin(tilt)])
    root = face.camera.project(np.array([(0, 160.0, -38)]))[0]
    width = np.linalg.norm(face.landmarks68[12] - face.landmarks68[4]) * (
        0.40 + 0.03 * person.shape[18]
    )
    neck = np.array(
        [(-1, -20), (-0.96, 25), (-1.15, 55), (-2, 70), (2, 70), (1.15, 55), (0.96, 25), (1, -20)]
    )
    body = np.stack([across * width, down])
    canvas.fill(smooth(root + neck @ body, closed=True), person.skin * 0.86)
    chin = face.landmarks68[3:14]
    canvas.tint(
        smooth(np.concatenate([chin + down * 9, chin[::-1] - down * 4]), closed=True), 0.62, 5.0
    )
    cloth = rng.uniform(10, 245) + rng.normal(0, 35, 3)
    collar, open_ = rng.uniform(36, 48), rng.uniform(-0.3, 0.8)
    shoulders = [
        (-4.2, 120),
        (-3.4, collar + 26),
        (-1.6, collar + 8),
        (-1.0, collar),
        (0, collar + 6 + 14 * open_),
        (1.0, collar),
        (1.6, collar + 8),
        (3.4, collar + 26),
        (4.2, 120),
    ]
    points = root + np.array(shoulders) @ body
    canvas.fill(smooth(points), cloth.clip(0, 255))
    canvas.stroke([smooth(points[3:6])], (cloth * 0.7).clip(0, 255), 1.5)


def paint_skin(canvas: Canvas, face: Face, person: Person) -> None:
    """Ears, the side of the head and the face itself."""
    for shape in face.ears:
        canvas.fill(shape, person.skin * 0.93)
        inner = shape.mean(axis=0) + (shape - shape.mean(axis=0)) * 0.55
        canvas.stroke([inner[4:32]], mix(person.skin, (90, 30, 20), 0.35), 1)
    canvas.fill(
        smooth(np.concatenate([face.side, face.hairline[11:0:-1]]), closed=True), person.skin * 0.90
    )
    canvas.fill(face_outline(face), person.skin)


def paint_light(canvas: Canvas, face: Face, moment: Moment) -> None:
    """Light from `moment.light` on an ellipsoid instead of the head; constant outside of it."""
    h, w = HEIGHT // 4, WIDTH // 4
    outline = np.concatenate([face.landmarks68[:17], face.hairline])
    centre, radii = (
        (outline.min(axis=0) + outline.max(axis=0)) / 2,
        np.ptp(outline, axis=0) / 2 * (1.12, 1.18),
    )
    u = (((np.arange(w) + 0.5) * (WIDTH / w) - centre[0]) / radii[0])[None]
    v = (((np.arange(h) + 0.5) * (HEIGHT / h) - centre[1]) / radii[1])[:, None]
    out = np.sqrt(u * u + v * v)
    keep = 1 / np.maximum(out, 1)
    depth = np.sqrt(np.maximum(1 - (out * keep) ** 2, 0.02))
    x, y, z = moment.light
    incoming = np.maximum((u * x + v * y) * keep + depth * z, 0)
    level = 1 - moment.contrast + moment.contrast * 1.25 * incoming
    level *= 0.86 + 0.16 * depth
    rise = moment.contrast * (incoming - 0.6)
    light = (
        level[..., None] * moment.exposure * (1 + (moment.light_colour - 1) * (1 + rise[..., None]))
    )
    canvas.shade *= cv2.resize(
        light.astype(np.float32), canvas.shade.shape[1::-1], interpolation=cv2.INTER_LINEAR
    )


def paint_relief(canvas: Canvas, face: Face, person: Person, moment: Moment) -> None:
    """Soft shade of brows, eye sockets, cheeks, nose and chin, darker away from the light."""
    p, lean = face.landmarks68, moment.light[0]
    eye_line, strength = p[45] - p[36], 0.5 + moment.contrast
    unit = np.linalg.norm(eye_line) / 52
    for brow, eye, side in ((p[17:22], p[36:42], -1), (p[22:27], p[42:48], 1)):
        socket = np.concatenate([brow + (0, 2), eye[[3, 4, 5, 0]] + (0, 1)])
        canvas.tint(socket, 1 - 0.20 * strength * (1 - 0.4 * side * lean), 2.4)
        bag = np.concatenate([eye[[0, 5, 4, 3]], eye[[3, 4, 5, 0]] + (0, 5 * unit)])
        canvas.tint(bag, 1 - 0.05 - 0.13 * person.wrinkles, 1.4)
        inner, wing = (39, 31) if side < 0 else (42, 35)
        flank = np.stack(
            [p[27] * 0.45 + p[inner] * 0.55, p[28], p[29], p[30] * 0.6 + p[wing] * 0.4, p[wing]]
        )
        turned = np.sin(moment.yaw) * side
        canvas.tint(flank, 1 - (0.24 - 0.22 * side * lean + 0.18 * turned) * strength, 1.4)
        mouth, jaw = (48, 4) if side < 0 else (54, 12)
        apple = (
            p[eye_landmarks(side)].mean(axis=0) * 0.42 + p[mouth] * 0.42 + p[jaw - 2 * -side] * 0.16
        )
        canvas.tint(
            ellipse(apple, (7 * unit, 6 * unit)), (1.10, 1.0 + 0.02 * moment.smile, 1.0), 5.0
        )
        middle = (p[wing] + p[mouth]) / 2
        fold = np.stack(
            [p[wing] + (side * 1.5, -1), middle + (side * 4.5, -1), p[mouth] + (side * 3, 1)]
        )
        line = np.concatenate([smooth(fold), smooth(fold)[::-1] + (side * 2.0, 0.5)])
        canvas.tint(line, 1 - 0.20 * person.wrinkles - 0.18 * max(moment.smile, 0), 1.0)
    ridge = p[[27, 27, 29, 30, 30, 29]] + [(-1, 0), (1, 0), (1.2, 0), (1, -1), (-1, -1), (-1.2, 0)]
    canvas.tint(ridge, 1.18, 1.4)
    canvas.tint(ellipse(p[30] + (lean * 0.7, -0.6), (1.6 * unit, 1.4 * unit)), 1.16, 1.0)
    canvas.tint(np.concatenate([p[31:36], p[35:30:-1] + (0, 4 * unit)]), 1 - 0.26 * strength, 1.4)
    below = p[[58, 57, 56, 56, 57, 58]] + np.array([0, 0, 0, 4.5, 5.5, 4.5])[:, None] * (0, unit)
    canvas.tint(below, 1 - 0.17 * strength, 1.4)
    canvas.tint(ellipse(p[8] * 0.62 + p[57] * 0.38, (6 * unit, 4 * unit)), 1.06, 2.4)
    canvas.tint(
        ellipse(face.hairline[6] * 0.5 + p[27] * 0.5 + (lean * 8, 0), (15 * unit, 8 * unit)),
        1.09,
        5.0,
    )


def eye_landmarks(side: int) -> slice:
    """Rows of `landmarks68` of the eye on the left (`side` -1) or right (1) of the picture."""
    return slice(36, 42) if side < 0 else slice(42, 48)


def paint_marks(canvas: Canvas, face: Face, person: Person) -> None:
    """Freckles, lines on the forehead and a mole, the same in all pictures of a person."""
    p = face.landmarks68
    own = np.abs(person.shape[:12]) % 1
    basis = np.stack([(p[45] - p[36]) / 52, (p[8] - p[27]) / 68])
    if person.freckles:
        heights = 8 + 9 * np.abs(np.sin(np.arange(person.freckles) * 12.99 + own[0]))
        spots = np.stack([np.linspace(-20, 20, person.freckles), heights], 1)
        for spot in spots @ basis + p[27]:
            canvas.disc(spot, 0.45, person.skin * 0.8)
    if own[1] < 0.3:
        mole = np.array([(own[2] - 0.5) * 44, 14 + own[3] * 40]) @ basis + p[27]
        canvas.disc(mole, 0.7 + own[4] * 0.5, person.skin * 0.45)
    if person.wrinkles > 0.35:
        top, low = face.hairline[3:10], p[[17, 18, 20, 21, 23, 25, 26]]
        lines = [smooth(top * (1 - k) + low * k)[6:-6] for k in (0.35, 0.5, 0.64)]
        canvas.stroke(lines, mix(person.skin, person.skin * 0.6, 0.45 * person.wrinkles), 0.5)
