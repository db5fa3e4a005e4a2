"""Landmark matching: find the points of a source image in a target image (paper 4.1).

Both feature maps are bilinearly upsampled to the 96-px crop. The query is the feature at the
point's pixel; the answer is the target's pixel with the highest cosine. This is CL's matcher, which
the paper describes (PROTOCOL 3.4, 4.5).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scemae.data.geometry import CROP, INPUT, UNIT
from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks.pairs import DIFFERENT, SAME, SOURCE, Pairs

BUDGET = 1 << 25  # bytes of upsampled target features at a time: more is slower on a CPU
PATCH = 9  # side of the squares of `patches`
PRIOR = 1e-3  # of the floor "near 9x9 patches": cosine lost per squared pixel of distance

# Frames (b, 3, 136, 136) in [0, 1] to features (b, d, h, w) of the 96 crop, or to the input of
# heads.
Extract = Callable[[Tensor], Any]
Head = Callable[[Any], Tensor]  # the result of an `Extract` to features (b, d, h, w)

ERROR_PARTS = ("same", "different", "same_predicted", "different_predicted")  # of MatchingErrors


@dataclass
class MatchingErrors:
    """A matcher's errors on all pairs; row i is couple i, column j is landmark j."""

    pairs_hash: str
    same: np.ndarray  # (c, l) Euclidean error in 70-px units
    different: np.ndarray  # (c, l)
    same_predicted: np.ndarray  # (c, l, 2) predicted x, y in pixels of the 96 crop
    different_predicted: np.ndarray  # (c, l, 2)

    @classmethod
    def of(cls, pairs_hash: str, arrays: dict[str, np.ndarray]) -> "MatchingErrors":
        """From the arrays named in `ERROR_PARTS`."""
        return cls(pairs_hash, *(arrays[part] for part in ERROR_PARTS))

    @property
    def same_96(self) -> np.ndarray:
        """The same errors in pixels of the 96 crop."""
        return self.same * (INPUT / UNIT)

    @property
    def different_96(self) -> np.ndarray:
        """The same errors in pixels of the 96 crop."""
        return self.different * (INPUT / UNIT)


