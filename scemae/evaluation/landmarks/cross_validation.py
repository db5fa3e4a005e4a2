"""The error of a few-shot regressor on the annotated images themselves: each image is predicted by
a regressor that was trained without it.

All folds read the same warped views, whose features are computed once, and train in stacks
(few_shot.py). Samples of one picture are always in one fold.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scemae.distributed import host_memory
from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks import regression
from scemae.evaluation.landmarks.benchmarks import Frames, normalise_landmarks
from scemae.evaluation.landmarks.few_shot import RegressorStack, train_stack
from scemae.evaluation.landmarks.few_shot_views import (
    Extract,
    FewShotCell,
    FewShotConfig,
    Progress,
    Views,
    order_views,
    warp_seeds,
)
from scemae.evaluation.landmarks.regression import (
    RegressionConfig,
    image_means,
    iod_errors,
    mean_shape,
)

STACK = 1 << 24  # bytes of a step of one stack on a CPU (few_shot.CPU_STEP)


@dataclass
class Held:
    """Predictions of each image by a regressor that has not seen it, and a regressor of all."""

    predicted: Tensor  # (n, l, 2), normalised
    whole: RegressorStack  # of one regressor, trained on all images


def make_folds(groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """The fold (n,) of each image; images of one group share theirs. Raises ConfigError."""
    names = sorted(set(groups))
    if len(names) < 2:
        raise ConfigError(
            f"found {len(names)} annotated picture, at least 2 are needed, so that each can be "
            "predicted without itself; annotate more (20 are a good start)"
        )
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


def fit_and_hold_out(
    extract: Extract,
    train: Frames,
    features: dict[str, Tensor],
    fold: np.ndarray,
    config: FewShotConfig,
    *,
    device: torch.device,
    progress: Progress = lambda task, count: None,
) -> dict[str, Held]:
    """For each kind of features: the predictions of all images, and a regressor of all.

    extract: as of few_shot_errors. features (n, d, h, w), by kind, are of the n images as they are;
    `train` has them first, and may have more behind them, n at a time (mirrored), each in the fold
    of its original. Raises ConfigError, CheckpointError.
    """
    folds, copies = int(fold.max()) + 1, len(train) // len(fold)
    all_rows = np.tile(fold, copies)
    samples = max(config.images_per_epoch, len(train))
    config = replace(
        config,
        counts=(len(train),),
        seeds=(0,),
        images_per_epoch=samples,
        views=min(config.views, config.epochs * (samples // len(train))),
    )
    shapes = {kind: found.shape[1:] for kind, found in features.items()}
    _check_memory(len(train), config, shapes, device)
    made = warp_seeds(
        extract,
        train,
        {0: np.arange(len(train))},
        config,
        shapes=shapes,
        device=device,
        progress=progress,
    )
    found = {}
    for kind in shapes:
        views = made.pop(kind)
        kept = [np.flatnonzero(all_rows != k) for k in range(folds)]
        predicted = torch.full((len(fold), *train.landmarks.shape[1:]), torch.nan)
        for part in _parts(list(range(folds)), _stack_size(views, config)):
            stack = _train([kept[k] for k in part], views, config, progress)
            for place, k in enumerate(part):
                rows = torch.from_numpy(np.flatnonzero(fold == k))
                predicted[rows] = _predict(stack, place, features[kind][rows], device)
        whole = _train([np.arange(len(train))], views, config, progress)
        if not predicted.isfinite().all():
            raise CheckpointError(
                f"{kind}: what the regressor predicts is not finite; its features are of a run "
                "that diverged, take an earlier checkpoint"
            )
        found[kind] = Held(predicted, whole)
        del views
    return found


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


def _train(
    chosen: list[np.ndarray], views: Views, config: FewShotConfig, progress: Progress
) -> RegressorStack:
    """One regressor for each choice of images, in a stack."""
    samples = config.images_per_epoch

    def order(epoch: int) -> np.ndarray:
        # Choices of different sizes see equally many samples: the stack needs one length.
        rows = [
            np.resize(
                order_views(FewShotCell(len(images), 0), epoch, views.first[0][images], config),
                samples,
            )
            for images in chosen
        ]
        return np.stack(rows)

    seeds = [0] * len(chosen)
    return train_stack(views, seeds, order, config, advance=lambda n: progress("epochs", n))


def _predict(stack: RegressorStack, place: int, features: Tensor, device: torch.device) -> Tensor:
    """Landmarks (n, l, 2), on the CPU, of one regressor of a stack, of features (n, d, h, w)."""
    regressor = stack.alone(place, RegressionConfig())
    return regression.predict(regressor, features, device=device)


def _check_memory(
    images: int, config: FewShotConfig, shapes: dict[str, torch.Size], device: torch.device
) -> None:
    free = host_memory.free(device)
    needed = 2 * images * config.views * sum(map(math.prod, shapes.values()))
    if needed > 0.6 * free:
        raise ConfigError(
            f"fit: features of {images * config.views:,} views need {needed / 1e9:.1f} GB, of "
            f"{free / 1e9:.1f} GB free 60 % may be used; give fewer --views or a larger --stride"
        )


def _stack_size(views: Views, config: FewShotConfig) -> int:
    """How many regressors train together: their step stays in the caches of a CPU."""
    height, width, channels = views.features.shape[1:]
    responses = views.landmarks.shape[1] * config.intermediate
    needed = 4 * config.batch * height * width * (4 * responses + 2 * channels)
    allowed = STACK if views.features.device.type == "cpu" else 64 * STACK
    return max(1, int(allowed / needed))


def _parts(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
