"""The training images of few-shot detection: which are drawn, their warped views, and their order.

(PROTOCOL 3.7, 4.4.) A cell is one regressor: a count of annotated images and a seed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scemae.data.tps_warps import (
    NORMALS,
    SCALES,
    make_warps,
    warp_grid,
    warp_images,
    warp_landmarks,
)
from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks.benchmark_frames import Frames, normalise_landmarks
from scemae.evaluation.landmarks.regression import RegressionConfig

DRAW, WARP, ORDER = 1, 2, 3  # streams of random numbers of one seed

# Frames (b, 3, 136, 136) in [0, 1] to features (b, d, h, w) by kind.
Extract = Callable[[Tensor], dict[str, Tensor]]
# Called with "views" and how many were made, or "epochs" and how many were trained, summed over
# cells.
Progress = Callable[[str, int], object]


@dataclass
class FewShotConfig:
    """Settings of Table 3; the paper prints only counts and `intermediate` (PROTOCOL 1.6 [U])."""

    counts: tuple[int, ...] = (1, 5, 10, 20, 50, 100)  # annotated images (Table 3 [F])
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # ours; DVE: three runs, seeds not published
    images_per_epoch: int = 1000  # CL: floor(1000 / n) * n samples; DVE: of 10,122
    epochs: int = 50  # DVE; CL's README: 1000 (PROTOCOL 4.4)
    batch: int = 32
    lr: float = 1e-2  # this, weight_decay and betas: CL (PROTOCOL 4.4 [F])
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.5, 0.999)
    kernel: int = 1  # PROTOCOL 1.6
    init_std: float = 1.0
    intermediate: int = 50  # I, heat maps per landmark (paper 4.2 [F])
    temperature: float = 100.0
    coordinate_scale: float = 10.0
    # ours: use k of an image sees its warp k % views; with as many as uses it is CL's live
    # augmentation
    views: int = 50

    def alone(self, seed: int) -> RegressionConfig:
        """The settings of one cell's regressor."""
        return RegressionConfig(
            self.intermediate,
            self.kernel,
            self.temperature,
            self.init_std,
            self.coordinate_scale,
            self.epochs,
            self.batch,
            self.lr,
            self.betas,
            self.weight_decay,
            seed,
        )


@dataclass(frozen=True)
class FewShotCell:
    """One regressor: trained on the first `count` images drawn with `seed`."""

    count: int
    seed: int


@dataclass
class Views:
    """The warped training images of some seeds, on the device; a row is one view."""

    features: Tensor  # (r, h, w, d) fp16: channels last, the order that the matrix product reads
    landmarks: Tensor  # (r, l, 2), normalised
    first: dict[int, np.ndarray]  # of each seed, the first row of each image, in the order drawn


def choose_images(available: int, counts: tuple[int, ...], seed: int) -> dict[int, np.ndarray]:
    """Training images (n,) of each count n, out of `available`, without replacement (PROTOCOL 3.7).

    Count n takes the first n of one permutation: our choice, so that two counts differ by the added
    images only; DVE draws each count anew. Raises ConfigError where a count is larger than
    `available`.
    """
    if max(counts) > available:
        raise ConfigError(
            f"few_shot.counts: found {max(counts)} annotated images, the training set has "
            f"{available}; ask for fewer, or give all of its shards"
        )
    order = np.random.default_rng([DRAW, seed]).permutation(available)
    return {count: order[:count] for count in counts}


def count_views(config: FewShotConfig) -> np.ndarray:
    """How many views to make of each image of a seed, in the order drawn: as many as any count
    uses, or `views`.
    """
    counts = np.array(sorted(config.counts))
    # The smallest count that has the image uses it most often.
    least = counts[np.searchsorted(counts, np.arange(counts[-1]), side="right")]
    return np.minimum(config.views, config.epochs * (config.images_per_epoch // least))


def order_views(
    cell: FewShotCell, epoch: int, first: np.ndarray, config: FewShotConfig
) -> np.ndarray:
    """Rows (samples,) of the views that a cell sees in one epoch, in order; first: row of each
    image's view 0.

    The images are repeated floor(images_per_epoch / n) times (PROTOCOL 3.7, 4.4), each time as
    another view.
    """
    repeats = config.images_per_epoch // cell.count
    samples = np.random.default_rng([ORDER, cell.seed, epoch]).permutation(repeats * cell.count)
    image, use = samples % cell.count, epoch * repeats + samples // cell.count
    return first[image] + use % config.views


@torch.no_grad()
def warp_seeds(
    extract: Extract,
    train: Frames,
    images: dict[int, np.ndarray],
    config: FewShotConfig,
    *,
    shapes: dict[str, torch.Size],
    device: torch.device,
    progress: Progress,
) -> dict[str, Views]:
    """All views of the images of each seed, with their features of `shapes` (d, h, w), by kind."""
    counts, start = count_views(config), 0
    each = int(counts.sum())
    features = {
        kind: torch.empty(
            (len(images) * each, *shape[1:], shape[0]), dtype=torch.float16, device=device
        )
        for kind, shape in shapes.items()
    }
    landmarks = torch.empty((len(images) * each, *train.landmarks.shape[1:]), device=device)
    for seed, chosen in images.items():
        for image, count in zip(chosen, counts, strict=True):
            for frames, points in _warp(
                train, image, seed, int(count), config=config, device=device
            ):
                part = slice(start, start + len(frames))
                landmarks[part] = normalise_landmarks(points)
                for kind, found in extract(frames).items():
                    features[kind][part] = _checked(found, shapes[kind]).permute(0, 2, 3, 1)
                start = part.stop
                progress("views", len(frames))
    first = {seed: np.cumsum(counts) - counts + k * each for k, seed in enumerate(images)}
    return {kind: Views(found, landmarks, first) for kind, found in features.items()}


def _warp(
    train: Frames, image: int, seed: int, count: int, *, config: FewShotConfig, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `count` warps of an image with a seed, a batch at a time: frames in [0, 1], and
    landmarks.
    """
    generator = np.random.default_rng([WARP, seed, int(image)])
    for start in range(0, count, config.batch):
        size = min(config.batch, count - start)
        warps = make_warps(generator.standard_normal((size, NORMALS)), SCALES["few-shot"])
        grid = warp_grid(warps.to(device))
        frame, points = (
            part[image].to(device).expand(size, *part.shape[1:])
            for part in (train.images, train.landmarks)
        )
        yield warp_images(frame, grid).float() / 255, warp_landmarks(points, grid)


def _checked(features: Tensor, shape: torch.Size) -> Tensor:
    if features.shape[1:] != shape:
        raise ConfigError(
            f"few-shot: found features {tuple(features.shape[1:])} of training views and "
            f"{tuple(shape)} of test images; make both with one trunk, head and stride"
        )
    features = features.half()
    if not features.isfinite().all():
        raise CheckpointError(
            "few-shot: the features are not finite in half precision; the checkpoint is of a run "
            "that diverged, take an earlier one"
        )
    return features
