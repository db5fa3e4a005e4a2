"""Landmark detection from few annotated images (paper 4.2, Table 3; PROTOCOL 3.7, 4.4).

One regressor is trained for each cell: a count of annotated images and a seed. The features of each
image's warped views are computed once for all cells of the seed. The cells then train together in a
stack; they share no parameter, so each gets the weights that it would get alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from scemae.data.tps_warps import (
    NORMALS,
    SCALES,
    make_warps,
    warp_grid,
    warp_images,
    warp_landmarks,
)
from scemae.distributed import host_memory
from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks.benchmarks import Frames, normalise_landmarks
from scemae.evaluation.landmarks.feature_cache import Features
from scemae.evaluation.landmarks.regression import (
    LandmarkRegressor,
    RegressionConfig,
    iod_errors,
    learning_rate,
    soft_argmax,
)

DRAW, WARP, ORDER = 1, 2, 3  # streams of random numbers of one seed
CPU_STEP = 1 << 24  # bytes of a step on a CPU: larger stacks leave its caches, up to twice as slow

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


Trained = tuple[Sequence[FewShotCell], RegressorStack]


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
    if wrong := {len(found) for found in test_features.values()} - {len(truth)}:
        raise ConfigError(
            f"few-shot: found {wrong.pop()} features and {len(truth)} landmarks of test images; "
            "give those of the same images"
        )
    iod_errors(truth, truth, eyes)  # raises now, not after the work, where two eyes are one point
    images = {
        seed: choose_images(len(train), config.counts, seed)[max(config.counts)]
        for seed in config.seeds
    }
    shapes = {kind: found.shape[1:] for kind, found in test_features.items()}
    trained: dict[str, list[Trained]] = {kind: [] for kind in shapes}
    for seeds in _seeds_at_once(config, shapes, device):
        part = {seed: images[seed] for seed in seeds}
        made = _warp_seeds(
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
        errors[place] = iod_errors(predicted, truth, eyes).mean(axis=1)
    return errors


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
def _warp_seeds(
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
                train, image, seed, int(count), batch=config.batch, device=device
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
    train: Frames, image: int, seed: int, count: int, *, batch: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `count` warps of an image with a seed, `batch` at a time: frames in [0, 1], and
    landmarks.
    """
    generator = np.random.default_rng([WARP, seed, int(image)])
    for start in range(0, count, batch):
        size = min(batch, count - start)
        warps = make_warps(generator.standard_normal((size, NORMALS)), SCALES["few-shot"])
        grid = warp_grid(warps.to(device))
        frame, points = (
            part[image].to(device).expand(size, *part.shape[1:])
            for part in (train.images, train.landmarks)
        )
        yield warp_images(frame, grid).float() / 255, warp_landmarks(points, grid)


def _train(
    cells: Sequence[FewShotCell], views: Views, config: FewShotConfig, progress: Progress
) -> RegressorStack:
    """Fit one regressor per cell, all in one stack. All cells have epochs of the same length."""
    device, shape = views.features.device, (views.features.shape[-1], views.landmarks.shape[1])
    stack = RegressorStack(
        [LandmarkRegressor(*shape, config.alone(cell.seed)) for cell in cells]
    ).to(device)
    optimizer = torch.optim.Adam(
        stack.parameters(), betas=config.betas, weight_decay=config.weight_decay
    )
    for epoch in range(config.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, config.alone(0))
        orders = [order_views(cell, epoch, views.first[cell.seed], config) for cell in cells]
        rows = torch.from_numpy(np.stack(orders)).to(device)  # c samples
        batch = min(config.batch, rows.shape[1])
        used = rows.shape[1] // batch * batch  # the rest of an epoch is dropped, as in DVE
        for chosen in rows[:, :used].split(batch, dim=1):
            predicted = stack(views.features[chosen].float())  # c b l 2
            losses = F.smooth_l1_loss(
                predicted * config.coordinate_scale,
                views.landmarks[chosen] * config.coordinate_scale,
                reduction="none",
            )
            optimizer.zero_grad()
            # Summed over cells, so that the gradient of each is that of its own mean loss.
            losses.mean(dim=(1, 2, 3)).sum().backward()
            optimizer.step()
        progress("epochs", len(cells))
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
