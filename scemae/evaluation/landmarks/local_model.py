"""A landmark detector from a few annotated images, in closed form: a constrained local model.

Ours, not the paper's (PROTOCOL 7); the regressor of the paper's few-shot test is in few_shot.py.
From 20 images that one learns little beyond the mean shape. Here less is learnt from them:

    responses   for each landmark, a linear classifier of the features at a place: is it this
                landmark, or any place? (LDA; its covariance is that of all places)
    shape       the landmarks of an object are Gaussian together
    fitting     the place that a response expects near an estimate, then the shape that is most
                probable given these places and how exact each was on left-out images; again

(Cristinacce and Cootes 2006; Saragih, Lucey and Cohn 2011; Hariharan, Malik and Ramanan 2012.)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scemae.evaluation.landmarks.local_evidence import BATCH, Evidence, Extractor

ROUNDS = 5  # of fitting
SHRINKAGE = 0.03  # of the features' covariance, times the identity, in units of its mean eigenvalue
# The covariance of shapes counts as if so many more images had shown the mean shape moved, turned
# and scaled: of one image nothing else is known.
PSEUDO_IMAGES = 0.3
MOVED, TURNED = 0.1, 0.15  # deviations: in halves of the crop; in radians, and of the size by 1
LOOSE = 0.1  # share of a landmark's own variance that it has by itself


class LocalModel(nn.Module):
    """Features (b, d, h, w) to landmarks (b, l, 2), normalised to [-1, 1] over the crop."""

    weight: Tensor  # (l, d), of the classifiers of features of length one
    bias: Tensor  # (l,)
    mean: Tensor  # (l, 2), the mean shape
    window: Tensor  # (l,), variance of a place around its estimate
    gain: Tensor  # (2 l, 2 l), from where responses are to the shape, both less the mean shape

    def __init__(self, width: int, landmarks: int) -> None:
        """width: d, the channels of the features. The values come from `fit` or a file."""
        super().__init__()
        self.width, self.landmarks = width, landmarks
        for name, shape in shapes(width, landmarks).items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, features: Tensor) -> Tensor:
        """features (b, d, h, w) to landmarks (b, l, 2)."""
        responses = respond(functional.normalize(features, dim=1), self.weight, self.bias)
        found = self.mean.expand(len(features), -1, -1)
        for _ in range(ROUNDS):
            seen = expected(responses, found, self.window) - self.mean
            found = self.mean + (seen.flatten(1) @ self.gain.T).unflatten(1, (-1, 2))
        return found


@torch.no_grad()
def predict(model: LocalModel, extract: Extractor, images: Tensor) -> Tensor:
    """The landmarks (n, l, 2), normalised, of images (n, 3, 136, 136) uint8."""
    device = model.mean.device
    return torch.cat([model(extract(part.to(device) / 255)) for part in images.split(BATCH)])


def shapes(width: int, landmarks: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors."""
    return {
        "weight": (landmarks, width),
        "bias": (landmarks,),
        "mean": (landmarks, 2),
        "window": (landmarks,),
        "gain": (2 * landmarks, 2 * landmarks),
    }


