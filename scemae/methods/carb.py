"""The paper's stage 2 (paper 3.2 and 3.3): CARB and the LCR loss, the network of models/carb.py.

The frozen encoder's part depends on neither projector nor loss, and it is small: the token store
(training/token_store.py) computes it once and keeps it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from scemae.config.dotted import recorded
from scemae.config.schema.training import Carb
from scemae.errors import ConfigError
from scemae.models import flops, lda
from scemae.models.carb import CARB, count_attentive, select, third
from scemae.models.projector import Projector
from scemae.models.vit import Encoder

STAGE, TITLE, ROLE = 2, "SCE-MAE", "ours"
SETTINGS_AT_TOP = True
STORED = True


@dataclass
class Settings:
    """The settings of `scemae correspond` that belong to CARB."""

    carb: Carb
    views: int = 1  # of each image; they do not change the network

    @property
    def dim(self) -> int:
        """Dimensions of the projected features."""
        return self.carb.dim


def build(settings: Settings, trunk: nn.Module, *, seed: int) -> CARB:
    """A freshly initialised projector under the LCR loss, the same for the same seed.

    Raises ConfigError where the trunk has no tokens to select.
    """
    encoder, carb = check(settings, trunk), settings.carb
    torch.manual_seed(seed)
    return CARB(
        Projector(carb.projector, encoder.width, carb.dim),
        clusters=carb.clusters,
        tau=carb.tau,
        coefficients=(carb.r_att_att, carb.r_att_inatt, carb.r_inatt_inatt),
        reduction=carb.reduction,
        place_unit=1.0 if carb.place_unit == "grid" else float(encoder.patch_size),
    )


def wants_crops(settings: Settings) -> bool:
    """Whether `start` computes the initial weights from crops of training images."""
    return settings.carb.init == "lda"


@torch.no_grad()
def start(module: CARB, trunk: Encoder, crops: Iterable[tuple[Tensor, ...]]) -> None:
    """Set the projector to the LDA of the trunk's tokens (carb.init=lda; ours).

    crops: batches of `data.pipeline.crop_pairs`. Raises ConfigError where tokens are not finite, or
    no two crops of an image share a point.
    """
    scatter = lda.Scatter(trunk.width)

    def tokens(images: Tensor) -> Tensor:
        return rearrange(trunk(images)[:, 1:], "b (h w) d -> b d h w", h=trunk.grid)

    for centre, first, second, first_boxes, second_boxes in crops:
        scatter.add_faces(tokens(centre))
        pairs = lda.shared_points(tokens(first), tokens(second), first_boxes, second_boxes)
        scatter.add_pairs(*pairs)
    if not scatter.within.isfinite().all():
        raise ConfigError(
            "carb.init=lda: found training images whose crops share no point, or tokens that are "
            "not finite; give more images, or a backbone that has not diverged"
        )
    projector = module.projector
    weight = lda.discriminants(scatter.within, scatter.total, projector.out)
    projector.set_linear(weight, -weight @ scatter.mean)


def check(settings: Settings, trunk: nn.Module) -> Encoder:
    """The trunk, if CARB can select among its tokens.

    Raises ConfigError for a trunk that is no ViT of ours, where eta leaves no attentive tokens or
    fewer inattentive ones than clusters, and where carb.init=lda has no linear projector to set.
    """
    if not isinstance(trunk, Encoder):
        raise ConfigError(
            f"method=carb: found a backbone with a {type(trunk).__name__}, and CARB selects the "
            "tokens of a ViT; give a backbone of method=mae, or method=cl or lead"
        )
    carb, n = settings.carb, trunk.grid**2
    attentive = count_attentive(carb.eta, n)
    if attentive < 1 or n - attentive < carb.clusters:
        raise ConfigError(
            f"carb: eta {carb.eta} of {n} tokens leaves {attentive} attentive and {n - attentive} "
            f"inattentive ones; at least 1 and {carb.clusters} (carb.clusters) are needed"
        )
    if carb.init == "lda" and (carb.projector != "linear" or carb.dim > trunk.width):
        raise ConfigError(
            f"carb.init=lda: found carb.projector={carb.projector} with carb.dim={carb.dim}; a "
            f"linear one with at most {trunk.width} dimensions, the backbone's width, was needed"
        )
    return trunk


def embed(settings: Settings, trunk: Encoder, images: Tensor) -> tuple[Tensor, ...]:
    """Tokens (b, k, d) in bf16, as the store keeps them, ids (b, k) and slot (b, n) of normalised
    images (b, 3, 96, 96); see `models.carb.Selection`."""
    carb = settings.carb
    early = third(trunk, images, carb.layer, carb.heads)
    chosen = select(trunk, early, **selection_options(carb))
    return chosen.tokens.bfloat16(), chosen.ids, chosen.slot


def step_flops(settings: Settings, trunk: Encoder) -> int:
    """Floating-point operations of a training step per image: projector and loss, no encoder."""
    return flops.projector_step(settings.carb, trunk.width, trunk.grid**2)


def selection_options(carb: Carb) -> dict[str, Any]:
    """The settings that `models.carb.select` takes; the token store names its files by them."""
    names = ("eta", "clusters", "density", "remaining", "aggregate", "cluster_norm")
    chosen = recorded(carb)
    return {name: chosen[name] for name in names if name in chosen}


def has_repellence(carb: Carb) -> bool:
    """Whether lambda_rep (Eq. 6) tells pairs apart. With three equal coefficients Eq. 7 is a loss
    of distances alone on T, like CL's: Table 4's row with clusters and without LCR (PROTOCOL 1.6
    [U]).
    """
    return not carb.r_att_att == carb.r_att_inatt == carb.r_inatt_inatt
