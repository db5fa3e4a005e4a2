"""What annotated images show of their landmarks: the features at them, and those of all places, of
each image as it is and warped. A constrained local model is fitted to it (local_model.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scemae.data.tps_warps import (
    NORMALS,
    SCALES,
    make_warps,
    warp_grid,
    warp_images,
    warp_landmarks,
)
from scemae.errors import CheckpointError
from scemae.evaluation.landmarks.benchmark_frames import Frames, normalise_landmarks

BATCH = 16  # views at a time
# Frames (b, 3, 136, 136) in [0, 1] to features (b, d, h, w).
Extractor = Callable[[Tensor], Tensor]


@dataclass
class Seen:
    """What one annotated image shows, as it is and warped."""

    features: Tensor  # (d, h, w), of length one at each place, of the image as it is
    landmarks: Tensor  # (l, 2), normalised; NaN: not seen
    sums: Tensor  # (l, d), of the features at a landmark, over the views
    counts: Tensor  # (l,), in how many views it is seen
    # of the features of all places of all views: count (), sum (d,), products (d, d), on the CPU
    moments: list[Tensor]


@dataclass
class Evidence:
    """What n annotated images show, in some folds."""

    features: Tensor  # (n, d, h, w), of the images as they are
    landmarks: Tensor  # (n, l, 2)
    sums: Tensor  # (n, l, d)
    counts: Tensor  # (n, l)
    fold: Tensor  # (n,)
    picture: Tensor  # (n,), images with one number are views of one picture
    moments: list[Tensor]  # by fold: counts (k,), sums (k, d), products (k, d, d)


@torch.no_grad()
def look(
    extract: Extractor,
    frame: Tensor,
    points: Tensor,
    views: int,
    *,
    seed: tuple[int, ...],
    device: torch.device,
) -> Seen:
    """What an image shows: frame (3, 136, 136) uint8, points (l, 2) in its pixels.

    views: how often it is warped. Raises CheckpointError for features that are not finite.
    """
    frames, landmarks = _views(frame, points, views, seed)
    found = [
        functional.normalize(extract(part.to(device).float() / 255).float(), dim=1)
        for part in frames.split(BATCH)
    ]
    features, landmarks = torch.cat(found), landmarks.to(device)
    if not features.isfinite().all():
        raise CheckpointError(
            "the features are not finite; the checkpoint is of a run that diverged, take an "
            "earlier one"
        )
    is_seen = (landmarks.abs() <= 1).all(2)  # v l; false for NaN
    places = landmarks.nan_to_num().unsqueeze(2)
    there = functional.grid_sample(features, places, padding_mode="border", align_corners=False)[
        ..., 0
    ].transpose(1, 2)  # v l d
    tokens = features.permute(0, 2, 3, 1).flatten(0, 2)
    moments = [torch.tensor(float(len(tokens))), tokens.sum(0), tokens.T @ tokens]
    return Seen(
        features[0],
        landmarks[0],
        (there * is_seen[..., None]).sum(0),
        is_seen.sum(0).float(),
        [one.double().cpu() for one in moments],
    )


def gather(seen: list[Seen], fold: np.ndarray, picture: np.ndarray) -> Evidence:
    """What images show together; fold, picture (n,): as of Evidence."""
    folds = torch.from_numpy(fold)
    moments = []
    for of in zip(*(one.moments for one in seen), strict=True):
        empty = torch.zeros(int(fold.max()) + 1, *of[0].shape, dtype=torch.float64)
        moments.append(empty.index_add_(0, folds, torch.stack(of)))
    device = seen[0].features.device
    return Evidence(
        torch.stack([one.features for one in seen]),
        torch.stack([one.landmarks for one in seen]),
        torch.stack([one.sums for one in seen]),
        torch.stack([one.counts for one in seen]),
        folds.to(device),
        torch.from_numpy(picture).to(device),
        moments,
    )


def collect(
    extract: Extractor,
    train: Frames,
    fold: np.ndarray,
    picture: np.ndarray,
    views: int,
    *,
    seed: int = 0,
    device: torch.device,
    advance: Callable[[int], object] = lambda count: None,
) -> Evidence:
    """What all of `train` shows; the arguments are those of `look` and `gather`.

    advance: called with the number of images done.
    """
    seen = []
    for i, (frame, points) in enumerate(zip(train.images, train.landmarks, strict=True)):
        seen.append(look(extract, frame, points, views, seed=(seed, i), device=device))
        advance(1)
    return gather(seen, fold, picture)


def _views(
    frame: Tensor, points: Tensor, views: int, seed: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """An image as it is and warped, (1 + views, 3, 136, 136), and its normalised landmarks."""
    if not views:
        return frame[None], normalise_landmarks(points[None])
    generator = np.random.default_rng(seed)
    grid = warp_grid(make_warps(generator.standard_normal((views, NORMALS)), SCALES["own"]))
    warped = warp_images(frame.expand(views, -1, -1, -1), grid)
    moved = warp_landmarks(points.expand(views, -1, -1), grid)
    frames = torch.cat([frame[None], warped.to(frame.dtype)])
    return frames, normalise_landmarks(torch.cat([points[None], moved]))
