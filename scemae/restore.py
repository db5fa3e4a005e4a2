"""From settings and checkpoints to networks: the masked autoencoder, its encoder, the projector."""

from pathlib import Path

import torch
from torch import Tensor, nn

from scemae import checkpoint
from scemae.errors import CheckpointError, ConfigError
from scemae.models.mae import Decoder as MaeDecoder
from scemae.models.mae import MaskedAutoencoder
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.schema import Carb, Decoder, Model

ENCODER = "encoder."  # before the names of the encoder's weights in a checkpoint of stage 1


def build_autoencoder(model: Model, decoder: Decoder, *, mask_ratio: float, norm_pix: bool,
                      seed: int) -> MaskedAutoencoder:
    """A freshly initialised masked autoencoder; the same weights for the same seed on every rank."""
    torch.manual_seed(seed)
    encoder = Encoder(model.width, model.depth, model.heads, model.patch_size, model.image_size)
    head = MaeDecoder(model.width, decoder.width, decoder.depth, decoder.heads, grid=encoder.grid,
                      patch_size=model.patch_size)
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
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong:
        found = tuple(weights[wrong[0]].shape) if wrong[0] in weights else "nothing"
        raise CheckpointError(f"{folder}: holds another model ({wrong[0]}: found {found}, needed "
                              f"{tuple(own[wrong[0]].shape)}); give the model's settings it was trained with")
    model.load_state_dict({name: weights[name] for name in own})


def load_autoencoder(location: Path) -> tuple[MaskedAutoencoder, Path]:
    """The masked autoencoder of a stage-1 run folder or checkpoint, and the checkpoint it came from.

    Raises CheckpointError, also for adopted public weights, which are an encoder alone.
    """
    folder, kept = _own(location)
    _refuse_adopted(folder, kept)
    model = build_autoencoder(Model(**kept["model"]), Decoder(**kept["decoder"]), mask_ratio=kept["mask_ratio"],
                              norm_pix=kept["norm_pix"], seed=0)
    load_into(model, folder)
    return model, folder


def _refuse_adopted(folder: Path, settings: dict) -> None:
    if "adopted" in settings:
        raise CheckpointError(f"{folder}: holds adopted weights, an encoder without a decoder; give a run of `scemae "
                              "pretrain` where images are to be reconstructed or stage 1 is to go on")


def stage_1(location: Path) -> tuple[Path, dict]:
    """The newest checkpoint of a stage-1 run, of any method, and its settings. Raises CheckpointError."""
    folder = checkpoint.newest(location)
    state = checkpoint.read_state(folder)
    if state.stage != "pretrain":
        raise CheckpointError(f"{folder}: found a checkpoint of `scemae {state.stage}`, one of `scemae pretrain` was "
                              "needed; give backbone=RUN of stage 1")
    return folder, state.settings


def _own(location: Path) -> tuple[Path, dict]:
    folder, kept = stage_1(location)
    if "model" not in kept:
        raise CheckpointError(f"{folder}: found a checkpoint of method={kept['method']['name']}, one of the paper's masked "
                              "autoencoder was needed; give a run of `scemae pretrain` with method=mae")
    return folder, kept


def selection_options(carb: Carb) -> dict:
    """The part of the settings that `carb.select` takes."""
    return {name: getattr(carb, name) for name in ("eta", "clusters", "density", "remaining", "aggregate")}


def check_clusters(carb: Carb, encoder: Encoder) -> None:
    """Raise ConfigError where eta leaves no attentive tokens, or fewer inattentive ones than clusters."""
    n = encoder.grid**2
    attentive = round(carb.eta * n)
    if attentive < 1 or n - attentive < carb.clusters:
        raise ConfigError(f"carb: eta {carb.eta} of {n} tokens leaves {attentive} attentive and {n - attentive} "
                          f"inattentive ones; at least 1 and {carb.clusters} (carb.clusters) are needed")


def load_encoder(location: Path) -> tuple[Encoder, Path]:
    """The frozen encoder of a stage-1 run folder or checkpoint, and the checkpoint it came from; no decoder is needed."""
    folder, kept = _own(location)
    model, weights = Model(**kept["model"]), checkpoint.read_weights(folder)
    own = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
    encoder = Encoder(model.width, model.depth, model.heads, model.patch_size, model.image_size,
                      own_positions="positions" in own)
    fill(encoder, own, folder)
    return encoder.eval().requires_grad_(False), folder


def load_projector(location: Path, backbone: Path) -> tuple[nn.Module, Carb, Path]:
    """The projector of a stage-2 run folder or checkpoint, trained on the checkpoint `backbone`.

    Raises CheckpointError where it was trained on another one: its features would mean nothing.
    """
    folder = checkpoint.newest(location)
    state = checkpoint.read_state(folder)
    if state.stage != "correspond":
        raise CheckpointError(f"{folder}: found a checkpoint of `scemae {state.stage}`, one of `scemae correspond` was "
                              "needed; give projector=RUN of stage 2")
    carb = Carb(**state.settings["carb"])
    check_backbone(folder, state, backbone)
    projector = Projector(carb.projector, state.settings["width"], carb.dim)
    weights = checkpoint.read_weights(folder)
    projector.load_state_dict({name.removeprefix("projector."): value for name, value in weights.items()})
    return projector.eval().requires_grad_(False), carb, folder


def check_backbone(folder: Path, state: checkpoint.TrainState, backbone: Path) -> None:
    """Raise CheckpointError where the stage-2 checkpoint `folder` was not trained on the weights of `backbone`."""
    if state.settings["backbone"] != checkpoint.weights_digest(backbone):
        raise CheckpointError(f"{folder}: its projector was trained on other weights than {backbone} holds; give the "
                              "backbone checkpoint it was trained on (provenance.json names it)")
