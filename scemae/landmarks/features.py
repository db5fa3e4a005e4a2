"""The feature extractors that the tests of landmarks compare: frames of 136 px to maps of the central 96 px.

At inference nothing is clustered or substituted: the original features, expanded by cover-and-stride, go through the
projector (paper 3.3).
"""

import torch
from einops import rearrange
from torch import Tensor

from scemae.data.views import normalise
from scemae.landmarks.matching import Extract
from scemae.models.cover_and_stride import expand
from scemae.models.vit import Encoder

def backbone(encoder: Encoder, stride: int) -> Extract:
    """Stage-1 features: the patch tokens after the last block, one vector every `stride` pixels, (b, d, 96/stride, ..).

    Values are those of the encoder's own precision, as fp32.
    """
    def encode(crops: Tensor) -> Tensor:
        return rearrange(encoder(crops)[:, 1:], "b (h w) d -> b d h w", h=encoder.grid)

    @torch.no_grad()
    def extract(frames: Tensor) -> Tensor:
        return expand(encode, normalise(frames), stride, encoder.grid * encoder.patch_size).float()

    return extract
