"""The light projector Phi of stage 2. The paper does not print its architecture: each here is a
choice (PROTOCOL 1.6 [U])."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scemae.errors import ConfigError

PROJECTORS = ("linear", "spatial_softmax", "conv3", "mlp")


class Projector(nn.Module):
    """A feature map (b, d, h, w) to an L2-normalised one (b, out, h, w), at any h and w.

    linear: a 1x1 convolution. spatial_softmax: the same, then for each channel a softmax over all
    places of 7 times the response (CL's FeatDistiller, PROTOCOL 4.3; 6.5 for 64 channels). conv3: a
    3x3 convolution. mlp: two 1x1 convolutions with GELU between.
    """

    def __init__(self, kind: str, width: int, out: int) -> None:
        """Raises ConfigError for a kind that is none of PROJECTORS."""
        super().__init__()
        if kind not in PROJECTORS:
            known = ", ".join(PROJECTORS)
            raise ConfigError(f"projector: found {kind[:40]!r}, one of {known} was needed")
        self.kind, self.out = kind, out
        self.multiplier = 6.5 if out == 64 else 7.0
        self.map: nn.Module
        if kind == "mlp":
            self.map = nn.Sequential(
                nn.Conv2d(width, width, 1), nn.GELU(), nn.Conv2d(width, out, 1)
            )
        else:
            size = 3 if kind == "conv3" else 1
            self.map = nn.Conv2d(width, out, size, padding=size // 2)

    @property
    def is_pointwise(self) -> bool:
        """Whether each place is mapped without its neighbours; then any set of tokens may be given
        as a map."""
        return self.kind in ("linear", "mlp")

    def set_linear(self, weight: Tensor, bias: Tensor) -> None:
        """Set the weights (out, width) and bias (out,) of a linear projector."""
        assert isinstance(self.map, nn.Conv2d) and self.map.bias is not None
        with torch.no_grad():
            self.map.weight.copy_(weight[:, :, None, None])
            self.map.bias.copy_(bias)

    def project(self, feature_map: Tensor) -> Tensor:
        """Phi before its features get length one, (b, out, h, w) float32."""
        projected = self.map(feature_map.to(next(self.parameters()).dtype)).float()
        if self.kind != "spatial_softmax":
            return projected
        return (self.multiplier * projected).flatten(2).softmax(-1).view_as(projected)

    def forward(self, feature_map: Tensor) -> Tensor:
        return F.normalize(self.project(feature_map), dim=1)
