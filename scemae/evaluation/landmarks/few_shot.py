"""Landmark detection from few annotated images (paper 4.2, Table 3; PROTOCOL 3.7, 4.4).

One regressor is trained for each cell: a count of annotated images and a seed. The features of each
image's warped views are computed once for all cells of the seed. The cells then train together in a
stack; they share no parameter, so each gets the weights that it would get alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from scemae.distributed import host_memory
from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks.benchmark_frames import Frames, normalise_landmarks
from scemae.evaluation.landmarks.feature_cache import Features
from scemae.evaluation.landmarks.few_shot_views import (
    Extract,
    FewShotCell,
    FewShotConfig,
    Progress,
    Views,
    choose_images,
    count_views,
    order_views,
    warp_seeds,
)
from scemae.evaluation.landmarks.regression import (
    LandmarkRegressor,
    RegressionConfig,
    fill_missing,
    image_means,
    iod_errors,
    learning_rate,
    soft_argmax,
)

CPU_STEP = 1 << 24  # bytes of a step on a CPU: larger stacks leave its caches, up to twice as slow


@dataclass
class FewShotErrors:
    """The errors behind the cells of Table 3."""

    errors: np.ndarray  # (counts, seeds, n) float64: mean error of each test image, % of its IOD
    chosen: dict[int, list[str]]  # of each seed, the keys of its training images; count n uses n

    def mean(self) -> np.ndarray:
        """Mean error (counts,) over seeds and test images, %IOD."""
        return self.errors.mean(axis=(1, 2))

    def sd(self) -> np.ndarray:
        """Standard deviation (counts,) over seeds of the mean test error, with n - 1; 0 for a
        single seed.
        """
        if self.errors.shape[1] == 1:
            return np.zeros(len(self.errors))
        return self.errors.mean(axis=2).std(axis=1, ddof=1)


class RegressorStack(nn.Module):
    """c regressors of one shape without shared parameters; each is a `LandmarkRegressor`."""

    def __init__(self, alone: list[LandmarkRegressor]) -> None:
        """Copies the weights of the given regressors, in their order."""
        super().__init__()
        self.temperature = alone[0].temperature
        heatmaps = torch.stack([one.heatmaps.weight.detach() for one in alone])
        self.heatmaps = nn.Parameter(heatmaps)  # c (l i) d ky kx
        readout = torch.stack([one.readout.detach() for one in alone])
        self.readout = nn.Parameter(readout)  # c l (i 2) 2

    def forward(self, features: Tensor) -> Tensor:
        """Features (c, b, h, w, d), one set per regressor, to landmarks (c, b, l, 2) in [-1, 1]
        over the crop.
        """
        height, width, kernel = *features.shape[2:4], self.heatmaps.shape[-1]
        padded = F.pad(features, (0, 0, *4 * [kernel // 2]))
        around = padded.unfold(2, kernel, 1).unfold(3, kernel, 1)  # c b h w d ky kx
        # The temperature scales the weights, as the responses are far larger than they.
        weights = self.temperature * self.heatmaps.flatten(2)
        responses = weights @ rearrange(around, "c b h w d ky kx -> c (d ky kx) (b h w)")
        maps = rearrange(responses, "c li (b h w) -> (c li) b h w", h=height, w=width)
        points = rearrange(
            soft_argmax(maps),
            "(c l i) b xy -> c b l (i xy)",
            c=len(features),
            l=self.readout.shape[1],
        )
        return torch.einsum("cblp,clpq->cblq", points, self.readout)

    def alone(self, which: int, settings: RegressionConfig) -> LandmarkRegressor:
        """The regressor number `which`, on the CPU."""
        weights, readout = self.heatmaps[which].detach().cpu(), self.readout[which].detach().cpu()
        settings = replace(
            settings,
            intermediate=readout.shape[1] // 2,
            kernel=weights.shape[-1],
            temperature=self.temperature,
        )
        found = LandmarkRegressor(weights.shape[1], len(readout), settings)
        found.load_state_dict({"heatmaps.weight": weights, "readout": readout})
        return found.eval().requires_grad_(False)


Trained = tuple[Sequence[FewShotCell], RegressorStack]


def few_shot_errors(
    extract: Extract,
    train: Frames,
    test_features: Mapping[str, Features],
    test_landmarks: Tensor,
    *,
    eyes: tuple[int, int],
    config: FewShotConfig,
    device: str | torch.device = "cpu",
    progress: Progress = lambda task, count: None,
) -> dict[str, FewShotErrors]:
    """Errors of regressors trained on few images, for each count and seed (paper 4.2, Table 3), by
    kind of features.

    Each warped image is extracted once for all kinds. test_features (n, d, h, w) are of the
    un-warped test images; test_landmarks (n, l, 2) are in pixels of the 136 frame, as train's.
    Raises ConfigError for settings that are wrong or need too much memory, CheckpointError for
    features that are not finite, DataError for a test image whose two eyes are one point.
    """
    device, truth = torch.device(device), normalise_landmarks(test_landmarks.cpu())
    _check(config)
    _check_test_images(test_features, truth, eyes)
    images = {
        seed: choose_images(len(train), config.counts, seed)[max(config.counts)]
        for seed in config.seeds
    }
    shapes = {kind: found.shape[1:] for kind, found in test_features.items()}
    trained: dict[str, list[Trained]] = {kind: [] for kind in shapes}
    for seeds in _seeds_at_once(config, shapes, device):
        part = {seed: images[seed] for seed in seeds}
        made = warp_seeds(
            extract, train, part, config, shapes=shapes, device=device, progress=progress
        )
        for kind in shapes:
            views = made.pop(kind)  # freed before the next kind trains
            for cells in _cells_at_once(seeds, views, config):
                trained[kind].append((cells, _train(cells, views, config, progress)))
            del views
    chosen = {seed: [train.keys[i] for i in rows] for seed, rows in images.items()}
    return {
        kind: FewShotErrors(_test(trained[kind], features, truth, eyes, config, device), chosen)
        for kind, features in test_features.items()
    }


def _check_test_images(
    features: Mapping[str, Features], truth: Tensor, eyes: tuple[int, int]
) -> None:
    """Raise ConfigError or DataError now, not after the training."""
    if wrong := {len(found) for found in features.values()} - {len(truth)}:
        raise ConfigError(
            f"few-shot: found {wrong.pop()} features and {len(truth)} landmarks of test images; "
            "give those of the same images"
        )
    iod_errors(truth, truth, eyes)  # raises where the two eyes of an image are one point


def _test(
    trained: list[Trained],
    features: Features,
    truth: Tensor,
    eyes: tuple[int, int],
    config: FewShotConfig,
    device: torch.device,
) -> np.ndarray:
    """Errors (counts, seeds, n) of all cells on one kind of features."""
    errors = np.empty((len(config.counts), len(config.seeds), len(truth)))
    for cell, predicted in _predict(trained, features, config, device):
        place = config.counts.index(cell.count), config.seeds.index(cell.seed)
        errors[place] = image_means(iod_errors(predicted, truth, eyes))
    return errors


def _train(
    cells: Sequence[FewShotCell], views: Views, config: FewShotConfig, progress: Progress
) -> RegressorStack:
    """Fit one regressor per cell, all in one stack. All cells have epochs of the same length."""

    def order(epoch: int) -> np.ndarray:
        rows = [order_views(cell, epoch, views.first[cell.seed], config) for cell in cells]
        return np.stack(rows)

    seeds = [cell.seed for cell in cells]
    return train_stack(views, seeds, order, config, advance=lambda n: progress("epochs", n))


def train_stack(
    views: Views,
    seeds: Sequence[int],
    order: Callable[[int], np.ndarray],
    config: FewShotConfig,
    *,
    advance: Callable[[int], object] = lambda regressors: None,
) -> RegressorStack:
    """One regressor for each of c seeds of initial weights, all in one stack, on the views' device.

    order: gives the rows (c, samples) of the views that each sees in an epoch. `advance(c)` is
    called after each epoch.
    """
    device, shape = views.features.device, (views.features.shape[-1], views.landmarks.shape[1])
    stack = RegressorStack([LandmarkRegressor(*shape, config.alone(seed)) for seed in seeds])
    stack = stack.to(device)
    optimizer = torch.optim.Adam(
        stack.parameters(), betas=config.betas, weight_decay=config.weight_decay
    )
    for epoch in range(config.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, config.alone(0))
        rows = torch.from_numpy(order(epoch)).to(device)  # c samples
        batch = min(config.batch, rows.shape[1])
        used = rows.shape[1] // batch * batch  # the rest of an epoch is dropped, as in DVE
        for chosen in rows[:, :used].split(batch, dim=1):
            predicted = stack(views.features[chosen].float())  # c b l 2
            losses = F.smooth_l1_loss(
                predicted * config.coordinate_scale,
                fill_missing(views.landmarks[chosen], predicted) * config.coordinate_scale,
                reduction="none",
            )
            optimizer.zero_grad()
            # Summed over cells, so that the gradient of each is that of its own mean loss.
            losses.mean(dim=(1, 2, 3)).sum().backward()
            optimizer.step()
        advance(len(seeds))
    return stack.requires_grad_(False)


def _predict(
    trained: list[Trained], features: Features, config: FewShotConfig, device: torch.device
) -> Iterator[tuple[FewShotCell, Tensor]]:
    """Landmarks (n, l, 2), normalised, on the CPU, of each cell, in one pass over the features (n,
    d, h, w).
    """
    found: list[list[Tensor]] = [[] for _ in trained]
    for part in features.split(config.batch):  # no more than a step of training needs
        part = rearrange(part.to(device).float(), "b d h w -> 1 b h w d")
        for (cells, stack), mine in zip(trained, found, strict=True):
            mine.append(stack(part.expand(len(cells), -1, -1, -1, -1)))
    for (cells, _), mine in zip(trained, found, strict=True):
        for cell, predicted in zip(cells, torch.cat(mine, dim=1).cpu(), strict=True):
            if not predicted.isfinite().all():
                raise CheckpointError(
                    f"few-shot: what {cell} predicts is not finite; the test images' features are "
                    "of a run that diverged, take an earlier checkpoint, or a smaller few_shot.lr"
                )
            yield cell, predicted


def _seeds_at_once(
    config: FewShotConfig, shapes: dict[str, torch.Size], device: torch.device
) -> list[Sequence[int]]:
    """The seeds in parts whose views take at most 60 % of free memory. Raises ConfigError."""
    rows, free = int(count_views(config).sum()), host_memory.free(device)
    if (needed := 2 * rows * sum(map(math.prod, shapes.values()))) > 0.6 * free:
        shown = ", ".join(str(tuple(shape)) for shape in shapes.values())
        raise ConfigError(
            f"few-shot: features {shown} of one seed's {rows:,} views need {needed / 1e9:.1f} GB, "
            f"of {free / 1e9:.1f} GB free 60 % may be used; set fewer few_shot.views or a larger "
            "stride"
        )
    return _parts(config.seeds, int(0.6 * free / needed))


def _cells_at_once(
    seeds: Sequence[int], views: Views, config: FewShotConfig
) -> Iterator[Sequence[FewShotCell]]:
    """The cells of `seeds` in stacks that memory can hold, with epochs of one length. Raises
    ConfigError.

    A step keeps four arrays of the size of the responses (they, their softmax, both gradients), and
    the features of each use.
    """
    height, width, channels = views.features.shape[1:]
    free = host_memory.free(views.features.device)
    responses = views.landmarks.shape[1] * config.intermediate
    uses = 2 * channels * (1 + config.kernel**2)
    needed = 4 * config.batch * height * width * (4 * responses + uses)
    if needed > 0.8 * free:
        raise ConfigError(
            f"few-shot: a step of one regressor needs {needed / 1e9:.1f} GB, of {free / 1e9:.1f} "
            "GB free 80 % may be used; set a smaller few_shot.batch_size or a larger stride"
        )
    alike: dict[int, list[FewShotCell]] = {}
    for count, seed in product(config.counts, seeds):
        alike.setdefault(config.images_per_epoch // count * count, []).append(
            FewShotCell(count, seed)
        )
    allowed = 0.8 * free if views.features.is_cuda else min(0.8 * free, CPU_STEP)
    size = max(1, int(allowed / needed))
    for cells in alike.values():
        yield from _parts(cells, size)


def _parts(items: Sequence, size: int) -> list[Sequence]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _check(config: FewShotConfig) -> None:
    sizes = (config.images_per_epoch, config.epochs, config.batch, config.intermediate)
    is_empty = not config.counts or not config.seeds
    if is_empty or min(*config.counts, *sizes, config.views) < 1 or min(config.seeds) < 0:
        raise ConfigError(
            f"few_shot: found {config}; needed at least one count and one seed, counts and sizes "
            "of at least 1 and seeds of at least 0"
        )
    if config.kernel % 2 == 0:
        raise ConfigError(
            f"few_shot: found kernel {config.kernel}, needed an odd number so that maps keep their "
            "size"
        )
    if len(set(config.counts)) < len(config.counts) or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(
            f"few_shot: found counts {config.counts} and seeds {config.seeds}; name each once"
        )
    if max(config.counts) > config.images_per_epoch:
        raise ConfigError(
            f"few_shot.counts: found {max(config.counts)} images, an epoch has "
            f"{config.images_per_epoch} (few_shot.images_per_epoch), so not one whole round; set "
            "more, or lower counts"
        )
