"""Stage 1: the masked autoencoder (paper 3.1, PROTOCOL 2.2)."""

import torch
from torch import Tensor, nn

from scemae.models import losses
from scemae.models.vit import (
    Encoder,
    block_at,
    blocks,
    initialise,
    patchify,
    sincos_positions,
    take,
)


def random_mask(noise: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hide all but `keep` patches of each image, ranked by `noise`.

    noise (b, n) in [0, 1). Returns ids_keep (b, k), ids_hidden (b, n - k), and ids_restore (b, n),
    the inverse of the whole ranking.
    """
    ids_shuffle = noise.argsort(dim=1, stable=True)
    return ids_shuffle[:, :keep], ids_shuffle[:, keep:], ids_shuffle.argsort(dim=1)


class Decoder(nn.Module):
    """Visible tokens to predicted patches (PROTOCOL 2.2): mask tokens, fixed positions, blocks, and
    one linear map."""

    positions: Tensor

    def __init__(
        self, encoder_width: int, width: int, depth: int, heads: int, *, grid: int, patch_size: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sincos_positions(width, grid), persistent=False)
        self.blocks = blocks(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, 3 * patch_size**2)
        self.apply(initialise)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, ids_restore: Tensor, ids: Tensor | None = None) -> Tensor:
        """CLS and visible tokens (b, 1 + k, d) to patches (b, n, p*p*c).

        ids_restore (b, n): the inverse of the ranking that hid the others. ids (b, m): only the
        patches at these places, (b, m, p*p*c); the last block then computes no others.
        """
        tokens = self.embed(tokens)
        b, n = ids_restore.shape
        # f_p = f^_p + [MASK] * (1 - M), paper 3.1
        hidden = self.mask_token.expand(b, n + 1 - tokens.shape[1], -1)
        patches = take(torch.cat([tokens[:, 1:], hidden], dim=1), ids_restore)
        tokens = torch.cat([tokens[:, :1], patches], dim=1) + self.positions.to(tokens.dtype)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last = self.blocks[-1]
        tokens = last(tokens)[:, 1:] if ids is None else block_at(last, tokens, 1 + ids)
        return self.predict(self.norm(tokens))


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder; a call returns the reconstruction loss."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        *,
        mask_ratio: float = 0.75,
        norm_pix: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.norm_pix = encoder, decoder, norm_pix
        # k: 36 of 144 patches stay visible at 0.75
        self.keep = int(encoder.grid**2 * (1 - mask_ratio))

    @property
    def trunk(self) -> Encoder:
        """The part that stage 2 freezes and that evaluation measures."""
        return self.encoder

    def reconstruct(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted patches (b, n, p*p*c), and masked (b, n), True where hidden.

        Images are normalised; noise (b, n) in [0, 1) ranks the patches.
        """
        ids_keep, _, ids_restore = random_mask(noise, self.keep)
        return self.decoder(self.encoder(images, ids_keep), ids_restore), ids_restore >= self.keep

    def forward(self, images: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
        """The sum over images of weight * loss, a scalar.

        weights (b,): so that uneven slices of the global batch add up to one mean.
        """
        ids_keep, ids_hidden, ids_restore = random_mask(noise, self.keep)
        predicted = self.decoder(self.encoder(images, ids_keep), ids_restore, ids_hidden)
        patches = take(patchify(images, self.encoder.patch_size), ids_hidden)
        per_image = losses.reconstruction(predicted, patches, None, self.norm_pix)
        return (per_image * weights).sum()
