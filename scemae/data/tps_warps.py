"""DVE's thin-plate-spline warps of the 136x136 frame, batched (PROTOCOL 3.4 [F]).

A warp is the table (103, 2) of its coefficients: 100 control points on a 10x10 grid over
[-1, 1]^2, then the rows of the constant, x and y of an affine map. It maps each pixel of the new
image to the position in the old one that it is sampled from.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scemae.data.geometry import FRAME

CONTROL = 10  # control points per side
COEFFICIENTS = CONTROL * CONTROL + 3
NORMALS = 6 * CONTROL * CONTROL + 4  # standard normal numbers that one warp is made of


@dataclass(frozen=True)
class WarpScales:
    """Standard deviations from which a warp is drawn."""

    every: float  # of each control coefficient
    half: float  # of those of a random half, drawn anew
    shift: float  # of the translation, frame = [-1, 1]
    zoom: float  # of the scale around 1
    degrees: float  # of the rotation


SCALES = {
    "evaluation": WarpScales(every=0.0005, half=0.005, shift=0.05, zoom=0.05, degrees=2.5),
    # DVE's WarperSingle.
    "few-shot": WarpScales(every=0.0005, half=0.0, shift=0.02, zoom=0.02, degrees=2.0),
    # Ours, for pictures of one's own: objects in them are turned and placed more freely than faces.
    "own": WarpScales(every=0.0005, half=0.005, shift=0.1, zoom=0.12, degrees=12.0),
    # DVE's training: the warp of both views, at half strength except for its affine part, and the
    # warp that is applied to view 1 after it.
    "dve-both": WarpScales(every=0.0005, half=0.005, shift=0.1, zoom=0.1, degrees=5.0),
    "dve-on-top": WarpScales(every=0.001, half=0.01, shift=0.1, zoom=0.1, degrees=5.0),
}


def draw_warps(n: int, seed: int, which: str = "evaluation") -> Tensor:
    """Draw `n` warps, (n, 103, 2) float64; the first ones do not depend on how many are drawn.

    Rounded to 1e-9, so that the last bit of a mathematical library cannot change a manifest's hash.
    """
    return make_warps(np.random.default_rng(seed).standard_normal((n, NORMALS)), SCALES[which])


def make_warps(normal: np.ndarray, scales: WarpScales) -> Tensor:
    """Warps (n, 103, 2) float64 of standard normal numbers (n, NORMALS), rounded to 1e-9."""
    n, points = len(normal), 2 * CONTROL * CONTROL
    every, half, coin = (normal[:, k * points : (k + 1) * points] for k in range(3))
    control = np.where(coin > 0, half * scales.half, every * scales.every).reshape(n, -1, 2)
    zoom, angle = 1 + normal[:, -2] * scales.zoom, np.radians(normal[:, -1] * scales.degrees)
    affine = np.stack(
        [
            normal[:, -4] * scales.shift,
            normal[:, -3] * scales.shift,
            zoom * np.cos(angle),
            -zoom * np.sin(angle),
            zoom * np.sin(angle),
            zoom * np.cos(angle),
        ],
        axis=1,
    ).reshape(n, 3, 2)
    return torch.from_numpy(np.concatenate([control, affine], axis=1).round(9))


def warp_grid(warps: Tensor) -> Tensor:
    """Where in the old frame each pixel of the warped one is sampled: (b, 136, 136, 2).

    warps (b, 103, 2) float64. x before y; the frame is [-1, 1].
    """
    return (_basis(warps.device) @ warps).reshape(-1, FRAME, FRAME, 2)


def resample(images: Tensor, grid: Tensor) -> Tensor:
    """Sample float images (b, c, 136, 136) at `grid`: bilinear, zeros outside.

    -1 and 1 are the centres of the outer pixels.
    """
    return F.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=True
    )


def warp_images(images: Tensor, grid: Tensor) -> Tensor:
    """Warp images (b, 3, 136, 136) uint8 backwards along `grid`, rounded to uint8 again."""
    return to_bytes(resample(images.float(), grid))


def to_bytes(images: Tensor) -> Tensor:
    """Round float images in [0, 255] to uint8."""
    return images.round().clamp(0, 255).to(torch.uint8)


def warp_landmarks(landmarks: Tensor, grid: Tensor) -> Tensor:
    """Points (b, l, 2) of the old frame in the warped one: (b, l, 2) float32, whole pixels.

    The forward position is the pixel whose grid position is nearest, as in DVE (which uses a
    KD-tree; here all distances are compared). A point outside of the warped frame gets the nearest
    pixel of its border; one that is not known (NaN) stays so.
    """
    pixels = ((grid + 1) / 2 * (FRAME - 1)).flatten(1, 2)  # b (h w) 2
    size = max(1, (1 << 24) // (landmarks.shape[1] * FRAME * FRAME))  # 128 MB of distances at once
    nearest = torch.cat(
        [
            _distances(points, some).argmin(dim=2)
            for points, some in zip(landmarks.split(size), pixels.split(size))
        ]
    )  # b l
    found = torch.stack([nearest % FRAME, nearest // FRAME], dim=2).float()
    return torch.where(landmarks.isnan(), landmarks.to(found.dtype), found)


def _distances(points: Tensor, pixels: Tensor) -> Tensor:
    """From each of points (b, l, 2) to each of pixels (b, p, 2): (b, l, p)."""
    return torch.cdist(points.to(pixels.dtype), pixels, compute_mode="donot_use_mm_for_euclid_dist")


@lru_cache(maxsize=2)
def _basis(device: torch.device) -> Tensor:
    """(18496, 103) float64: each control point's kernel, 1, x and y, at each pixel of the frame."""
    pixels, control = _lattice(FRAME), _lattice(CONTROL)
    squared = (pixels[:, None] - control).square().sum(dim=2)
    return torch.cat(
        [squared * torch.log(squared + 1e-5), torch.ones(len(pixels), 1), pixels], dim=1
    ).to(device)


def _lattice(side: int) -> Tensor:
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=2).reshape(-1, 2)
