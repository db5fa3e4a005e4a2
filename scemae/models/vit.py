"""The encoder: a Vision Transformer of DeiT's sizes with fixed sin-cos positions (paper 3.1,
PROTOCOL 2.2)."""

from functools import partial
from typing import Any

import torch
from einops import rearrange
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

FIRST_BLOCKS = 3  # "we apply clustering after the third encoder layer" (paper 4)


def sincos_positions(width: int, grid: int) -> Tensor:
    """The fixed 2-D table of positions (PROTOCOL 2.2), (1 + grid * grid, width); CLS's row is zero.

    The first half of the channels encodes x, the second y; each half is [sin(all w), cos(all w)].
    """
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [place.reshape(-1, 1) * omega for place in (x, y)]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).float()


def patchify(images: Tensor, p: int) -> Tensor:
    """Cut (b, c, h, w) into patches (b, n, p*p*c), row by row."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=p)


def unpatchify(patches: Tensor, p: int) -> Tensor:
    """The inverse of `patchify` for square images."""
    return rearrange(
        patches, "b (h w) (p q c) -> b c (h p) (w q)", p=p, q=p, h=int(patches.shape[1] ** 0.5)
    )


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """The tokens (b, n, d) at positions ids (b, k), as (b, k, d)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def initialise(module: nn.Module) -> None:
    """MAE's initialisation (PROTOCOL 2.2): matrices Xavier-uniform, biases 0, LayerNorm 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def blocks(width: int, depth: int, heads: int) -> nn.ModuleList:
    """Pre-LN transformer blocks with qkv bias, MLP ratio 4, LayerNorm eps 1e-6 (PROTOCOL 2.2)."""
    norm = partial(nn.LayerNorm, eps=1e-6)
    return nn.ModuleList(
        # timm calls norm_layer as it would a class
        Block(width, heads, mlp_ratio=4, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]
        for _ in range(depth)
    )


def block_at(block: Any, tokens: Tensor, ids: Tensor) -> Tensor:
    """The output of `block`, a timm Block, at the places ids (b, k) only, (b, k, d).

    tokens (b, n, d): keys and values from all of them, queries from ids only. That saves a fifth of
    the decoder's last block.
    """
    attention, h = block.attn, block.attn.num_heads
    qkv = attention.qkv(block.norm1(tokens))
    q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=h)
    q = q.gather(2, ids[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
    if attention.fused_attn:
        mixed = functional.scaled_dot_product_attention(q, k, v)
    else:
        mixed = (q * attention.scale @ k.transpose(2, 3)).softmax(-1) @ v
    tokens = take(tokens, ids) + attention.proj(rearrange(mixed, "b h k d -> b k (h d)"))
    return tokens + block.mlp(block.norm2(tokens))


class Encoder(nn.Module):
    """Images to tokens. CLS is token 0 and is never masked (paper 3.1)."""

    positions: Tensor

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch_size: int = 8,
        image_size: int = 96,
        *,
        own_positions: bool = False,
    ) -> None:
        """own_positions: the table of positions is saved with the weights, as in public weights
        that learned it; otherwise it is the fixed one."""
        super().__init__()
        self.patch_size, self.grid = patch_size, image_size // patch_size
        self.patch_embed = nn.Linear(3 * patch_size**2, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer(
            "positions", sincos_positions(width, self.grid), persistent=own_positions
        )
        self.blocks = blocks(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.apply(initialise)
        nn.init.normal_(self.cls_token, std=0.02)

    @property
    def image_size(self) -> int:
        """The side of its images in pixels."""
        return self.grid * self.patch_size

    @property
    def width(self) -> int:
        """Channels of its tokens."""
        return self.norm.normalized_shape[0]

    def count_parameters(self) -> int:
        """Parameters with the table of positions, as papers count them (PROTOCOL 1.3)."""
        return sum(p.numel() for p in self.parameters()) + self.positions.numel()

    def embed(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Normalised images (b, 3, 96, 96) to CLS and patch tokens with positions, (b, 1 + n, d).

        ids_keep (b, k): only these patches, (b, 1 + k, d).
        """
        patches = patchify(images.to(self.patch_embed.weight.dtype), self.patch_size)
        table = self.positions.to(patches.dtype)  # DeepSpeed's bf16 casts parameters, not buffers
        positions = table[1:].expand(images.shape[0], -1, -1)  # len() would fix the batch on export
        if ids_keep is not None:  # before the projection: a hidden patch costs nothing
            patches, positions = take(patches, ids_keep), take(positions, ids_keep)
        tokens = self.patch_embed(patches) + positions
        cls = (self.cls_token + table[:1]).expand(tokens.shape[0], -1, -1)
        return torch.cat([cls, tokens], dim=1)

    def run(self, tokens: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Pass tokens (b, 1 + k, d) through blocks start..stop-1, and after the last block through
        the final LayerNorm."""
        for block in self.blocks[start:stop]:
            tokens = block(tokens)
        return self.norm(tokens) if stop is None or stop >= len(self.blocks) else tokens

    def forward(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Normalised images (b, 3, 96, 96) to tokens (b, 1 + n, d).

        ids_keep (b, k): only these patches, (b, 1 + k, d).
        """
        return self.run(self.embed(images, ids_keep))
