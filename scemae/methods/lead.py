"""Stage 2 of LEAD (Karmali et al. 2022; PROTOCOL 4.6): the hypercolumn of BYOL distilled into a
compact projector.

For a pair of images A and B the teacher is the soft correspondence of each place u of A with the
places v of B by the raw hypercolumn h, the student the same by projected features f:

    P(v | u) = softmax_v(t_h cos(h_u, h_v))
    Q(v | u) = softmax_v(t_f cos(f_u, f_v))
    loss = mean_u sum_v -P log Q

That LEAD aligns distributions of feature similarity is in its abstract [F]; that it does so by
cross entropy over the places of an image pair is from memory [M]; every number here, and the
projector, is a choice of ours [U]. Pairs are neighbours in the micro-batch; a single image is its
own pair. cos(h_u, h_v) is the mean of the cosines of the maps: CL found that matching is worse with
one cosine over all of them (PROTOCOL 4.5).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scemae.models.hypercolumn import HypercolumnProjector, resize, widths_of

STAGE, TITLE, ROLE = 2, "LEAD", "rival"
STORED = False  # a hypercolumn is too large to keep (PROTOCOL 5.3)


@dataclass
class Settings:
    """LEAD's numbers: all [U] except the dimensions, which the paper lists in Table 1."""

    dim: int = 128
    projector: str = "linear"  # a 1x1 convolution, the lightest; or spatial_softmax, CL's
    teacher: float = 20.0  # t_h; hypercolumns, after a ReLU, are all alike: below it P is uniform
    student: float = 20.0  # t_f
    side: int = 24  # places per side, as CL trains


def build(settings: Settings, trunk: nn.Module, *, seed: int) -> "LEAD":
    """A freshly initialised projector under its loss, the same for the same seed; of the trunk only
    `widths` are read.

    Raises ConfigError for a trunk without a hypercolumn, and for a projector that cannot read one.
    """
    torch.manual_seed(seed)
    return LEAD(widths_of(trunk), settings)


def check(settings: Settings, trunk: nn.Module) -> None:
    """Raise ConfigError for a trunk without a hypercolumn."""
    widths_of(trunk)


def embed(settings: Settings, trunk: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """The four maps (b, d_i, h_i, w_i) of normalised images (b, 3, 96, 96)."""
    return tuple(trunk(images))


class LEAD(nn.Module):
    """The projector under LEAD's loss."""

    def __init__(self, widths: list[int], settings: Settings) -> None:
        super().__init__()
        self.projector = HypercolumnProjector(widths, settings.dim, settings.projector)
        self.side, self.teacher, self.student = settings.side, settings.teacher, settings.student

    def head(self, maps: list[Tensor], side: int) -> Tensor:
        """Projected features of the trunk's maps, (b, dim, side, side)."""
        return self.projector(maps, side)

    def forward(self, *maps_and_weights: Tensor) -> Tensor:
        """The sum over images of weight * loss, each image paired with the next, a scalar.

        Takes the trunk's maps, (b, d_i, h_i, w_i) each, and last the weights (b,).
        """
        *maps, weights = maps_and_weights
        with torch.no_grad():
            blocks = [F.normalize(resize(one.float(), self.side), dim=1) for one in maps]
            cosines = torch.as_tensor(sum(map(similarity, blocks)))
            wanted = (self.teacher / len(blocks) * cosines).softmax(-1)
        found = (self.student * similarity(self.projector(maps, self.side))).log_softmax(-1)
        return (-(wanted * found).sum(-1).mean(1) * weights).sum()


def similarity(features: Tensor) -> Tensor:
    """Cosines of each image's places with those of the next image, (b, n, n) with n = s * s.

    features (b, d, s, s) have unit length.
    """
    places = features.flatten(2)
    return places.transpose(1, 2) @ places.roll(-1, 0)