def respond(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Responses (b, l, h, w), log odds that each place is the landmark, of features (b, d, h, w).

    weight (l, d) and bias (l,), or (b, l, d) and (b, l) where each image has its own.
    """
    places = features.flatten(2)  # b d (h w)
    return (weight @ places + bias[..., None]).unflatten(2, features.shape[2:])


def expected(responses: Tensor, near: Tensor, window: Tensor) -> Tensor:
    """The places (b, l, 2) that responses (b, l, h, w) expect, times a Gaussian around `near`.

    near (b, l, 2), window (l,) its variance.
    """
    height, width = responses.shape[2:]
    x = (2 * torch.arange(width, device=responses.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=responses.device) + 1) / height - 1
    places = torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)  # (h w) 2
    far = (places - near[:, :, None]).square().sum(3) / (2 * window[:, None])  # b l (h w)
    return (responses.flatten(2) - far).softmax(2) @ places


@torch.no_grad()
def hold_out(evidence: Evidence) -> Tensor:
    """The landmarks (n, l, 2), normalised, of each image by the model of the other folds."""
    found = torch.empty_like(evidence.landmarks)
    for k in evidence.fold.unique().tolist():
        rows = evidence.fold == k
        found[rows] = fit(evidence, without=k)(evidence.features[rows])
    return found


@torch.no_grad()
def fit(evidence: Evidence, without: int | None = None) -> LocalModel:
    """The model of all images, or of those that are not in the fold `without`."""
    kept = torch.ones_like(evidence.fold, dtype=torch.bool)
    if without is not None:
        kept = evidence.fold != without
    features, landmarks = evidence.features[kept], evidence.landmarks[kept]
    model = LocalModel(features.shape[1], landmarks.shape[1]).to(features.device)
    mean, precision = _background(evidence, without, features.device)
    sums, counts = evidence.sums[kept], evidence.counts[kept]
    model.weight[:], model.bias[:] = _classifier(sums.sum(0), counts.sum(0), mean, precision)
    pixel = (2 / features.shape[-1]) ** 2 / 12  # variance of a place within its square
    model.mean[:], covariance = _shape(landmarks)
    model.window[:] = covariance.diagonal().unflatten(0, (-1, 2)).mean(1) + pixel
    # how exact a response is where its classifier has not seen the picture
    others = _classifier(*_others(sums, counts, evidence.picture[kept]), mean, precision)
    near = model.mean.expand(len(landmarks), -1, -1)
    seen = expected(respond(features, *others), near, model.window)
    errors = (seen - landmarks).square().mean(2).nanmean(0).nan_to_num() + pixel
    noise = torch.diag(errors.repeat_interleave(2))
    model.gain[:] = torch.linalg.solve(covariance + noise, covariance).T
    return model


def _background(
    evidence: Evidence, without: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The mean (d,) of the features of all places, and their inverse covariance (d, d)."""
    count, total, products = (
        of.sum(0) - (0 if without is None else of[without]) for of in evidence.moments
    )
    mean = total / count
    scatter = products / count - torch.outer(mean, mean)
    eye = torch.eye(len(mean), dtype=scatter.dtype)
    scatter += (SHRINKAGE * scatter.trace() / len(mean) + 1e-9) * eye
    return mean.float().to(device), torch.linalg.inv(scatter).float().to(device)


def _classifier(
    total: Tensor, count: Tensor, mean: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights (..., l, d) and biases (..., l) of LDA: landmarks of mean feature total / count
    against all places.
    """
    centre = total / count.clamp(min=1)[..., None]
    weight = (centre - mean) @ precision
    return weight, -((centre + mean) * weight).sum(-1) / 2


def _others(sums: Tensor, counts: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image, the sums and counts over images of other pictures; over all, if none is."""
    same = (picture[:, None] == picture).float()
    others = counts.sum(0) - same @ counts  # n l
    rest = sums.sum(0) - torch.einsum("ij,jld->ild", same, sums)
    is_some = others > 0
    return (
        torch.where(is_some[..., None], rest, sums.sum(0)),
        torch.where(is_some, others, counts.sum(0)),
    )


def _shape(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """The mean shape (l, 2) of landmarks (n, l, 2), and the covariance (2 l, 2 l) of shapes."""
    known = (~landmarks.isnan()).any(2).sum(0)  # l
    mean = landmarks.nanmean(0)
    deviations = (landmarks - mean).nan_to_num()
    deviations *= (len(landmarks) / known.clamp(min=1)).sqrt()[:, None]  # as if all were seen
    rows = deviations.flatten(1)
    centred = mean - mean.mean(0)
    turned = torch.stack([-centred[:, 1], centred[:, 0]], dim=1)
    moves = [
        MOVED * torch.tensor([1.0, 0]).expand_as(mean).to(mean),
        MOVED * torch.tensor([0, 1.0]).expand_as(mean).to(mean),
        TURNED * turned,
        TURNED * centred,
    ]
    moved = torch.stack(moves).flatten(1)
    if len(rows) > 1:
        moved *= (rows.square().sum() / (len(rows) - 1) / moved.square().sum()).sqrt()
    covariance = (rows.T @ rows + PSEUDO_IMAGES * moved.T @ moved) / (
        max(len(rows) - 1, 0) + PSEUDO_IMAGES
    )
    return mean, (1 - LOOSE) * covariance + LOOSE * torch.diag(covariance.diagonal())
