"""Cover-and-stride: a finer feature map from shifted copies of the image (paper 3.3 Inference,
PROTOCOL 5.2).

A patch-8 encoder gives 12x12 tokens of a 96x96 crop. Shifting the crop by a few pixels shifts the
centres of the patches; the tokens of all shifts, interleaved, are a map of one vector every
`stride` pixels. With shifts -3 -1 1 3 (stride 2) the patch centres fall exactly on the cell centres
of a 48x48 grid under align_corners=False.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

# Stride 1 cannot be centred: 8 whole-pixel shifts lie half a pixel off (PROTOCOL 5.2).
SHIFTS = {8: (0,), 4: (-2, 2), 2: (-3, -1, 1, 3), 1: (-4, -3, -2, -1, 0, 1, 2, 3)}


def expand(
    encode: Callable[[Tensor], Tensor], frames: Tensor, stride: int, crop: int = 96
) -> Tensor:
    """Features of the central crop, one every `stride` pixels: (b, d, crop/stride, crop/stride).

    encode: (b, c, crop, crop) to (b, d, g, g). frames (b, c, s, s), larger than the crop: shifted
    crops show the pixels around it (the 136 frame has a margin of 20, at most 4 are needed).
    """
    shifts, margin = SHIFTS[stride], (frames.shape[-1] - crop) // 2
    moved = [
        frames[..., margin + dy : margin + dy + crop, margin + dx : margin + dx + crop]
        for dy in shifts
        for dx in shifts
    ]
    tokens = encode(torch.stack(moved, dim=1).flatten(0, 1))
    return rearrange(tokens, "(b s r) d h w -> b d (h s) (w r)", b=len(frames), s=len(shifts))
