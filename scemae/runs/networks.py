"""From a checkpoint's settings and weights to a network, whatever the settings say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scemae.errors import CheckpointError, ConfigError
from scemae.files import documents
from scemae.runs.checkpoints import checkpoint

OTHER = "give a checkpoint that this version of scemae wrote"
Network = TypeVar("Network", bound=nn.Module)
Kind = TypeVar("Kind")
Shapes = dict[str, tuple[int, ...]]


def settings_of(folder: Path, settings: dict[str, Any], kind: type[Kind]) -> Kind:
    """A checkpoint's settings as a `kind`, without those that it does not have.

    Raises CheckpointError naming the field that is missing or wrong.
    """
    where = f"{folder / checkpoint.MANIFEST}: settings"
    return documents.convert(settings, kind, where, error=CheckpointError, remedy=OTHER)


def sized(build: Callable[[], Network], shapes: Shapes, folder: Path) -> Network:
    """What `build` makes, if its tensors have the shapes of those in the checkpoint `folder`.

    It is built on the meta device first, which allocates nothing: no more memory is taken than the
    checkpoint has bytes. Raises CheckpointError.
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
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder}: its settings give no network ({reason}); {OTHER}"
        ) from error
    check_shapes(_shapes(draft.state_dict()), shapes, folder)
    return build()


def check_shapes(own: Shapes, found: Shapes, folder: Path) -> None:
    """Raise CheckpointError where the checkpoint lacks a tensor, or has one of another shape."""
    wrong = next((name for name in own if found.get(name) != own[name]), None)
    if wrong is not None:
        raise CheckpointError(
            f"{folder}: holds another model ({wrong}: found {found.get(wrong, 'nothing')}, needed "
            f"{own[wrong]}); give the model's settings it was trained with"
        )


def _shapes(tensors: dict[str, Tensor]) -> Shapes:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def load_into(model: nn.Module, location: Path) -> None:
    """Give the whole of a run's model to `model`, to start another run from.

    Raises CheckpointError where it is another model.
    """
    folder = checkpoint.newest(location)
    refuse_adopted(folder, checkpoint.read_state(folder).settings)
    fill(model, checkpoint.read_weights(folder), folder)


def fill(model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Give `model` its tensors of the checkpoint `folder`.

    Raises CheckpointError where they are of another model.
    """
    own = model.state_dict()
    check_shapes(_shapes(own), _shapes(weights), folder)
    model.load_state_dict({name: weights[name] for name in own})


def refuse_adopted(folder: Path, settings: dict[str, Any]) -> None:
    """Raise CheckpointError for adopted weights, where a whole model is needed."""
    if "adopted" in settings:
        raise CheckpointError(
            f"{folder}: holds adopted weights, an encoder without a decoder; give a run of `scemae "
            "pretrain` where images are to be reconstructed or stage 1 is to be continued"
        )


def check_backbone(folder: Path, state: checkpoint.TrainState, backbone: Path) -> None:
    """Raise CheckpointError unless the stage-2 checkpoint `folder` was trained on `backbone`."""
    if state.settings.get("backbone") != checkpoint.weights_digest(backbone):
        raise CheckpointError(
            f"{folder}: its projector was trained on other weights than {backbone} holds; give the "
            "backbone checkpoint it was trained on (provenance.json names it)"
        )
