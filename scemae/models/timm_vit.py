"""Any ViT of timm (DINOv2, DINOv3, DeiT III, ...) as a frozen backbone, as a reference in tables.

It is never trained, and nothing is downloaded: weights come from a file, or are random if none is
given.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from scemae.errors import CheckpointError, ConfigError
from scemae.files.public_weights import AVERAGED, WRAPPERS, read_weights

GRID = 12  # tokens per side, as SCE-MAE's: a patch covers 8 of the crop's 96 px


class TimmVit(nn.Module):
    """Crops (b, 3, 96, 96) in [0, 1] to the last block's patch tokens as a map (b, d, 12, 12).

    The crop is resized so that 12 patches fit along a side (96 px become 192 for patch 16): the
    same grid, and the same cover-and-stride, as the paper's ViT. A choice of ours.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: Path | None, seed: int = 0) -> None:
        """Raises ConfigError if timm has no such ViT, CheckpointError if the file does not fit."""
        super().__init__()
        torch.manual_seed(seed)
        self.patch_size = patch_size_of(name)
        vit: Any = timm.create_model(
            name, pretrained=False, num_classes=0, img_size=GRID * self.patch_size
        )
        self.vit: Any = vit
        if weights is not None:
            _load(vit, name, weights)
        self.register_buffer(
            "mean", torch.tensor(vit.pretrained_cfg["mean"]).view(3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(vit.pretrained_cfg["std"]).view(3, 1, 1), persistent=False
        )
        self.eval().requires_grad_(False)

    @property
    def width(self) -> int:
        """Channels of the map."""
        return self.vit.num_features

    def forward(self, crops: Tensor) -> Tensor:
        side = GRID * self.patch_size
        large = functional.interpolate(crops, (side, side), mode="bicubic", align_corners=False)
        images = (large.clamp(0, 1) - self.mean) / self.std
        tokens = self.vit.forward_features(images.to(next(self.vit.parameters()).dtype))
        patches = tokens[:, self.vit.num_prefix_tokens :]
        return rearrange(patches, "b (h w) d -> b d h w", h=GRID).float()


def patch_size_of(name: str) -> int:
    """The patch size of a ViT of timm. Raises ConfigError where it has none."""
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, pretrained=False)
        patch, _ = model.patch_embed.patch_size, model.num_prefix_tokens
    except (RuntimeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"timm: found no ViT {name!r} in timm {timm.__version__} "
            f"({str(error).splitlines()[0]}); give the name of one, such as "
            "vit_small_patch16_dinov3"
        ) from error
    return int(patch[0] if isinstance(patch, tuple) else patch)


def _load(model: nn.Module, name: str, weights: Path) -> None:
    try:
        model.load_state_dict(read_weights(weights, wrappers=(*AVERAGED, *WRAPPERS)), strict=True)
    except RuntimeError as error:  # other keys, other shapes
        raise CheckpointError(
            f"{weights}: does not hold the weights of {name} "
            f"({' '.join(str(error).split())[:200]}); give a checkpoint of this model, without a "
            "classifier"
        ) from error
