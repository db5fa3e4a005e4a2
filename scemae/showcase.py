"""The faces of a report, as arrays: reconstructions, attentive tokens, similarity maps, and which pairs to show.

Nothing here is drawn (pictures.py) or written (report.py). Images are (b, 3, h, w) in [0, 1].
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from scemae.config import Carb
from scemae.correspond import selection_options
from scemae.data.pipeline import decode
from scemae.data.reader import ShardSet
from scemae.data.views import MEAN, STD, normalise
from scemae.errors import RunFolderError
from scemae.landmarks import features
from scemae.landmarks.benchmarks import CROP, FRAME, INPUT
from scemae.landmarks.pairs import DIFFERENT, SOURCE, Pairs
from scemae.models import losses
from scemae.models.carb import Selection, cls_similarity, select
from scemae.models.mae import MaskedAutoencoder
from scemae.models.vit import FIRST_BLOCKS, Encoder, patchify, unpatchify

FACES = 6


@dataclass
class Reconstruction:
    """What the masked autoencoder makes of b faces; errors are mean squares over the hidden patches, of pixels in
    units of the data's standard deviation."""

    original: Tensor    # (b, 3, s, s)
    masked: Tensor      # (b, 3, s, s): hidden patches grey
    predicted: Tensor   # (b, 3, s, s): hidden patches predicted, the visible ones as they are
    errors: Tensor      # (b,)
    flat: Tensor        # (b,): the errors of painting each hidden patch in the mean colour of the visible ones


@dataclass
class Attention:
    """What stage 2 chooses on b faces (paper 3.2): `similarity` (b, n) of Eq. 1, and the selection of Eq. 2 and 3."""

    original: Tensor    # (b, 3, s, s)
    similarity: Tensor
    selection: Selection
    grid: int


def evenly(count: int, wanted: int) -> list[int]:
    """`wanted` positions spread over `count`, first and last among them; fewer where there are fewer."""
    return sorted(set(np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist()))


def decode_faces(shards: ShardSet, size: int, wanted: int = FACES) -> tuple[Tensor, list[str]]:
    """A few faces spread over `shards`, the central `size` pixels of their 136 frame, and their keys.

    Raises ShardError where a sample cannot be read, RunFolderError where it is no image.
    """
    chosen = evenly(len(shards), wanted)
    try:
        frames = np.stack([decode(shards.jpeg(i), FRAME) for i in chosen])
    except ValueError as error:
        raise RunFolderError(f"{shards.folder}: holds something that is no image ({error}); give other shards") from error
    margin = (FRAME - size) // 2
    images = rearrange(torch.from_numpy(frames), "b h w c -> b c h w").float() / 255
    return images[..., margin:margin + size, margin:margin + size], [shards.keys[i] for i in chosen]


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, images: Tensor, seed: int = 0) -> Reconstruction:
    """Hide patches of images (b, 3, s, s) by seeded noise, and predict them (paper 3.1).

    With norm_pix the prediction is standardised; it is given back each patch's own mean and spread, which a reader
    must know flatters it.
    """
    p, patches = model.encoder.patch_size, patchify(normalise(images), model.encoder.patch_size)
    noise = torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(seed))
    predicted, masked = model.reconstruct(normalise(images), noise)
    if model.norm_pix:
        predicted = predicted * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
    hidden = masked.unsqueeze(-1)
    colours = rearrange(patches, "b n (q c) -> b n q c", c=3).mean(2) * ~hidden
    colour = colours.sum(1) / (~hidden).sum(1)                                                          # b c
    flat = repeat(colour, "b c -> b n (q c)", n=patches.shape[1], q=p * p)
    return Reconstruction(images, _visible(unpatchify(patches.masked_fill(hidden, 0.0), p)),
                          _visible(unpatchify(torch.where(hidden, predicted, patches), p)),
                          losses.reconstruction(predicted, patches, masked, False),
                          losses.reconstruction(flat, patches, masked, False))


def _visible(normalised: Tensor) -> Tensor:
    mean, std = (normalised.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (normalised * std + mean).clamp(0, 1)


@torch.no_grad()
def attend(encoder: Encoder, images: Tensor, carb: Carb) -> Attention:
    """Sim_cls and the selection of stage 2, for images (b, 3, s, s)."""
    block = FIRST_BLOCKS if carb.layer == "after" else FIRST_BLOCKS - 1
    tokens = encoder.run(encoder.embed(normalise(images)), stop=block)
    return Attention(images, cls_similarity(encoder.blocks[block], tokens, carb.heads),
                     select(encoder, normalise(images), **selection_options(carb)), encoder.grid)


@torch.no_grad()
def similarity_maps(heads: dict[str, nn.Module], encoder: Encoder, pairs: Pairs, couple: int,
                    stride: int) -> dict[str, Tensor]:
    """The cosine of each source landmark with every pixel of the other person's face: per head (l, 96, 96).

    The matcher of PROTOCOL 4.5, whose answer is the arg-max of such a map.
    """
    views = pairs.views[couple][[SOURCE, DIFFERENT]].float() / 255
    maps, found = features.backbone(encoder, stride)(views), {}
    x, y = (pairs.landmarks[couple, SOURCE] - CROP).round().clamp(0, INPUT - 1).long().unbind(-1)
    for name, head in heads.items():
        large = F.interpolate(head(maps).float(), size=(INPUT, INPUT), mode="bilinear", align_corners=False)
        source, target = F.normalize(large, dim=1)
        found[name] = torch.einsum("dl,dhw->lhw", source[:, y, x], target)
    return found


def spread(similarity: Tensor) -> list[float]:
    """The share of each map (l, h, w) that lies above the middle of its range: a sharp map has a small one."""
    flat = similarity.flatten(1)
    middle = (flat.amin(1) + flat.amax(1)) / 2
    return (flat > middle[:, None]).float().mean(1).tolist()


def best_median_worst(errors: np.ndarray, each: int = 1) -> list[int]:
    """Rows of errors (n,): the `each` smallest, the middle ones and the largest, in ascending order of error."""
    order = np.argsort(errors, kind="stable")
    if len(order) <= 3 * each:
        return order.tolist()
    middle = (len(order) - each) // 2
    return np.concatenate([order[:each], order[middle:middle + each], order[-each:]]).tolist()
