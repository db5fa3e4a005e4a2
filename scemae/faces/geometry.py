"""The head in 3D, and its 68 and 5 landmarks after expression, pose and alignment."""

from dataclasses import dataclass, field

import numpy as np

from scemae.faces.people import Moment, Person

# CelebA's mean shape in its aligned images of 178x218 pixels: left eye, right eye, nose, left and
# right corner of the mouth.
MEAN_FIVE = np.array([(69.5, 111.4), (107.6, 111.4), (88.5, 135.0), (72.0, 152.5), (105.0, 152.5)])
VIEW_DISTANCE = 620.0

# Left half of a neutral head in pixels of these images: x from the midline, y down, z towards the
# camera. Outlines are rows of (x, y, z at the side, bulge towards the front): each row is a quarter
# of an ellipse seen from above.
JAW = [
    (-44, 112.9, -24, 26),
    (-43.7, 124.3, -24, 26),
    (-42.2, 135.3, -22, 26),
    (-39.8, 146, -19, 24),
    (-35.4, 156.8, -15, 20),
    (-29, 166, -11, 15),
    (-21.5, 173, -7, 10),
    (-11.6, 178.5, -3, 5),
    (0, 181, 0, 0),
]
HAIRLINE = [
    (-44, 103, -24, 25),
    (-43, 93, -22, 23),
    (-38.5, 83, -17, 18),
    (-29, 76, -10, 11),
    (-15, 71.5, -5, 5),
    (0, 70.5, -3, 0),
]
BROW = [(-34.5, 103, -8), (-29.5, 98.7, -3), (-22.5, 97.3, 1), (-15.5, 98.2, 4), (-9.5, 100.4, 5)]
BRIDGE = [(0, 111.7, 5), (0, 119.3, 9), (0, 126.6, 14), (0, 133.8, 19)]
BASE = [(-7.8, 138.2, 7), (-4.2, 139.6, 11), (0, 140.5, 13), (4.2, 139.6, 11), (7.8, 138.2, 7)]
EYE = [
    (-26.2, 111.9, -5),
    (-21.8, 108.6, -1),
    (-16.2, 108.5, 0),
    (-11.4, 112.3, -2),
    (-16.2, 114.3, 0),
    (-21.8, 114.3, -1),
]
LIPS = [
    (-15.8, 152.5, 2),
    (-10, 149.5, 6),
    (-3.9, 147.6, 9),
    (0, 148.5, 9.5),
    (3.9, 147.6, 9),
    (10, 149.5, 6),
    (15.8, 152.5, 2),
    (10, 157.3, 6),
    (5, 160, 8),
    (0, 160.7, 9),
    (-5, 160, 8),
    (-10, 157.3, 6),
    (-14, 152.5, 2.5),
    (-4.4, 152.2, 8),
    (0, 152.4, 8.5),
    (4.4, 152.2, 8),
    (14, 152.5, 2.5),
    (4.4, 152.7, 8),
    (0, 152.9, 8.5),
    (-4.4, 152.7, 8),
]
SKULL_CENTRE, SKULL_RADII = np.array([0, 104.0, -40]), np.array([47.0, 50, 54])
LEFT_EYE, RIGHT_EYE, MOUTH, INNER_MOUTH = slice(36, 42), slice(42, 48), slice(48, 60), slice(60, 68)


def mirror(points: list[tuple], order: list[int]) -> np.ndarray:
    """The right-hand twin of left-hand points, taken in `order`."""
    return np.array(points, float)[order] * (-1, 1, 1)


FEATURES = np.concatenate(  # landmarks 17..67
    [BROW, mirror(BROW, [4, 3, 2, 1, 0]), BRIDGE, BASE, EYE, mirror(EYE, [3, 2, 1, 0, 5, 4]), LIPS]
).astype(float)
HALF_OUTLINE = np.array(
    JAW[:-1] + HAIRLINE[:-1], float
)  # jaw from the ear to the chin, then hair from the ear up
MIDDLE_OUTLINE = np.array([JAW[-1], HAIRLINE[-1]], float)
CHIN_WEIGHT = np.clip(
    (HALF_OUTLINE[:, 1] - 125) / 56, 0, 1
)  # how far an outline point belongs to the chin
CIRCLE = np.stack([np.cos(np.arange(40) * np.pi / 20), np.sin(np.arange(40) * np.pi / 20)], axis=1)


