"""A run of stage 2: its projector, on the trunk that it was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from scemae.config.schema.training import Carb
from scemae.evaluation.landmarks import features
from scemae.evaluation.landmarks.features import Head, Trunk
from scemae.methods import carb as carb_method
from scemae.methods import registry
from scemae.runs.checkpoints import checkpoint


@dataclass
class Projection:
    """A stage-2 run: its projector as a head on the trunk that it was trained on."""

    head: Head
    dim: int
    network: nn.Module
    method: str  # carb, cl, lead, ...
    carb: Carb | None  # of the method carb
    folder: Path  # its checkpoint, or the export that it is from
    digest: str  # of its weights
    is_trained: bool = True  # False after no step: the initial weights
    run: str = ""  # its name, where two runs have the same method and dimension

    @property
    def variant(self) -> str:
        """The words in brackets after its method's name in tables; empty where none are needed."""
        ours = f"{self.added}, ours" if self.added != self.method.upper() else ""
        return ", ".join(filter(None, (ours, self.run)))

    @property
    def added(self) -> str:
        """What the run adds to its backbone, by name; the LDA is ours (PROTOCOL 7)."""
        if self.carb is None or self.carb.init == "random":
            return self.method.upper()
        return "LDA + CARB" if self.is_trained else "LDA"

    @property
    def has_repellence(self) -> bool:
        """False for CARB trained by distances alone, which is Table 4's row with clusters alone."""
        return self.carb is None or carb_method.has_repellence(self.carb)

    @property
    def kind(self) -> tuple[str, int, bool]:
        """Equal for projections that make the same rows."""
        return self.added, self.dim, self.has_repellence

    @property
    def name(self) -> str:
        words = f"{self.method} {self.dim} {self.variant}".strip()
        return words if self.has_repellence else f"{words}, clusters alone"


def load_trunk(location: Path) -> tuple[Trunk, Path]:
    """The frozen trunk of a stage-1 run folder or checkpoint, and its checkpoint folder.

    Raises CheckpointError.
    """
    network, folder = registry.load_trunk(location)
    return features.trunk_of(network), folder


def load_projection(location: Path, backbone: Path, trunk: Trunk) -> Projection:
    """The projector of a stage-2 run that was trained on the checkpoint `backbone` of `trunk`.

    Raises CheckpointError, also where it was trained on another backbone.
    """
    found = registry.load_stage_2(location, backbone, trunk.network)
    carb = getattr(found.settings, "carb", None)
    dim, module = found.settings.dim, found.module
    head = cast(Head, module.head)  # a method, which the type of a module does not know
    is_trained = checkpoint.read_state(found.folder).global_step > 0
    digest = checkpoint.weights_digest(found.folder)
    return Projection(head, dim, module, found.name, carb, found.folder, digest, is_trained)
