"""Features that the landmark tests compare: a frozen trunk's maps of 136-px frames, and heads on
them.

At inference nothing is clustered or substituted: the original features, expanded by
cover-and-stride, go through the projector (paper 3.3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from scemae.data.augment import centre_crop, normalise
from scemae.data.geometry import INPUT
from scemae.evaluation.landmarks.matching import Extract
from scemae.models import hypercolumn
from scemae.models.cover_and_stride import expand
from scemae.models.timm_vit import TimmVit
from scemae.models.vit import Encoder

# Maps and side to features (b, d, side, side): one row of a table.
Head = Callable[[list[Tensor], int], Tensor]

DEIT = {192: "DeiT-T", 384: "DeiT-S", 768: "DeiT-B"}  # by width, 12 deep


@dataclass
class Trunk:
    """A frozen network, before any projector."""

    model: str  # "DeiT-S", "ResNet-50", "hourglass"
    parameters: int  # of the trunk alone, as the paper counts (PROTOCOL 1.3)
    width: int  # channels of its joined features
    network: nn.Module
    # frames (b, 3, 136, 136) in [0, 1] and stride in px -> [(b, d_i, h_i, w_i), ...]; with a graph
    # where weights or frames want gradients, which `maps` leaves out
    encode: Callable[[Tensor, int], list[Tensor]]
    join: Callable[[list[Tensor], int], Tensor]  # maps, side -> (b, width, side, side), raw
    # a hypercolumn: its maps are resized to any side, and to the image's side for matching
    is_resized: bool = False

    @torch.no_grad()
    def maps(self, frames: Tensor, stride: int) -> list[Tensor]:
        """The network's maps of frames, without a graph."""
        return self.encode(frames, stride)

    def side(self, stride: int, *, matching: bool = False) -> int:
        """Side of the features at `stride`; hypercolumns match at the image's side (PROTOCOL 4.2,
        4.5).
        """
        return INPUT if matching and self.is_resized else INPUT // stride


def patch_tokens(encoder: Encoder, frames: Tensor, stride: int) -> Tensor:
    """Stage-1 features: patch tokens after the last block, one vector every `stride` pixels.

    frames (b, 3, 136, 136) in [0, 1]; (b, d, 96/stride, 96/stride). The encoder computes in its own
    precision; the result is fp32.
    """

    def encode(crops: Tensor) -> Tensor:
        return rearrange(encoder(crops)[:, 1:], "b (h w) d -> b d h w", h=encoder.grid)

    return expand(encode, normalise(frames), stride, encoder.grid * encoder.patch_size).float()


def backbone(encoder: Encoder, stride: int) -> Extract:
    """`patch_tokens` of an encoder at a stride, without a graph."""
    return torch.no_grad()(partial(patch_tokens, encoder, stride=stride))


def vit_trunk(encoder: Encoder) -> Trunk:
    """One of our ViTs: cover-and-stride gives one map."""
    model = DEIT.get(encoder.width, "") if len(encoder.blocks) == 12 else ""
    return Trunk(
        model or f"ViT {len(encoder.blocks)} x {encoder.width}",
        encoder.count_parameters(),
        encoder.width,
        encoder,
        lambda frames, stride: [patch_tokens(encoder, frames, stride)],
        lambda maps, side: maps[0],
    )


def resnet_trunk(network: hypercolumn.ResNetTrunk) -> Trunk:
    """A ResNet's hypercolumn (PROTOCOL 4.2): its four stages, deepest first; the stride has no
    effect.
    """

    def encode(frames: Tensor, stride: int) -> list[Tensor]:
        return [stage.float() for stage in network(centre_crop(normalise(frames), INPUT))]

    title = network.name.replace("resnet", "ResNet-")
    return Trunk(
        title, network.count_parameters(), network.width, network, encode, hypercolumn.join, True
    )


def descriptor_trunk(network: nn.Module) -> Trunk:
    """A network with one map of the 96-px crop, `out` channels, at its own stride (DVE's hourglass:
    2).
    """

    def encode(frames: Tensor, stride: int) -> list[Tensor]:
        crops = centre_crop(normalise(frames), INPUT)
        return [network(crops.to(next(network.parameters()).dtype)).float()]

    return Trunk(
        type(network).__name__.lower(),
        sum(p.numel() for p in network.parameters()),
        cast(int, network.out),
        network,
        encode,
        hypercolumn.join,
    )


def trunk_of(network: nn.Module) -> Trunk:
    """The trunk of a network that a method has trained."""
    if isinstance(network, Encoder):
        return vit_trunk(network)
    if isinstance(network, hypercolumn.ResNetTrunk):
        return resnet_trunk(network)
    return descriptor_trunk(network)


def timm_trunk(network: TimmVit, name: str) -> Trunk:
    """A ViT of timm, expanded by cover-and-stride."""

    def encode(frames: Tensor, stride: int) -> list[Tensor]:
        return [expand(network, frames, stride, INPUT)]

    return Trunk(
        name,
        sum(p.numel() for p in network.parameters()),
        network.width,
        network,
        encode,
        lambda maps, side: maps[0],
    )
