"""How much of a feature is its place, and how well the rest matches (ours; PROTOCOL 7).

Faces of a benchmark are aligned, so that a feature can find another person's eye by knowing where
it lies itself. Features f are split at each place p of the map into

    f(p) = m(p) + c(p)

the mean m over training faces, which is all that the place alone tells, and the rest c, the
content of this face. The position share is the part of the features' variance that m explains.
Matching by c alone gives the content-only error, matching by m alone the position-only error.
"""

import torch
from torch import Tensor

PARTS = ("content", "position")


class PlaceMeans:
    """Sums over training faces, from which the mean feature of each place follows."""

    def __init__(self) -> None:
        self.images = 0
        self._sum: Tensor | None = None  # (d, h, w) float64
        # over faces, places and dimensions; a tensor, so that `add` does not wait for the device
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Count the features (b, d, h, w) of b faces."""
        part = features.sum(0, dtype=torch.float64)
        self._sum = part if self._sum is None else self._sum + part
        length = torch.linalg.vector_norm(features, dtype=torch.float64)
        self._squares = self._squares.to(length.device) + length.square()
        self.images += len(features)

    @property
    def means(self) -> Tensor:
        """m, the mean feature of each place, (d, h, w) float64; at least one face was added."""
        assert self._sum is not None
        return self._sum / self.images

    @property
    def share(self) -> float:
        """The position share: how much of the variance of all features around their one mean lies
        between the means of places, 0 to 1; 0 where all features are equal.
        """
        means, whole = self.means, self.means.mean(dim=(1, 2), keepdim=True)
        places = means.shape[1] * means.shape[2]
        variance = float(self._squares) / self.images - places * float(whole.square().sum())
        return float((means - whole).square().sum()) / variance if variance > 0 else 0.0


def split_features(features: Tensor, means: Tensor, part: str) -> Tensor:
    """The "content" c or the "position" m of features (b, d, h, w), given the means (d, h, w)."""
    means = means.to(features.device, torch.float32)
    return features.float() - means if part == "content" else means.expand_as(features)
