"""Landmark detection: a light regressor on frozen features (paper 4.2; PROTOCOL 3.5, 3.6, 4.4,
4.7).

Features -> convolution -> I heat maps per landmark -> soft-argmax -> I points -> linear map ->
landmark. Features are computed once and kept in memory (feature_cache.py). The result is that of
the last epoch, never of the best epoch on test images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scemae.errors import ConfigError, DataError
from scemae.evaluation.landmarks.benchmark_frames import normalise_landmarks
from scemae.evaluation.landmarks.feature_cache import Features


@dataclass
class RegressionConfig:
    """Settings of the regressor. The paper prints only `intermediate`; the rest is CL's or a choice
    of ours.

    With init_std 1 the softmax of 100 times a 3x3 response starts as a hard arg-max and needs many
    steps to change; MAFL has 594 per epoch. One trial (one seed, 1,000 images, 144-d gradient
    histograms, 930 steps): 20.5 %IOD with init_std 1, 15.9 with 0.05, 9.3 for the mean face. Choose
    init_std on held-out training images only.
    """

    intermediate: int = 50  # I, heat maps per landmark (paper 4.2 [F])
    kernel: int = 3  # paper: "spatial context" on all annotations; 1 for few-shot [U]
    temperature: float = 100.0  # factor before the softmax over positions (PROTOCOL 3.5 [F])
    init_std: float = 1.0  # of the convolution's weights (PROTOCOL 3.5 [F])
    coordinate_scale: float = 10.0  # the loss sees coordinates times this (PROTOCOL 3.5 [F])
    epochs: int = (
        200  # this, batch, lr, betas, weight_decay: CL (PROTOCOL 4.4 [F]); the paper's [U]
    )
    batch: int = 32
    lr: float = 1e-3
    # DVE: (0.9, 0.999), amsgrad, 300 epochs, lr times 0.1 at epochs 100 and 250
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 5e-4
    seed: int = 0


class LandmarkRegressor(nn.Module):
    """Features (b, d, h, w) to landmarks (b, l, 2), normalised to [-1, 1] over the crop."""

    def __init__(self, width: int, landmarks: int, cfg: RegressionConfig) -> None:
        """width: d, the channels of the features. Initial weights depend only on `cfg.seed`."""
        super().__init__()
        self.width, self.landmarks, self.temperature = width, landmarks, cfg.temperature
        points = cfg.intermediate
        self.heatmaps = nn.Conv2d(
            width, landmarks * points, cfg.kernel, padding=cfg.kernel // 2, bias=False
        )
        # of each landmark: I points to one
        self.readout = nn.Parameter(torch.empty(landmarks, 2 * points, 2))
        # the bound of PyTorch's own initialisation of a linear layer
        generator, bound = torch.Generator().manual_seed(cfg.seed), 1 / math.sqrt(2 * points)
        with torch.no_grad():
            self.heatmaps.weight.normal_(0, cfg.init_std, generator=generator)
            self.readout.uniform_(-bound, bound, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        """features (b, d, h, w) to landmarks (b, l, 2)."""
        points = soft_argmax(self.temperature * self.heatmaps(features))  # b (l i) 2
        points = points.reshape(len(features), self.landmarks, -1)  # b l (i 2)
        return torch.einsum("blp,lpc->blc", points, self.readout)


def soft_argmax(responses: Tensor) -> Tensor:
    """Expected x and y under the softmax of each map (b, c, h, w), in [-1, 1]: (b, c, 2)."""
    height, width = responses.shape[2:]
    line_x = torch.linspace(-1, 1, width, device=responses.device)
    line_y = torch.linspace(-1, 1, height, device=responses.device)
    places = torch.stack([line_x.repeat(height), line_y.repeat_interleave(width)], dim=1)  # (h w) 2
    return responses.flatten(2).softmax(dim=2) @ places


def join_stages(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate stage-1 and stage-2 features (b, d, h, w), each of length one per position.

    Without normalisation a projector with spatial softmax has channels a thousand times smaller
    than the backbone's, which do not reach the regressor (PROTOCOL 4.7 [D]).
    """
    return torch.cat([F.normalize(first, dim=1), F.normalize(second, dim=1)], dim=1)


