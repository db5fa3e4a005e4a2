"""From the probe's feature maps to its errors: tensors in, numbers out (probe.py says which)."""

import torch
from torch import Tensor

from scemae.data.geometry import INPUT, UNIT
from scemae.evaluation.landmarks import matching
from scemae.evaluation.landmarks.matching import enlarge, look_up, nearest
from scemae.evaluation.landmarks.pairs import DIFFERENT, SAME, SOURCE
from scemae.evaluation.landmarks.position import PlaceMeans, split_features

MEANS_OF = 64  # couples whose views give the place means of probe_content


def match_couples(maps: Tensor, points: Tensor, landmarks: int) -> Tensor:
    """Find the points (c, l + g, 2) of v1(A), pixels of the crop, by maps (c, 3, d, h, w): (c, 2 l
    + g, 2).

    The result holds the `landmarks` in v2(A), then those in v2(B), then the grid in v2(A) by way of
    v2(B). The official matcher, but faster: targets are upsampled once for all points, and lengths
    are roots of sums of squares (a fifth of a norm's time). Only rounding differs.
    """
    size = max(1, matching.BUDGET // (8 * maps.shape[2] * INPUT * INPUT))
    found = []
    for some, queried in zip(maps.split(size), points.split(size), strict=True):
        queries = look_up(some[:, SOURCE], queried)
        on_other = _nearest(queries, some[:, DIFFERENT])
        back = look_up(some[:, DIFFERENT], on_other[:, landmarks:])
        on_same = _nearest(torch.cat([queries[:, :landmarks], back], dim=1), some[:, SAME])
        parts = [on_same[:, :landmarks], on_other[:, :landmarks], on_same[:, landmarks:]]
        found.append(torch.cat(parts, dim=1))
    return torch.cat(found)


class ContentMatches:
    """Landmarks found by content alone, once the place means of the first couples are known."""

    def __init__(self) -> None:
        self._sums = PlaceMeans()
        # maps and points of couples that are not matched yet
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._found: list[Tensor] = []

    def add(self, maps: Tensor, points: Tensor) -> None:
        """The maps (b, 3, d, h, w) of couples and the points (b, l, 2) to find, in v1(A)."""
        self._waiting.append((maps[:, [SOURCE, DIFFERENT]], points))
        if self._sums.images < 3 * MEANS_OF:
            self._sums.add(maps.flatten(0, 1))
        if self._sums.images >= 3 * MEANS_OF:
            self._match()

    def found(self) -> Tensor:
        """The answers (c, l, 2) in v2(B), pixels of the crop, on the CPU."""
        self._match()
        return torch.cat(self._found)

    def _match(self) -> None:
        means = self._sums.means
        for maps, points in self._waiting:
            source, target = split_features(maps, means, "content").unbind(1)
            self._found.append(_nearest(look_up(source, points), target).cpu())
        self._waiting = []


def score(found: Tensor, by_content: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean errors in 70-px units of what `match_couples` found, (c, 2 l + g, 2), and by content,
    (c, l, 2); truth (c, 3, l + g, 2) in pixels of the crop.

    A grid point counts only where it lies inside the crops of v1(A) and v2(A).
    """
    landmarks = by_content.shape[1]
    parts = [landmarks, landmarks, found.shape[1] - 2 * landmarks]
    same, different, cycle = found.split(parts, dim=1)
    grid = truth[:, :, landmarks:]
    ends = grid[:, [SOURCE, SAME]]
    is_shown = ((ends >= 0) & (ends <= INPUT - 1)).all(dim=3).all(dim=1)
    errors = {
        "same": same - truth[:, SAME, :landmarks],
        "different": different - truth[:, DIFFERENT, :landmarks],
        "content": by_content - truth[:, DIFFERENT, :landmarks],
        "cycle": (cycle - grid[:, SAME])[is_shown],
    }
    return {
        f"probe_{name}": float(error.double().norm(dim=-1).mean() * UNIT / INPUT)
        for name, error in errors.items()
    }


def _nearest(queries: Tensor, target: Tensor) -> Tensor:
    large = enlarge(target)
    return nearest(queries, large, large.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12))
