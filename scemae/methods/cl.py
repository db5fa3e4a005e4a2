"""Stage 2 of CL (ContrastLandmark, Cheng et al. 2021; PROTOCOL 4.3): a projector on the frozen
hypercolumn of MoCo.

Within one image, features at distant places are penalised for being alike; there is no second view:

    loss = mean_u sum_v ||u - v||^0.5 softmax_v(t cos(f_u, f_v))

over the 24 x 24 places, distances in pixels of the 96-px input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scemae.models.hypercolumn import HypercolumnProjector, widths_of

STAGE, TITLE, ROLE = 2, "CL", "rival"
STORED = False  # a hypercolumn is too large to keep (PROTOCOL 5.3)


@dataclass
class Settings:
    """CL's numbers, all from PROTOCOL 4.3 [F]."""

    dim: int = 128
    projector: str = "spatial_softmax"  # CL's FeatDistiller; or linear, a 1x1 convolution alone
    temperature: float = 7.0  # t, a factor; 8 for 64 channels
    power: float = 0.5  # of the distance
    side: int = 24  # places per side
    pixels: float = 4.0  # from one place to the next


def build(settings: Settings, trunk: nn.Module, *, seed: int) -> "CL":
    """A freshly initialised projector under its loss, the same for the same seed; of the trunk only
    `widths` are read.

    Raises ConfigError for a trunk without a hypercolumn, and for a projector that cannot read one.
    """
    torch.manual_seed(seed)
    return CL(widths_of(trunk), settings)


def check(settings: Settings, trunk: nn.Module) -> None:
    """Raise ConfigError for a trunk without a hypercolumn."""
    widths_of(trunk)


def embed(settings: Settings, trunk: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """The four maps (b, d_i, h_i, w_i) of normalised images (b, 3, 96, 96)."""
    return tuple(trunk(images))


class CL(nn.Module):
    """The projector under CL's loss."""

    penalty: Tensor

    def __init__(self, widths: list[int], settings: Settings) -> None:
        super().__init__()
        self.projector = HypercolumnProjector(widths, settings.dim, settings.projector)
        self.side, self.temperature = settings.side, settings.temperature
        self.register_buffer(
            "penalty", proximity(settings.side, settings.pixels, settings.power), persistent=False
        )

    def head(self, maps: list[Tensor], side: int) -> Tensor:
        """Projected features of the trunk's maps, (b, dim, side, side)."""
        return self.projector(maps, side)

    def forward(self, *maps_and_weights: Tensor) -> Tensor:
        """The sum over images of weight * loss, a scalar.

        Takes the trunk's maps, (b, d_i, h_i, w_i) each, and last the weights (b,).
        """
        *maps, weights = maps_and_weights
        features = self.projector(maps, self.side).flatten(2).transpose(1, 2)  # b n d, unit length
        p = (self.temperature * features @ features.transpose(1, 2)).softmax(-1)
        return ((self.penalty.float() * p).sum(-1).mean(1) * weights).sum()


def proximity(side: int, pixels: float, power: float) -> Tensor:
    """The penalty of each pair of places: their distance in pixels to the `power`, (n, n) for
    n = side * side."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float() * pixels
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist") ** power