def train_regressor(
    features: Features,
    landmarks: Tensor,
    cfg: RegressionConfig,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], object] | None = None,
) -> LandmarkRegressor:
    """Fit a regressor to features (n, d, h, w) and normalised landmarks (n, l, 2); return that of
    the last epoch.

    The order of samples follows from `cfg.seed` and the epoch. `progress(epoch, loss)` is called
    with the mean loss of each epoch. Raises ConfigError for settings out of range.
    """
    _check_config(cfg, len(features))
    regressor = LandmarkRegressor(features.shape[1], landmarks.shape[1], cfg).to(device)
    optimizer = torch.optim.Adam(
        regressor.parameters(), lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay
    )
    batch, truths = min(cfg.batch, len(features)), landmarks.to(device)
    for epoch in range(cfg.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, cfg)
        order = torch.from_numpy(
            np.random.default_rng([cfg.seed, epoch]).permutation(len(features))
        )
        order = order[: len(order) // batch * batch]  # the rest of an epoch is dropped, as in DVE
        losses = []
        marks = truths[order.to(device)].split(batch)
        for chosen, truth in zip(order.split(batch), marks, strict=True):
            predicted = regressor(features[chosen].to(device).float())
            truth = fill_missing(truth, predicted)
            loss = F.smooth_l1_loss(predicted * cfg.coordinate_scale, truth * cfg.coordinate_scale)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        if progress is not None:
            progress(epoch, float(torch.stack(losses).mean()))
    return regressor.eval()


def fill_missing(truth: Tensor, predicted: Tensor) -> Tensor:
    """Landmarks with those that are missing (NaN) as predicted: without loss or gradient."""
    return torch.where(truth.isnan(), predicted.detach(), truth)


def image_means(errors: np.ndarray) -> np.ndarray:
    """Mean (...,) over the last axis of errors (..., l), of the landmarks that an image has.

    NaN for an image without any.
    """
    is_known = ~np.isnan(errors)
    if is_known.all():
        return errors.mean(axis=-1)
    counts = is_known.sum(axis=-1)
    sums = np.where(is_known, errors, 0).sum(axis=-1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def learning_rate(epoch: int, cfg: RegressionConfig) -> float:
    """The learning rate of one epoch. The cosine ends at lr * 0.2^3 * 0.1, as CL's (PROTOCOL 4.3
    [F]).
    """
    floor = cfg.lr * 0.2**3 * 0.1
    return floor + (cfg.lr - floor) * (1 + math.cos(math.pi * epoch / cfg.epochs)) / 2


@torch.no_grad()
def predict(
    regressor: nn.Module, features: Features, *, batch: int = 64, device: str | torch.device = "cpu"
) -> Tensor:
    """Landmarks (n, l, 2), normalised, on the CPU, of features (n, d, h, w)."""
    regressor = regressor.to(device)
    return torch.cat([regressor(part.to(device).float()) for part in features.split(batch)]).cpu()


def iod_errors(predicted: Tensor, landmarks: Tensor, eyes: tuple[int, int]) -> np.ndarray:
    """Errors (n, l) of predicted landmarks (n, l, 2) in per cent of each image's inter-ocular
    distance.

    The coordinates may be in any unit that is the same for x and y. A landmark that is missing
    (NaN) has no error (NaN), and an image without an eye has none at all. Raises DataError if the
    two eyes of an image are one point.
    """
    distance = (landmarks[:, eyes[0]] - landmarks[:, eyes[1]]).double().norm(dim=1)
    if (distance <= 0).any():
        raise DataError(
            f"detection: in image {int((distance <= 0).nonzero()[0])} both eyes are one point, "
            "so there is no inter-ocular distance; correct or leave out its landmarks"
        )
    return (100 * (predicted - landmarks).double().norm(dim=2) / distance[:, None]).numpy()


def detection_errors(
    regressor: LandmarkRegressor,
    features: Features,
    landmarks: Tensor,
    eyes: tuple[int, int],
    *,
    batch: int = 64,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Mean error (n,) of each image in per cent of the IOD; landmarks (n, l, 2) normalised."""
    predicted = predict(regressor, features, batch=batch, device=device)
    return image_means(iod_errors(predicted, landmarks, eyes))


def mean_face_errors(train: Tensor, test: Tensor, eyes: tuple[int, int]) -> np.ndarray:
    """Errors (n,) in %IOD of predicting the mean training face (m, l, 2) for all of test (n, l, 2):
    a floor.
    """
    mean = mean_shape(normalise_landmarks(train)).expand(len(test), -1, -1)
    return image_means(iod_errors(mean, normalise_landmarks(test), eyes))


def mean_shape(landmarks: Tensor) -> Tensor:
    """The mean (1, l, 2) of landmarks (n, l, 2), each over the images that have it."""
    if landmarks.isnan().any():
        return landmarks.nanmean(dim=0, keepdim=True)
    return landmarks.mean(dim=0, keepdim=True)


def _check_config(cfg: RegressionConfig, images: int) -> None:
    if cfg.kernel % 2 == 0:
        raise ConfigError(
            f"detection.kernel: found {cfg.kernel}, needed an odd number so that maps keep their "
            "size"
        )
    if min(cfg.epochs, cfg.batch, cfg.intermediate) < 1 or images < 1:
        raise ConfigError(
            f"detection: found {images} images, epochs={cfg.epochs}, batch={cfg.batch}, "
            f"intermediate={cfg.intermediate}; each must be at least 1"
        )
