"""From settings and checkpoints to networks: the masked autoencoder, its encoder, the projector."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scemae.config.schema.training import Carb, Decoder, Method, Model
from scemae.errors import CheckpointError, ConfigError
from scemae.files import documents
from scemae.files.documents import Count
from scemae.models.mae import Decoder as MaeDecoder
from scemae.models.mae import MaskedAutoencoder
from scemae.models.projector import PROJECTORS, Projector
from scemae.models.vit import Encoder
from scemae.runs.checkpoints import checkpoint

ENCODER = "encoder."  # before the names of the encoder's weights in a checkpoint of stage 1
OTHER = "give a checkpoint that this version of scemae wrote"
MOST = {
    "width": 2**14,
    "depth": 256,
    "image_size": 2**12,
}  # of a network that a checkpoint describes
Network = TypeVar("Network", bound=nn.Module)


@dataclass
class Encoding:
    """What a checkpoint's settings say of its encoder."""

    model: Model


@dataclass
class Autoencoding:
    """What a checkpoint's settings say of a masked autoencoder."""

    model: Model
    decoder: Decoder
    mask_ratio: float
    norm_pix: bool


@dataclass
class Projecting:
    """What a checkpoint's settings say of the paper's projector: Carb, channels of the trunk, digest of its weights."""

    carb: Carb
    width: Count
    backbone: str


Kind = TypeVar("Kind")


def settings_of(folder: Path, settings: dict[str, Any], kind: type[Kind]) -> Kind:
    """A checkpoint's settings as a `kind`. Raises CheckpointError naming the field that is missing or wrong, or too large."""
    where = f"{folder / checkpoint.MANIFEST}: settings"
    found = documents.convert(settings, kind, where, error=CheckpointError, remedy=OTHER)
    for name in ("model", "decoder"):
        part = getattr(found, name, None)
        for key, most in MOST.items() if part else ():
            if not 0 < getattr(part, key, 1) <= most:
                raise CheckpointError(
                    f"{where}.{name}.{key}: found {getattr(part, key)}, a number from 1 to {most} was needed; {OTHER}"
                )
        if part and (part.heads < 1 or part.width % (4 * part.heads)):
            raise CheckpointError(
                f"{where}.{name}: found width {part.width} and {part.heads} heads; {OTHER}"
            )
    if (
        isinstance(found, (Encoding, Autoencoding))
        and not found.model.image_size // 256 < found.model.patch_size <= found.model.image_size
    ):
        raise CheckpointError(
            f"{where}.model.patch_size: found {found.model.patch_size} with images of {found.model.image_size} px; {OTHER}"
        )
    return found


def sized(
    build: Callable[[], Network], shapes: dict[str, tuple[int, ...]], folder: Path
) -> Network:
    """What `build` makes, once a draft of it without memory has shown that its tensors have the shapes of the checkpoint's.

    So no more is allocated than the checkpoint has bytes. Raises CheckpointError.
    """
    try:
        with torch.device("meta"):
            draft = build()
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AssertionError,
        ArithmeticError,
        ConfigError,
    ) as error:
        raise CheckpointError(
            f"{folder}: its settings give no network ({' '.join(str(error).split())[:200]}); {OTHER}"
        ) from error
    check_shapes(
        {name: tuple(value.shape) for name, value in draft.state_dict().items()}, shapes, folder
    )
    return build()


def check_shapes(
    own: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], folder: Path
) -> None:
    """Raise CheckpointError where a model needs what the checkpoint `folder` lacks, or has in another shape."""
    wrong = next((name for name in own if found.get(name) != own[name]), None)
    if wrong is not None:
        raise CheckpointError(
            f"{folder}: holds another model ({wrong}: found {found.get(wrong, 'nothing')}, needed "
            f"{own[wrong]}); give the model's settings it was trained with"
        )


def build_autoencoder(
    model: Model, decoder: Decoder, *, mask_ratio: float, norm_pix: bool, seed: int
) -> MaskedAutoencoder:
    """A freshly initialised masked autoencoder; the same weights for the same seed on every rank."""
    torch.manual_seed(seed)
    encoder = Encoder(model.width, model.depth, model.heads, model.patch_size, model.image_size)
    head = MaeDecoder(
        model.width,
        decoder.width,
        decoder.depth,
        decoder.heads,
        grid=encoder.grid,
        patch_size=model.patch_size,
    )
    return MaskedAutoencoder(encoder, head, mask_ratio=mask_ratio, norm_pix=norm_pix)


def load_into(model: nn.Module, location: Path) -> None:
    """Start from another run's weights. Raises CheckpointError where they are of another model."""
    folder = checkpoint.newest(location)
    if isinstance(model, MaskedAutoencoder):
        _refuse_adopted(folder, checkpoint.read_state(folder).settings)
    fill(model, checkpoint.read_weights(folder), folder)


