"""What the error of few annotated images on themselves needs: folds, mirrored images, and the mean
shape's error as a floor.

Samples of one picture are always in one fold.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scemae.errors import ConfigError
from scemae.evaluation.landmarks.benchmark_frames import Frames, normalise_landmarks
from scemae.evaluation.landmarks.regression import image_means, iod_errors, mean_shape

SINGLY = 30  # up to so many pictures, each is left out alone


def make_folds(groups: Sequence[str], folds: int | None, seed: int) -> np.ndarray:
    """The fold (n,) of each image; images of one group share theirs. Raises ConfigError.

    folds: how many; None: one for each of up to SINGLY groups, ten for more.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise ConfigError(
            f"found {len(names)} annotated picture, at least 2 are needed, so that each can be "
            "predicted without itself; annotate more (20 are a good start)"
        )
    if folds is None:
        folds = len(names) if len(names) <= SINGLY else 10
    if not 2 <= folds <= len(names):
        raise ConfigError(
            f"--folds: found {folds}, needed 2 to {len(names)}, the number of annotated pictures"
        )
    order = np.random.Generator(np.random.Philox(key=[seed, len(names)])).permutation(len(names))
    fold = {names[row]: place % folds for place, row in enumerate(order)}
    return np.array([fold[name] for name in groups])


def mirrored(frames: Frames, pairs: Sequence[tuple[int, int]]) -> Frames:
    """The frames, and behind them the same mirrored, with the points of each pair exchanged."""
    order = list(range(frames.landmarks.shape[1]))
    for first, second in pairs:
        order[first], order[second] = second, first
    points = frames.landmarks[:, order].clone()
    points[..., 0] = frames.images.shape[-1] - 1 - points[..., 0]
    return Frames(
        torch.cat([frames.images, frames.images.flip(-1)]),
        torch.cat([frames.landmarks, points]),
        [*frames.keys, *(f"{key} mirrored" for key in frames.keys)],
        frames.identities.repeat(2),
    )


def mean_shape_errors(landmarks: Tensor, fold: np.ndarray, eyes: tuple[int, int]) -> np.ndarray:
    """Errors (n,) in % of predicting for each image the mean of those in other folds: a floor.

    landmarks (n, l, 2) in pixels of the frame.
    """
    truth = normalise_landmarks(landmarks)
    predicted = torch.empty_like(truth)
    for k in range(int(fold.max()) + 1):
        rows = torch.from_numpy(fold == k)
        predicted[rows] = mean_shape(truth[~rows])
    return image_means(iod_errors(predicted, truth, eyes))
