"""The folder that `scemae export` writes, read back: networks, and where their weights come from.

OUT/model.safetensors       the encoder, under the names of timm's VisionTransformer
OUT/projector.safetensors   the projector, where one was exported
OUT/config.json             timm's description of the encoder; under "scemae" all that is read here
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scemae.config.schema.training import Carb, Model
from scemae.data.augment import MEAN, STD
from scemae.errors import CheckpointError, ConfigError
from scemae.files import documents
from scemae.files.documents import Count, Small
from scemae.interop.timm_names import Pixels, translate
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.runs.given import EXPORTED
from scemae.runs.usual_frames import UsualFrames

PROJECTOR = "projector.safetensors"
REMEDY = "give a folder that `scemae export` of this version wrote, or export it again"


@dataclass
class WeightsSource:
    """The checkpoint that exported weights come from."""

    checkpoint: str  # its name
    weights_sha256: str
    global_step: Count
    adopted: dict[str, Any] | None = None  # of public weights: which they are


@dataclass
class Exported:
    """The networks of an export."""

    folder: Path  # the export; before it is written, the checkpoint of the encoder
    encoder: Encoder
    source: WeightsSource
    projector: Projector | None = None
    carb: Carb | None = None  # settings of stage 2, with a projector
    projector_source: WeightsSource | None = None
    usual: UsualFrames | None = None  # what its training pictures look like

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights in their checkpoints, as "backbone" and "projector"."""
        found = {"backbone": self.source.weights_sha256}
        if self.projector_source is not None:
            found["projector"] = self.projector_source.weights_sha256
        return found

    @property
    def steps(self) -> int:
        """How long the projector was trained."""
        return 0 if self.projector_source is None else self.projector_source.global_step


@dataclass
class _Shape:
    img_size: Small
    patch_size: Small
    embed_dim: Small
    depth: Small
    num_heads: Small


@dataclass
class _ProjectorFacts:
    carb: Carb
    source: WeightsSource


@dataclass
class _Facts:
    encoder: _Shape
    source: WeightsSource
    projector: _ProjectorFacts | None = None


@dataclass
class _Config:
    scemae: _Facts


def read(folder: Path, *, with_projector: bool = True) -> Exported:
    """The frozen networks of an export. Raises CheckpointError for one that is not whole."""
    path = folder / "config.json"
    try:
        text = documents.read_bytes(path, error=CheckpointError, remedy=REMEDY)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    facts = documents.parse_json(text, _Config, path, error=CheckpointError, remedy=REMEDY).scemae
    found = Exported(folder, _encoder(folder, facts.encoder), facts.source)
    if facts.projector is not None and with_projector:
        found.carb, found.projector_source = facts.projector.carb, facts.projector.source
        found.projector = _projector(folder, found.carb, found.encoder.width)
    return found


def _encoder(folder: Path, shape: _Shape) -> Encoder:
    heads, patch, side = shape.num_heads, shape.patch_size, shape.img_size
    is_possible = min(heads, patch) > 0 and shape.embed_dim % (4 * heads) == 0
    if not is_possible or not side // 256 < patch <= side or not 0 < shape.depth <= 256:
        raise CheckpointError(f"{folder / 'config.json'}: describes no encoder; {REMEDY}")
    model = Model("export", shape.embed_dim, shape.depth, heads, patch, side)
    tensors = _tensors(folder / EXPORTED)
    weights, _ = translate(tensors, model, Pixels(MEAN, STD), path=folder / EXPORTED)
    encoder = Encoder(
        model.width, model.depth, heads, patch, side, own_positions="positions" in weights
    )
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)


def _projector(folder: Path, carb: Carb, width: int) -> Projector:
    path = folder / PROJECTOR
    tensors = _tensors(path)
    largest = max((max(one.shape, default=0) for one in tensors.values()), default=0)
    try:
        if carb.dim > largest:  # before memory is taken for a size that the file does not hold
            raise ValueError(f"found {carb.dim} dimensions in config.json, {largest} in the file")
        projector = Projector(carb.projector, width, carb.dim)
        projector.load_state_dict(tensors)
    except (RuntimeError, ValueError, ConfigError) as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: is not as config.json says ({why}); {REMEDY}") from error
    return projector.eval().requires_grad_(False)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); {REMEDY}"
        ) from error