def fill(model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Give `model` the weights of the checkpoint `folder`. Raises CheckpointError where they are of another model."""
    own = model.state_dict()
    check_shapes(
        *({name: tuple(value.shape) for name, value in part.items()} for part in (own, weights)),
        folder,
    )
    model.load_state_dict({name: weights[name] for name in own})


def load_autoencoder(location: Path) -> tuple[MaskedAutoencoder, Path]:
    """The masked autoencoder of a stage-1 run folder or checkpoint, and the checkpoint it came from.

    Raises CheckpointError, also for adopted public weights, which are an encoder alone.
    """
    folder, kept = _own(location)
    _refuse_adopted(folder, kept)
    found = settings_of(folder, kept, Autoencoding)
    model = sized(
        lambda: build_autoencoder(
            found.model, found.decoder, mask_ratio=found.mask_ratio, norm_pix=found.norm_pix, seed=0
        ),
        checkpoint.read_shapes(folder),
        folder,
    )
    load_into(model, folder)
    return model, folder


def _refuse_adopted(folder: Path, settings: dict) -> None:
    if "adopted" in settings:
        raise CheckpointError(
            f"{folder}: holds adopted weights, an encoder without a decoder; give a run of `scemae "
            "pretrain` where images are to be reconstructed or stage 1 is to go on"
        )


def stage_1(location: Path) -> tuple[Path, dict]:
    """The newest checkpoint of a stage-1 run, of any method, and its settings. Raises CheckpointError."""
    folder = checkpoint.newest(location)
    state = checkpoint.read_state(folder)
    if state.stage != "pretrain":
        raise CheckpointError(
            f"{folder}: found a checkpoint of `scemae {state.stage}`, one of `scemae pretrain` was "
            "needed; give backbone=RUN of stage 1"
        )
    return folder, state.settings


def _own(location: Path) -> tuple[Path, dict]:
    folder, kept = stage_1(location)
    if "model" not in kept:
        raise CheckpointError(
            f"{folder}: found a checkpoint of method={method_of(folder, kept).name}, one of the paper's masked "
            "autoencoder was needed; give a run of `scemae pretrain` with method=mae"
        )
    return folder, kept


@dataclass
class _Rival:
    method: Method


def method_of(folder: Path, settings: dict[str, Any]) -> Method:
    """Which rival a checkpoint is of, and its settings. Raises CheckpointError where it says nothing of one."""
    return settings_of(folder, settings, _Rival).method


def selection_options(carb: Carb) -> dict:
    """The part of the settings that `carb.select` takes."""
    return {
        name: getattr(carb, name)
        for name in ("eta", "clusters", "density", "remaining", "aggregate")
    }


def check_clusters(carb: Carb, encoder: Encoder) -> None:
    """Raise ConfigError where eta leaves no attentive tokens, or fewer inattentive ones than clusters."""
    n = encoder.grid**2
    attentive = round(carb.eta * n)
    if attentive < 1 or n - attentive < carb.clusters:
        raise ConfigError(
            f"carb: eta {carb.eta} of {n} tokens leaves {attentive} attentive and {n - attentive} "
            f"inattentive ones; at least 1 and {carb.clusters} (carb.clusters) are needed"
        )


def load_encoder(location: Path) -> tuple[Encoder, Path]:
    """The frozen encoder of a stage-1 run folder or checkpoint, and the checkpoint it came from; no decoder is needed."""
    folder, kept = _own(location)
    model, shapes = (
        settings_of(folder, kept, Encoding).model,
        _of_encoder(checkpoint.read_shapes(folder)),
    )
    encoder = sized(
        lambda: Encoder(
            model.width,
            model.depth,
            model.heads,
            model.patch_size,
            model.image_size,
            own_positions="positions" in shapes,
        ),
        shapes,
        folder,
    )
    fill(encoder, _of_encoder(checkpoint.read_weights(folder)), folder)
    return encoder.eval().requires_grad_(False), folder


def _of_encoder(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(ENCODER): value
        for name, value in found.items()
        if name.startswith(ENCODER)
    }


def load_projector(location: Path, backbone: Path) -> tuple[nn.Module, Carb, Path]:
    """The projector of a stage-2 run folder or checkpoint, trained on the checkpoint `backbone`.

    Raises CheckpointError where it was trained on another one: its features would mean nothing.
    """
    folder = checkpoint.newest(location)
    state = checkpoint.read_state(folder)
    if state.stage != "correspond":
        raise CheckpointError(
            f"{folder}: found a checkpoint of `scemae {state.stage}`, one of `scemae correspond` was "
            "needed; give projector=RUN of stage 2"
        )
    found = settings_of(folder, state.settings, Projecting)
    carb, width = found.carb, found.width
    if carb.projector not in PROJECTORS:
        raise CheckpointError(
            f"{folder}: found the projector {carb.projector[:40]!r}, there are {', '.join(PROJECTORS)}; {OTHER}"
        )
    check_backbone(folder, state, backbone)
    shapes = {
        name.removeprefix("projector."): shape
        for name, shape in checkpoint.read_shapes(folder).items()
    }
    projector = sized(lambda: Projector(carb.projector, width, carb.dim), shapes, folder)
    weights = checkpoint.read_weights(folder)
    fill(
        projector,
        {name.removeprefix("projector."): value for name, value in weights.items()},
        folder,
    )
    return projector.eval().requires_grad_(False), carb, folder


def check_backbone(folder: Path, state: checkpoint.TrainState, backbone: Path) -> None:
    """Raise CheckpointError where the stage-2 checkpoint `folder` was not trained on the weights of `backbone`."""
    if state.settings.get("backbone") != checkpoint.weights_digest(backbone):
        raise CheckpointError(
            f"{folder}: its projector was trained on other weights than {backbone} holds; give the "
            "backbone checkpoint it was trained on (provenance.json names it)"
        )
