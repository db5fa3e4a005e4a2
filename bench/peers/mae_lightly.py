"""MAE of the package `lightly`, put together from its building blocks as its documentation does.

docs.lightly.ai, examples/mae: a timm ViT in MaskedVisionTransformerTIMM, MAEDecoderTIMM, the index
functions of lightly.models.utils, the mean squared error of the masked patches, torch's AdamW. It
uses scaled_dot_product_attention, and its head sees masked tokens only.
"""

# isort: off
import scemae.models.torchvision_cpu  # noqa: F401  before timm and lightly, which import torchvision

# isort: on
import warnings
from functools import partial

import torch
from lightly.models import utils
from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from scemae.config.schema.training import DecoderShape, Model


class LightlyMae(nn.Module):
    """Normalised images (b, 3, s, s) to the mean loss of their masked patches, a scalar."""

    def __init__(self, model: Model, decoder: DecoderShape, mask_ratio: float = 0.75) -> None:
        super().__init__()
        self.patch_size, self.mask_ratio = model.patch_size, mask_ratio
        vit = VisionTransformer(
            img_size=model.image_size,
            patch_size=model.patch_size,
            embed_dim=model.width,
            depth=model.depth,
            num_heads=model.heads,
            num_classes=0,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 1.6 names a successor that does the same; both work
            self.decoder = MAEDecoderTIMM(
                num_patches=vit.patch_embed.num_patches,
                patch_size=model.patch_size,
                embed_dim=model.width,
                decoder_embed_dim=decoder.width,
                decoder_depth=decoder.depth,
                decoder_num_heads=decoder.heads,
            )
        self.criterion = nn.MSELoss()

    def forward(self, images: Tensor) -> Tensor:
        size = (len(images), self.backbone.sequence_length)
        idx_keep, idx_mask = utils.random_token_mask(size, self.mask_ratio, device=images.device)
        embedded = self.decoder.embed(self.backbone.encode(images=images, idx_keep=idx_keep))
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        tokens = utils.set_at_index(tokens, idx_keep, embedded.type_as(tokens))
        predicted = self.decoder.predict(utils.get_at_index(self.decoder.decode(tokens), idx_mask))
        patches = utils.patchify(images, self.patch_size)
        return self.criterion(
            predicted, utils.get_at_index(patches, idx_mask - 1)
        )  # patches have no CLS


def optimizer(module: nn.Module, lr: float = 3e-4) -> torch.optim.Optimizer:
    """AdamW over all parameters, as its example."""
    return torch.optim.AdamW(module.parameters(), lr=lr)
