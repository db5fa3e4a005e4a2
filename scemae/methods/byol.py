"""BYOL (Grill et al. 2020), stage 1 of LEAD (Karmali et al. 2022; PROTOCOL 4.6).

From one view of an image the trained encoder predicts the output of a target encoder, its moving
average, for the other view:

    loss = 2 - (cos(q(z1), z2') + cos(q(z2), z1'))

z is the trained encoder's output, z' the target encoder's, q the predictor. After each optimizer
step the target becomes m * itself + (1 - m) * the trained encoder.

Of LEAD's stage 1 only "BYOL on ResNet-50" is known: the numbers here are BYOL's, the views CL's.
Heads are lightly's. Its loss is a mean over the batch, so ours is torch's cosine of each image.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn
from torch.nn import functional as F

from scemae.data.pipeline import Batch, view_pairs
from scemae.models.hypercolumn import ResNetTrunk

STAGE, TITLE, ROLE = 1, "LEAD", "rival"


@dataclass
class Settings:
    """BYOL's numbers."""

    trunk: str = "resnet50"  # LEAD's, PROTOCOL 4.6 [F]
    hidden: int = 4096  # of projector and predictor, BYOL's; LEAD's [U]
    dim: int = 256  # BYOL's; LEAD's [U]
    # BYOL's at the start, kept constant: there it rises to 1 over the schedule, whose length a
    # module does not know [U]
    momentum: float = 0.996


def build(settings: Settings, *, seed: int) -> "BYOL":
    """A freshly initialised BYOL, the same for the same seed.

    Raises ConfigError for a trunk that timm does not have.
    """
    torch.manual_seed(seed)
    return BYOL(settings)


def views(
    settings: Settings, *, size: int, scale: tuple[float, float]
) -> Callable[[Batch], tuple[Tensor, ...]]:
    """Two views (b, 3, size, size), augmented as CL's (LEAD's are unknown [U]); weights (b,)."""
    return partial(view_pairs, size=size, scale=scale)


class BYOL(nn.Module):
    """The trained encoder (`trunk` and `head`), the `predictor` on it, and the target encoder.

    In both encoders BatchNorm's statistics are those of one view of a micro-batch.
    """

    worth_compiling = False  # four passes of a ResNet-50 in one graph take minutes to compile

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.momentum = settings.momentum
        self.trunk = ResNetTrunk(settings.trunk)
        self.head = BYOLProjectionHead(self.trunk.widths[0], settings.hidden, settings.dim)
        self.predictor = BYOLPredictionHead(settings.dim, settings.hidden, settings.dim)
        self.trunk_target, self.head_target = (
            copy.deepcopy(part).requires_grad_(False) for part in (self.trunk, self.head)
        )

    def forward(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        """The sum over images of weight * loss, a scalar, of two views (b, 3, s, s)."""
        predicted = [self._predict(images) for images in (first, second)]
        with torch.no_grad():
            targets = [self._target(images) for images in (second, first)]
        pairs = zip(predicted, targets, strict=True)
        per_image = 2 - sum(F.cosine_similarity(*pair) for pair in pairs)
        return (per_image * weights).sum()

    def _predict(self, images: Tensor) -> Tensor:
        return self.predictor(self.head(self.trunk.pooled(images))).float()

    def _target(self, images: Tensor) -> Tensor:
        return self.head_target(self.trunk_target.pooled(images)).float()

    def after_step(self) -> None:
        """Move the target encoder."""
        update_momentum(self.trunk, self.trunk_target, self.momentum)
        update_momentum(self.head, self.head_target, self.momentum)
