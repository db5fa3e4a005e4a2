"""The paper's stage 1 (paper 3.1, PROTOCOL 2.2): a masked autoencoder, models/mae.py.

Evaluation and stage 2 use its encoder alone, so that is what `load_trunk` reads. Adopted public
weights (`scemae adopt`) are an encoder without a decoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from scemae.config.schema.training import DecoderShape, Model
from scemae.data.pipeline import Batch, pretraining_views
from scemae.errors import CheckpointError
from scemae.methods import registry
from scemae.models import flops, mae
from scemae.models.mae import MaskedAutoencoder
from scemae.models.vit import Encoder
from scemae.runs import networks
from scemae.runs.checkpoints import checkpoint

STAGE, TITLE, ROLE = 1, "SCE-MAE", "ours"
SETTINGS_AT_TOP = True
ENCODER = "encoder."  # prefix of the encoder's weights in a checkpoint
# The largest sizes that a checkpoint may state, so that a damaged one cannot exhaust the memory.
MOST = {"width": 2**14, "depth": 256, "image_size": 2**12}


@dataclass
class Settings:
    """The sections and settings of `scemae pretrain` that belong to the masked autoencoder."""

    model: Model
    decoder: DecoderShape
    mask_ratio: float
    norm_pix: bool


@dataclass
class _EncoderSettings:
    """The part of a checkpoint's settings that describes its encoder."""

    model: Model


Kind = TypeVar("Kind", Settings, _EncoderSettings)


def build(settings: Settings, *, seed: int) -> MaskedAutoencoder:
    """A freshly initialised masked autoencoder, the same for the same seed on every rank."""
    torch.manual_seed(seed)
    encoder = _encoder(settings.model)
    size = settings.decoder
    decoder = mae.Decoder(
        encoder.width,
        size.width,
        size.depth,
        size.heads,
        grid=encoder.grid,
        patch_size=encoder.patch_size,
    )
    ratio, norm_pix = settings.mask_ratio, settings.norm_pix
    return MaskedAutoencoder(encoder, decoder, mask_ratio=ratio, norm_pix=norm_pix)


def views(
    settings: Settings, *, size: int, scale: tuple[float, float]
) -> Callable[[Batch], tuple[Tensor, ...]]:
    """One view (b, 3, size, size), the noise (b, n) that ranks its patches, and weights (b,)."""
    patches = (size // settings.model.patch_size) ** 2
    return partial(pretraining_views, size=size, scale=scale, patches=patches)


def step_flops(settings: Settings) -> int:
    """Floating-point operations of a training step per image."""
    return flops.autoencoder_step(settings.model, settings.decoder, settings.mask_ratio)


def load_trunk(folder: Path) -> Encoder:
    """The frozen encoder of a checkpoint. Raises CheckpointError."""
    return load_encoder(folder)[0]


def load_encoder(location: Path) -> tuple[Encoder, Path]:
    """The frozen encoder of a run folder or checkpoint of stage 1, and the checkpoint.

    Raises CheckpointError.
    """
    folder, kept = _own(location)
    model = _kept_settings(folder, kept, _EncoderSettings).model
    shapes = _of_encoder(checkpoint.read_shapes(folder))
    build_encoder = partial(_encoder, model, own_positions="positions" in shapes)
    encoder = networks.sized(build_encoder, shapes, folder)
    networks.fill(encoder, _of_encoder(checkpoint.read_weights(folder)), folder)
    return encoder.eval().requires_grad_(False), folder


def load_autoencoder(location: Path) -> tuple[MaskedAutoencoder, Path]:
    """The masked autoencoder of a run folder or checkpoint of stage 1, and the checkpoint.

    Raises CheckpointError, also for adopted weights.
    """
    folder, kept = _own(location)
    networks.refuse_adopted(folder, kept)
    settings = _kept_settings(folder, kept, Settings)
    shapes = checkpoint.read_shapes(folder)
    model = networks.sized(partial(build, settings, seed=0), shapes, folder)
    networks.fill(model, checkpoint.read_weights(folder), folder)
    return model, folder


def _encoder(model: Model, own_positions: bool = False) -> Encoder:
    return Encoder(
        model.width,
        model.depth,
        model.heads,
        model.patch_size,
        model.image_size,
        own_positions=own_positions,
    )


def _own(location: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of this method, and its settings. Raises CheckpointError."""
    folder, kept = checkpoint.stage_1(location)
    if "model" not in kept:
        name = registry.method_of(folder, kept, 1)
        raise CheckpointError(
            f"{folder}: found a checkpoint of method={name}, one of the paper's masked autoencoder "
            "was needed; give a run of `scemae pretrain` with method=mae"
        )
    return folder, kept


def _of_encoder(found: dict[str, Any]) -> dict[str, Any]:
    """The entries of the encoder, without their prefix."""
    return {
        name.removeprefix(ENCODER): value
        for name, value in found.items()
        if name.startswith(ENCODER)
    }


def _kept_settings(folder: Path, kept: dict[str, Any], kind: type[Kind]) -> Kind:
    """A checkpoint's settings as a `kind`.

    Raises CheckpointError naming the field that is missing, of another type or too large.
    """
    found = networks.settings_of(folder, kept, kind)
    where = f"{folder / checkpoint.MANIFEST}: settings"
    _check_size(f"{where}.model", found.model)
    if isinstance(found, Settings):
        _check_size(f"{where}.decoder", found.decoder)
    patch, side = found.model.patch_size, found.model.image_size
    if not side // 256 < patch <= side:
        raise CheckpointError(
            f"{where}.model.patch_size: found {patch} with images of {side} px; {networks.OTHER}"
        )
    return found


def _check_size(where: str, part: Model | DecoderShape) -> None:
    for key, most in MOST.items():
        size = getattr(part, key, 1)
        if not 0 < size <= most:
            raise CheckpointError(
                f"{where}.{key}: found {size}, a number from 1 to {most} was needed; "
                f"{networks.OTHER}"
            )
    if part.heads < 1 or part.width % (4 * part.heads):
        raise CheckpointError(
            f"{where}: found width {part.width} and {part.heads} heads; {networks.OTHER}"
        )