@dataclass(frozen=True)
class Camera:
    """From head coordinates (n, 3) to pixels (n, 2): rotation, weak perspective, similarity."""

    rotation: np.ndarray
    similarity: np.ndarray = field(default_factory=lambda: np.eye(2))
    shift: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels (n, 2) of head points (n, 3)."""
        turned = (points - (0, 130.0, 0)) @ self.rotation.T
        flat = turned[:, :2] * (VIEW_DISTANCE / (VIEW_DISTANCE - turned[:, 2:]))
        return flat @ self.similarity.T + self.shift


@dataclass(frozen=True)
class Face:
    """A head in one picture: arrays (n, 2) in pixels of the picture, and `solid` (68, 3)."""

    landmarks68: np.ndarray
    landmarks5: np.ndarray
    hairline: np.ndarray  # 13 points from the left ear over the forehead to the right ear
    side: np.ndarray  # 17 points further back than the jaw's landmarks 0..16
    skull: np.ndarray  # 40 points, clockwise from the right of the image
    ears: np.ndarray  # (2, 40, 2)
    irises: np.ndarray  # (2, 2)
    solid: np.ndarray
    camera: Camera


def pose_face(person: Person, moment: Moment) -> Face:
    """Shape the head of `person`, move it by `moment`, and align its five points as CelebA does."""
    features = express(shape_features(person.shape), moment)
    outline, middle = shape_outline(person.shape, moment)
    rotation = rotate(moment.yaw, moment.pitch)
    halves = [silhouette(outline * (side, 1, 1, 1), rotation, side) for side in (1, -1)]
    jaw = np.concatenate([halves[0][:8], middle[:1, :3], halves[1][7::-1]])
    hair = np.concatenate(
        [halves[0][:1], halves[0][8:], middle[1:, :3], halves[1][:7:-1], halves[1][:1]]
    )
    solid = np.concatenate([jaw, features])
    camera = align(Camera(rotation), solid, moment.jitter)
    landmarks = camera.project(solid)
    back = outline[:8, :3] - (0, 2.0, 14)
    side = np.concatenate([back, middle[:1, :3], back[::-1] * (-1, 1, 1)])
    irises = np.stack([solid[eye][[0, 3]].mean(axis=0) for eye in (LEFT_EYE, RIGHT_EYE)]) + (
        0,
        -0.7,
        3,
    )
    irises[:, :2] += moment.gaze.clip(-3, 3)
    return Face(
        landmarks68=landmarks,
        landmarks5=five_points(landmarks),
        hairline=camera.project(hair),
        side=camera.project(side),
        skull=project_skull(person, camera),
        irises=camera.project(irises),
        solid=solid,
        camera=camera,
        ears=np.stack([camera.project(ear(outline[0, 0], which)) for which in (1, -1)]),
    )


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """CelebA's five points (5, d) from iBUG's 68 (68, d).

    Centres of the eyes, tip of the nose, corners of the mouth.
    """
    eyes = [landmarks[LEFT_EYE].mean(axis=0), landmarks[RIGHT_EYE].mean(axis=0)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def shape_features(s: np.ndarray) -> np.ndarray:
    """Landmarks 17..67 (51, 3) of a neutral face; `s` are its standard normal shape numbers."""
    p = FEATURES.copy()
    side = np.sign(p[:, 0])
    for eye, centre in ((slice(19, 25), -18.8), (slice(25, 31), 18.8)):
        size = (1 + 0.08 * s[0], 1 + 0.18 * s[1], 1)
        p[eye] = (p[eye] - (centre, 112, 0)) * size + (centre, 112, 0)
        p[eye, 1] -= 0.13 * s[2] * (abs(p[eye, 0]) - 18.8)
        p[eye, 0] += side[eye] * 1.3 * s[3]
    p[:10, 0] += side[:10] * 1.0 * s[3]
    arch = np.array([1, 0, -1, 0, 1, 1, 0, -1, 0, 1])
    p[:10, 1] -= 1.5 * s[4] + 0.09 * s[5] * (abs(p[:10, 0]) - 22) - 0.9 * s[6] * arch
    p[:10, 0] *= 1 + 0.05 * s[7]
    length = np.clip((p[10:19, 1] - 108) / 30, 0, 1)
    p[10:19, 1] += 2.4 * s[8] * length
    p[10:19, 2] *= 1 + 0.18 * s[9]
    p[14:19, 0] *= 1 + 0.16 * s[10]
    p[13, 1] += 1.1 * s[11]
    p[31:, 0] *= 1 + 0.10 * s[12]
    upper, lower = p[31:, 1] < 152.4, p[31:, 1] > 152.55
    p[31:, 1] += np.where(upper, 0.3 * s[13], np.where(lower, 0.3 * s[14], 0)) * (p[31:, 1] - 152.5)
    p[31:, 1] += 1.5 * s[15] + 1.2 * s[8]
    p[31:, 2] += 1.5 * s[16]
    return p


def express(p: np.ndarray, m: Moment) -> np.ndarray:
    """Move landmarks 17..67 (51, 3) by raise and frown of the brows, lids, smile and open mouth."""
    p[:10, 1] -= 3.2 * m.brow_raise
    p[[3, 4, 5, 6], 1] += m.frown * np.array([1.0, 2.5, 2.5, 1.0])
    p[[4, 5], 0] += m.frown * np.array([1.2, -1.2])
    for lids, below in (([20, 21], [24, 23]), ([26, 27], [30, 29])):
        p[below, 1] -= 0.8 * max(m.smile, 0) + 0.4 * max(m.eye_closure, 0)
        p[lids] += (p[below] - p[lids]) * m.eye_closure
    mouth = p[31:]
    reach = np.clip(np.abs(mouth[:, 0]) / 15.8, 0, 1)[:, None]
    mouth[:, :1] += np.sign(mouth[:, :1]) * reach * 3.4 * m.smile
    mouth[:, 1:2] -= reach**1.5 * 3.2 * m.smile - 0.6 * m.smile
    mouth[:, 2:] -= reach * 2.0 * m.smile
    teeth = 0.12 * max(m.smile - 0.4, 0)
    drop = np.zeros(20)
    drop[[7, 8, 9, 10, 11]], drop[[17, 18, 19]] = (
        np.array([0.75, 0.97, 1, 0.97, 0.75]),
        (0.93, 1, 0.93),
    )
    drop[[0, 6, 12, 16]] = 0.3
    mouth[:, 1] += drop * 13 * (m.mouth_open + teeth)
    mouth[[1, 2, 3, 4, 5, 13, 14, 15], 1] -= 2.0 * m.mouth_open + 8 * teeth
    mouth[:, 0] *= 1 - 0.10 * m.mouth_open
    return p


def shape_outline(s: np.ndarray, m: Moment) -> tuple[np.ndarray, np.ndarray]:
    """The left outline (13, 4), and its middle points, chin and forehead (2, 4)."""
    left, middle = HALF_OUTLINE.copy(), MIDDLE_OUTLINE.copy()
    left[:, 0] *= (1 + 0.045 * s[17]) * (1 + 0.09 * s[18] * CHIN_WEIGHT * (1 - 0.4 * CHIN_WEIGHT))
    chin = 3.0 * s[19] + 1.5 * s[15] + 10 * m.mouth_open
    left[:, 1] += chin * CHIN_WEIGHT
    middle[0, 1] += chin
    left[8:, 1] += 3.5 * s[20] * np.linspace(0, 1, 5)
    middle[1, 1] += 3.5 * s[20]
    return left, middle


def rotate(yaw: float, pitch: float) -> np.ndarray:
    """Rotation (3, 3): positive yaw turns the nose right, positive pitch down."""
    c, s, d, t = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array([(1, 0, 0), (0, d, t), (0, -t, d)]) @ np.array(
        [(c, 0, s), (0, 1, 0), (-s, 0, c)]
    )


def silhouette(outline: np.ndarray, rotation: np.ndarray, side: int) -> np.ndarray:
    """The edge of the face as the camera sees it, head points (n, 3).

    outline (n, 4) of one half (`side` 1 left, -1 right). On the far side the bulge hides what is
    behind it; on the near side the edge is the outline's own point.
    """
    x, y, z, bulge = outline.T
    away = max(side * rotation[2, 0], 0.0)
    angle = np.arctan2(np.abs(x) * rotation[2, 2], bulge * away)
    return np.stack([x * np.sin(angle), y, z + bulge * np.cos(angle)], axis=1)


def align(camera: Camera, solid: np.ndarray, jitter: np.ndarray) -> Camera:
    """The camera that fits the five points to CelebA's mean shape by least squares, plus jitter.

    jitter: roll, log-scale, and shift in x and y, as Moment has them.
    """
    five = five_points(camera.project(solid))
    z, w = five @ (1, 1j), MEAN_FIVE @ (1, 1j)
    a = np.vdot(z - z.mean(), w - w.mean()) / np.vdot(z - z.mean(), z - z.mean())
    extra = np.exp(1j * jitter[0] + jitter[1])
    b = w.mean() - a * z.mean() * extra + jitter[2] + 1j * jitter[3]
    a = a * extra
    return Camera(
        camera.rotation, np.array([(a.real, -a.imag), (a.imag, a.real)]), np.array([b.real, b.imag])
    )


def project_skull(person: Person, camera: Camera) -> np.ndarray:
    """The outline (40, 2) of the skull, an ellipsoid that follows the width of the face."""
    radii = SKULL_RADII * (1 + 0.045 * person.shape[17], 1 - 0.05 * person.shape[20], 1)
    turned = camera.similarity @ camera.rotation[:2] * radii
    return camera.project(SKULL_CENTRE[None]) + CIRCLE @ np.linalg.cholesky(turned @ turned.T).T


def ear(x: float, side: int) -> np.ndarray:
    """An ear (40, 3) on the left (`side` 1, x negative) or the right."""
    points = (
        CIRCLE[:, :1] * (-3.4, 0, -6.5)
        + CIRCLE[:, 1:] * (-0.8, -11.5, -2.0)
        + (x - 1.5, 122.0, -34)
    )
    return points * (side, 1, 1)
