"""Linear discriminant analysis of patch tokens without labels (ours, PROTOCOL 7; not the paper's).

A token says more than which point of the face it shows: also where the patch lies, how large the
face is, and whose face it is. These nuisances are what keeps a point of one face from finding the
same point of another. Two scatters show them without a label:

    crops    how the token of one point of one image differs between two crops of it
    faces    how the tokens at one place of aligned faces differ from face to face

LDA takes their sum as the scatter within a class (the class is the point), and keeps the directions
in which tokens vary most in proportion to it. It has a closed form.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Of the within-class scatter, times the identity, in units of its mean eigenvalue: 0.01 to 0.1 made
# no difference (docs/results/position.md).
SHRINKAGE = 0.03


class Scatter:
    """Sums over training faces from which the two scatters follow; kept in float64 on the CPU."""

    def __init__(self, width: int) -> None:
        """width: d, of a token."""
        self._faces = self._places = self._pairs = 0
        self._sum: Tensor | None = None  # (n, d), of each place
        self._squares = torch.zeros(width, width, dtype=torch.float64)
        self._differences = torch.zeros(width, width, dtype=torch.float64)

    def add_faces(self, maps: Tensor) -> None:
        """Count the tokens (b, d, g, g) of b aligned faces."""
        tokens = maps.flatten(2).transpose(1, 2).float()  # b n d
        part = tokens.sum(0).double().cpu()
        self._sum = part if self._sum is None else self._sum + part
        self._faces, self._places = self._faces + len(tokens), tokens.shape[1]
        self._squares += _product(tokens.flatten(0, 1))

    def add_pairs(self, first: Tensor, second: Tensor) -> None:
        """Count m points, each seen in two crops: tokens (m, d) and (m, d)."""
        self._pairs += len(first)
        self._differences += _product(first.float() - second.float())

    @property
    def mean(self) -> Tensor:
        """The mean token of aligned faces, (d,)."""
        assert self._sum is not None  # faces were counted
        return self._sum.sum(0) / (self._faces * self._places)

    @property
    def total(self) -> Tensor:
        """The covariance of the tokens of aligned faces, (d, d)."""
        return self._squares / (self._faces * self._places) - torch.outer(self.mean, self.mean)

    @property
    def within(self) -> Tensor:
        """The scatter within a class, (d, d): that of faces and that of crops, each of trace 1."""
        assert self._sum is not None  # faces were counted
        means = self._sum / self._faces  # of each place
        faces = self._squares / (self._faces * self._places) - means.T @ means / self._places
        crops = self._differences / max(2 * self._pairs, 1)
        return faces / faces.trace() + crops / crops.trace()


def _product(rows: Tensor) -> Tensor:
    """X^T X (d, d) of X (m, d): multiplied in float32 on its device, then float64 on the CPU."""
    return (rows.T @ rows).double().cpu()


def discriminants(within: Tensor, total: Tensor, dim: int) -> Tensor:
    """The `dim` directions (dim, d) in which the total scatter is largest in proportion to that
    within a class, strongest first.

    within, total (d, d) float64; `within` is shrunk by SHRINKAGE. In these directions it is a
    multiple of the identity: the one that makes the rows as long on average as those of a fresh
    linear layer, sqrt(1/3). Cosines do not depend on it, and steps of the optimizer do.
    """
    d = len(within)
    shrunk = within + SHRINKAGE * within.trace() / d * torch.eye(d, dtype=within.dtype)
    values, vectors = torch.linalg.eigh(shrunk)
    whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    strongest = torch.linalg.eigh(whiten @ total @ whiten).eigenvectors.flip(1)[:, :dim]
    weight = strongest.T @ whiten
    return weight * (dim / 3) ** 0.5 / weight.norm()


def shared_points(
    first: Tensor, second: Tensor, first_boxes: Tensor, second_boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """The points that two crops of an image share, as the tokens of both.

    first, second (b, d, g, g) are the maps of crops with boxes (b, 4), top, left, height and width
    in pixels of the image. Each token of the first whose centre the second shows, half a patch away
    from the edge at least, is paired with the second's map at that place, bilinearly. Returns
    (m, d) and (m, d).
    """
    g = first.shape[-1]
    centres = (torch.arange(g, device=first.device) + 0.5) / g
    lines = []
    for axis in range(2):  # y, then x
        start, length = first_boxes[:, axis, None], first_boxes[:, 2 + axis, None]
        pixels = start + centres * length  # b g
        shown = (pixels - second_boxes[:, axis, None]) / second_boxes[:, 2 + axis, None]
        lines.append(2 * shown - 1)
    y, x = lines[0].unsqueeze(2).expand(-1, g, g), lines[1].unsqueeze(1).expand(-1, g, g)
    places = torch.stack([x, y], dim=3)
    # 1e-4: rounding must not exclude a centre that lies exactly on the limit
    is_shown = (places.abs() <= 1 - 1 / g + 1e-4).all(3)
    there = F.grid_sample(second.float(), places, padding_mode="border", align_corners=False)
    return first.float().permute(0, 2, 3, 1)[is_shown], there.permute(0, 2, 3, 1)[is_shown]
