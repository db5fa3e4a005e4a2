"""A ResNet's four stages as a hypercolumn, and a projector on it (CL, PROTOCOL 4.2)."""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scemae.errors import ConfigError
from scemae.models.projector import Projector

KINDS = ("spatial_softmax", "linear")  # projectors that begin with a 1x1 convolution


class ResNetTrunk(nn.Module):
    """A ResNet without its classifier, to the maps of its four stages, deepest first.

    Images (b, 3, s, s) are normalised. For resnet50 and s = 96: (b, 2048, 3, 3), (b, 1024, 6, 6),
    (b, 512, 12, 12), (b, 256, 24, 24) (PROTOCOL 4.2 [F]).
    """

    def __init__(self, name: str = "resnet50") -> None:
        """name: a ResNet of timm, freshly initialised. Raises ConfigError if timm has none such."""
        super().__init__()
        if not name.startswith("resnet") or name not in timm.list_models("resnet*"):
            raise ConfigError(
                f"trunk: found {name!r}, which is no ResNet of timm {timm.__version__}; give one, "
                "such as resnet50"
            )
        self.name = name
        # Residual branches start at full strength, as in torchvision's ResNet, which CL trains [D].
        self.stages: Any = timm.create_model(
            name, features_only=True, out_indices=(1, 2, 3, 4), zero_init_last=False
        )

    @property
    def widths(self) -> list[int]:
        """Channels of the four maps, deepest first."""
        return self.stages.feature_info.channels()[::-1]

    @property
    def width(self) -> int:
        """Channels of the hypercolumn: 3840 for resnet50."""
        return sum(self.widths)

    def count_parameters(self) -> int:
        """Parameters of the trunk alone, 23.508 M for resnet50 (PROTOCOL 1.3)."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.stages(images.to(next(self.parameters()).dtype))[::-1]

    def pooled(self, images: Tensor) -> Tensor:
        """The global average of the deepest map, (b, widths[0]): what stage 1 learns from."""
        return self(images)[0].mean((2, 3))


def widths_of(trunk: nn.Module) -> list[int]:
    """Channels of a trunk's four maps. Raises ConfigError where it is no `ResNetTrunk`."""
    widths = getattr(trunk, "widths", None)
    if widths is None:
        raise ConfigError(
            f"found a backbone with a {type(trunk).__name__}, and this method reads a hypercolumn; "
            "give a backbone of method=moco or byol"
        )
    return widths


def join(maps: list[Tensor], side: int) -> Tensor:
    """The hypercolumn (b, sum d_i, side, side): maps (b, d_i, h_i, w_i), each resized bilinearly
    (align_corners False) to (side, side), joined, not normalised (PROTOCOL 4.2 [F])."""
    return torch.cat([resize(one, side) for one in maps], 1)


def join_normalised(maps: list[Tensor], side: int) -> Tensor:
    """The hypercolumn of maps that are scaled to unit length at each place after resizing: CL's
    rule for matching (PROTOCOL 4.5 [F])."""
    return torch.cat([F.normalize(resize(one.float(), side), dim=1) for one in maps], 1)


def resize(feature_map: Tensor, side: int) -> Tensor:
    """A map (b, d, h, w) to (b, d, side, side), bilinear, align_corners False."""
    if feature_map.shape[2:] == (side, side):
        return feature_map
    return F.interpolate(feature_map, (side, side), mode="bilinear", align_corners=False)


class HypercolumnProjector(nn.Module):
    """`Projector` on the hypercolumn of some maps, computed without that hypercolumn.

    A 1x1 convolution and bilinear resizing commute. So each map is projected at its own resolution,
    by its own columns of the weights, and only `out` channels are resized: for resnet50 at 96 x 96
    that takes 1.2 MB per image instead of 142 MB.
    """

    def __init__(self, widths: list[int], out: int, kind: str = "spatial_softmax") -> None:
        """widths: channels of the maps, in their order. Raises ConfigError for a projector that
        does not begin with a 1x1 convolution."""
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(
                f"projector: found {kind!r}, a hypercolumn's is one of {', '.join(KINDS)}"
            )
        self.widths, self.out = list(widths), out
        self.joined = Projector(kind, sum(widths), out)

    def forward(self, maps: list[Tensor], side: int) -> Tensor:
        """Maps (b, widths[i], h_i, w_i) to L2-normalised features (b, out, side, side), float32."""
        convolution: Any = self.joined.map
        weight, bias = convolution.weight, convolution.bias
        parts = [
            resize(F.conv2d(one.to(weight.dtype), columns), side).float()
            for one, columns in zip(maps, weight.split(self.widths, 1), strict=True)
        ]
        projected = sum(parts[1:], parts[0]) + bias.float().view(-1, 1, 1)
        if self.joined.kind == "spatial_softmax":
            projected = (
                (self.joined.multiplier * projected).flatten(2).softmax(-1).view_as(projected)
            )
        return F.normalize(projected, dim=1)