def match(
    source_features: Tensor, target_features: Tensor, query_points: Tensor, prior: float = 0.0
) -> Tensor:
    """Find query points (b, l, 2), x and y in pixels of the source's 96 crop, in the target's crop.

    source_features and target_features (b, d, h, w) cover the crop. Points are rounded and kept
    inside the crop. prior: subtracted from the cosine per squared pixel of distance from the query
    (ours, PROTOCOL 7); 0 is the paper's matcher. Returns whole pixels (b, l, 2).
    """
    size = max(1, BUDGET // (4 * target_features.shape[1] * INPUT * INPUT))
    parts = zip(
        source_features.split(size),
        target_features.split(size),
        query_points.split(size),
        strict=True,
    )
    return torch.cat([_match(*part, prior) for part in parts])


def look_up(features: Tensor, points: Tensor) -> Tensor:
    """The features (b, l, d) at points (b, l, 2), x and y in pixels of the 96 crop, of maps (b, d,
    h, w).

    The maps cover the crop. Points are rounded and kept inside it. On a smaller map the result is
    what bilinear upsampling would put at the pixel.
    """
    places = ((2 * points.round().clamp(0, INPUT - 1) + 1) / INPUT - 1).unsqueeze(2)  # b l 1 2
    found = F.grid_sample(
        features.float(), places, mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[..., 0].transpose(1, 2)


def _match(source: Tensor, target: Tensor, points: Tensor, prior: float) -> Tensor:
    queries, large = look_up(source, points), enlarge(target)
    lengths = large.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if not prior:
        return nearest(queries, large, lengths)
    return nearest(F.normalize(queries, dim=2), large, lengths, prior * squared_distances(points))


def squared_distances(points: Tensor) -> Tensor:
    """From points (b, l, 2), rounded and kept inside the crop, to each pixel: (b, l, 96 * 96)."""
    line = torch.arange(INPUT, device=points.device, dtype=points.dtype)
    x, y = points.round().clamp(0, INPUT - 1).unsqueeze(3).unbind(2)  # b l 1
    return ((line - y).square().unsqueeze(3) + (line - x).square().unsqueeze(2)).flatten(2)


def enlarge(features: Tensor) -> Tensor:
    """Maps (b, d, h, w) of the crop, bilinearly upsampled to its pixels: (b, d, 96 * 96)."""
    return F.interpolate(
        features.float(), size=(INPUT, INPUT), mode="bilinear", align_corners=False
    ).flatten(2)


def nearest(
    queries: Tensor, large: Tensor, lengths: Tensor, penalty: Tensor | None = None
) -> Tensor:
    """The pixel (b, l, 2), x and y, with the highest cosine to each of queries (b, l, d).

    large: what `enlarge` returned; lengths (b, 1, 96 * 96): the norms of its features, above 0.
    penalty (b, l, 96 * 96) is subtracted from the cosine; the queries then have length one.
    """
    # The query's own length is left out: without a penalty it changes no arg-max.
    scores = queries @ large / lengths
    best = (scores if penalty is None else scores - penalty).argmax(dim=2)  # b l
    return torch.stack([best % INPUT, best // INPUT], dim=2).float()


@torch.no_grad()
def matching_errors(
    extract: Extract,
    pairs: Pairs,
    *,
    heads: Mapping[str, Head] | None = None,
    priors: Mapping[str, float] | None = None,
    batch: int = 16,
    device: str | torch.device = "cpu",
    advance: Callable[[int], object] = lambda couples: None,
) -> dict[str, MatchingErrors]:
    """Match all pairs with the features of `extract`, `batch` couples (three views each) at a time.

    The features of each view are computed once and go through all `heads`, such as projectors
    (None: the features as they are, under the name "features"). priors: of `match`, by head; 0
    where none is given. `advance(couples)` is called after each batch. Raises ConfigError if
    `extract` returns no feature maps, CheckpointError if they are not finite.
    """
    heads, priors = heads or {"features": lambda features: features}, priors or {}
    answers: dict[str, list[Tensor]] = {name: [] for name in heads}
    for start in range(0, len(pairs), batch):
        views = pairs.views[start : start + batch].to(device)
        points = (pairs.landmarks[start : start + batch, SOURCE] - CROP).to(device)
        features = extract(views.flatten(0, 1).float() / 255)
        for name, head in heads.items():
            maps = checked(head(features), 3 * len(views)).unflatten(0, (-1, 3))
            prior = priors.get(name, 0.0)
            found = [
                match(maps[:, SOURCE], maps[:, target], points, prior)
                for target in (SAME, DIFFERENT)
            ]
            answers[name].append(torch.stack(found).cpu())
        advance(len(views))
    return {name: _errors(torch.cat(parts, dim=1), pairs) for name, parts in answers.items()}


def no_motion(pairs: Pairs) -> MatchingErrors:
    """The errors of answering with each query's own position: a floor (PROTOCOL 3.4, 8)."""
    points = (pairs.landmarks[:, SOURCE] - CROP).round().clamp(0, INPUT - 1)
    return _errors(torch.stack([points, points]), pairs)


def pixels(frames: Tensor) -> Tensor:
    """Raw pixels as features: the crop's RGB less mid-grey, (b, 3, 136, 136) to (b, 3, 96, 96)."""
    return frames[..., CROP:-CROP, CROP:-CROP] - 0.5


def patches(frames: Tensor) -> Tensor:
    """Raw 9x9 squares around each pixel, each less its mean, (b, 3, 136, 136) to (b, 243, 96, 96).

    Their cosine is normalised cross-correlation, the classical baseline without learning. Our
    choice.
    """
    margin = CROP - PATCH // 2
    squares = F.unfold(frames[..., margin:-margin, margin:-margin], PATCH)
    return (squares - squares.mean(dim=1, keepdim=True)).unflatten(2, (INPUT, INPUT))


def _errors(predicted: Tensor, pairs: Pairs) -> MatchingErrors:
    """predicted (2, c, l, 2): same, then different, in pixels of the 96 crop."""
    truth = (pairs.landmarks[:, (SAME, DIFFERENT)] - CROP).transpose(0, 1)
    errors = ((predicted - truth).double().norm(dim=3) * (UNIT / INPUT)).numpy()
    return MatchingErrors(
        pairs.hash, errors[0], errors[1], predicted[0].numpy(), predicted[1].numpy()
    )


def checked(features: Tensor, images: int) -> Tensor:
    """`features`, after a check that they are finite maps (images, d, h, w).

    Raises ConfigError for another shape, CheckpointError where they are not finite.
    """
    if features.dim() != 4 or len(features) != images:
        raise ConfigError(
            f"matching: the extractor returned {tuple(features.shape)}, needed ({images}, d, h, w)"
        )
    if not features.isfinite().all():
        raise CheckpointError(
            "matching: the features are not finite; the checkpoint is of a run that diverged, "
            "take an earlier one"
        )
    return features
