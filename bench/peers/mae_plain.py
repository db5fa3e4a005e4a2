"""The official MAE recipe: eager, attention written out, every token through every layer.

After He et al. 2022 (github.com/facebookresearch/mae: models_mae.py, engine_pretrain.py): a
convolution embeds all patches and most are then dropped, attention keeps its matrix in memory, and
the decoder predicts every patch, of which the loss drops the visible ones. Only the sizes are ours
(DeiT widths, patch 8, 96 pixels, raw pixels).
"""

import torch
from torch import Tensor, nn

from scemae.config.schema.training import DecoderShape, Model
from scemae.models.vit import sincos_positions


class Attention(nn.Module):
    """Self-attention with q k^T as a matrix in memory, (b, t, d) to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        b, t, d = tokens.shape
        q, k, v = (
            self.qkv(tokens).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        )
        attention = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    """Pre-LN transformer block with MLP ratio 4."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PlainMae(nn.Module):
    """Normalised images (b, 3, s, s) to the mean loss of their masked patches, a scalar."""

    def __init__(self, model: Model, decoder: DecoderShape, mask_ratio: float = 0.75) -> None:
        super().__init__()
        p, self.grid, self.mask_ratio = (
            model.patch_size,
            model.image_size // model.patch_size,
            mask_ratio,
        )
        self.patch_embed = nn.Conv2d(3, model.width, p, stride=p)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, model.width))
        self.blocks = nn.ModuleList(Block(model.width, model.heads) for _ in range(model.depth))
        self.norm = nn.LayerNorm(model.width, eps=1e-6)
        self.decoder_embed = nn.Linear(model.width, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.decoder_blocks = nn.ModuleList(
            Block(decoder.width, decoder.heads) for _ in range(decoder.depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder.width, eps=1e-6)
        self.predict = nn.Linear(decoder.width, 3 * p * p)
        self.positions = nn.Parameter(
            sincos_positions(model.width, self.grid)[None], requires_grad=False
        )
        self.decoder_positions = nn.Parameter(
            sincos_positions(decoder.width, self.grid)[None], requires_grad=False
        )
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        tokens, masked, ids_restore = self._encode(images)
        error = (self._decode(tokens, ids_restore) - self._patchify(images)) ** 2
        return (error.mean(dim=-1) * masked).sum() / masked.sum()

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2) + self.positions[:, 1:]
        b, n, d = tokens.shape
        keep = int(n * (1 - self.mask_ratio))
        ids_shuffle = torch.rand(b, n, device=images.device).argsort(dim=1)
        ids_restore = ids_shuffle.argsort(dim=1)
        tokens = tokens.gather(1, ids_shuffle[:, :keep, None].repeat(1, 1, d))
        masked = torch.ones(b, n, device=images.device)
        masked[:, :keep] = 0
        masked = masked.gather(1, ids_restore)
        cls = (self.cls_token + self.positions[:, :1]).expand(b, -1, -1)
        tokens = torch.cat((cls, tokens), dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens), masked, ids_restore

    def _decode(self, tokens: Tensor, ids_restore: Tensor) -> Tensor:
        tokens = self.decoder_embed(tokens)
        b, n, d = tokens.shape[0], ids_restore.shape[1], tokens.shape[2]
        hidden = self.mask_token.repeat(b, n + 1 - tokens.shape[1], 1)
        patches = torch.cat([tokens[:, 1:], hidden], dim=1).gather(
            1, ids_restore[..., None].repeat(1, 1, d)
        )
        tokens = torch.cat([tokens[:, :1], patches], dim=1) + self.decoder_positions
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.predict(self.decoder_norm(tokens))[:, 1:]

    def _patchify(self, images: Tensor) -> Tensor:
        b, p = len(images), images.shape[-1] // self.grid
        cut = torch.einsum("nchpwq->nhwpqc", images.reshape(b, 3, self.grid, p, self.grid, p))
        return cut.reshape(b, self.grid**2, p * p * 3)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def optimizer(module: nn.Module, lr: float = 3e-4) -> torch.optim.Optimizer:
    """AdamW with the recipe's betas and decay; biases and LayerNorm do not decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
