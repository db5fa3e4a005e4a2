"""Stage 2 of CL (ContrastLandmark, Cheng et al. 2021; PROTOCOL 4.2, 4.3): hypercolumn, projector.

A frozen ResNet-50 whose four stages are resized to 24 x 24 and joined to 3,840 channels; a 1x1
convolution with a spatial softmax; the loss over all 576 places. Weights are random: neither speed
nor memory depends on them.
"""

# isort: off
import scemae.models.torchvision_cpu  # noqa: F401  before timm and lightly, which import torchvision

# isort: on
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scemae.models.projector import Projector

PLACES, CHANNELS = 24, 256 + 512 + 1024 + 2048


class ContrastLandmark(nn.Module):
    """Normalised images (b, 3, 96, 96) to the mean loss, a scalar; trains the projector alone."""

    def __init__(self, dim: int = 128, temperature: float = 7.0) -> None:
        super().__init__()
        self.trunk = (
            timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3, 4))
            .eval()
            .requires_grad_(False)
        )
        self.projector, self.temperature = Projector("spatial_softmax", CHANNELS, dim), temperature
        places = torch.stack(
            torch.meshgrid(torch.arange(PLACES), torch.arange(PLACES), indexing="ij"), -1
        ).reshape(-1, 2)
        distance = torch.cdist(places.float(), places.float()) * (96 / PLACES)
        self.register_buffer("weights", distance.sqrt(), persistent=False)

    def train(self, mode: bool = True) -> "ContrastLandmark":
        super().train(mode)
        self.trunk.eval()  # BatchNorm as it was pretrained
        return self

    @torch.no_grad()
    def hypercolumn(self, images: Tensor) -> Tensor:
        """(b, 3840, 24, 24), deepest first."""
        stages = reversed(self.trunk(images))
        return torch.cat(
            [F.interpolate(stage, (PLACES, PLACES), mode="bilinear") for stage in stages], 1
        )

    def forward(self, images: Tensor) -> Tensor:
        features = (
            self.projector(self.hypercolumn(images)).flatten(2).transpose(1, 2)
        )  # b 576 d, unit length
        p = (self.temperature * features @ features.transpose(1, 2)).softmax(-1)
        return (self.weights * p).sum(-1).mean()
