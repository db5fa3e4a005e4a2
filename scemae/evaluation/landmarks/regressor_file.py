"""A trained landmark regressor as one safetensors file, with what it was trained on, so that it can be used elsewhere.

tensors     those of `LandmarkRegressor`, in fp32
metadata    "scemae": JSON of `Origin`
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from scemae.errors import CheckpointError
from scemae.evaluation.landmarks.regression import LandmarkRegressor, RegressionConfig
from scemae.files import disk, documents
from scemae.files.documents import Small
from scemae.runs.checkpoints.tensor_file import fill

FORMAT_VERSION = 1


@dataclass
class Origin:
    """What a regressor was trained on: it is of use for these features alone."""

    benchmark: str  # whose landmarks it predicts, as `find_benchmark` takes it
    settings: RegressionConfig
    digests: dict[
        str, str
    ]  # SHA-256 of the weights behind its features, as "backbone" and "projector"
    stride: Small  # of cover-and-stride, in pixels
    width: Small  # channels of the features
    landmarks: Small
    format_version: int = FORMAT_VERSION


@dataclass
class _Format:
    format_version: Any


def save_regressor(
    path: Path,
    regressor: LandmarkRegressor,
    benchmark: str,
    settings: RegressionConfig,
    digests: dict[str, str],
    *,
    stride: int,
) -> None:
    """Write a regressor, whole or not at all. `digests` is {"backbone": SHA-256 of its weights} for features of stage 1,
    and has "projector" too where stage 2 takes part (checkpoint.weights_digest). Raises OSError."""
    origin = Origin(
        benchmark,
        settings,
        dict(digests),
        stride,
        regressor.heatmaps.in_channels,
        regressor.landmarks,
    )
    arrays = {
        name: value.detach().float().cpu().numpy() for name, value in regressor.state_dict().items()
    }
    disk.make_folders(path.parent, path.parent.parent)  # regressors/ of a run folder
    with disk.replacing(path) as file:
        fill(file, arrays, {"scemae": json.dumps(asdict(origin))})
    disk.sync_folder(path.parent)


def load_regressor(path: Path) -> tuple[LandmarkRegressor, Origin]:
    """The regressor of a file, on the CPU, and what it was trained on. Raises CheckpointError in one sentence."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give a regressors/*.safetensors that `scemae evaluate` wrote"
        )
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("scemae", "null")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); copy it again from where `scemae evaluate` "
            "wrote it"
        ) from error
    remedy = "give a regressors/*.safetensors that `scemae evaluate` wrote"
    try:
        found = documents.parse_json(
            text, _Format, path, error=CheckpointError, remedy=remedy
        ).format_version
        if found != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: found a regressor of format {str(found)[:40]}, this version reads {FORMAT_VERSION}; use the "
                "version of scemae that wrote it"
            )
        origin = documents.parse_json(text, Origin, path, error=CheckpointError, remedy=remedy)
        points, kernel = origin.settings.intermediate, origin.settings.kernel
        needed = {
            "heatmaps.weight": (origin.landmarks * points, origin.width, kernel, kernel),
            "readout": (origin.landmarks, 2 * points, 2),
        }
        if needed != {
            name: tuple(value.shape) for name, value in tensors.items()
        }:  # before it is made: it may be of any size
            raise ValueError("its tensors have other names or shapes than it says")
        regressor = LandmarkRegressor(origin.width, origin.landmarks, origin.settings)
        regressor.load_state_dict(tensors)
    except (CheckpointError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        if "of format" in str(error):
            raise
        raise CheckpointError(
            f"{path}: holds no landmark regressor ({' '.join(str(error).split())[:300]}); {remedy}"
        ) from error
    return regressor.eval().requires_grad_(False), origin


def check_digests(path: Path, origin: Origin, found: dict[str, str]) -> None:
    """Raise CheckpointError where the features at hand, of weights `found`, are not those of the regressor in `path`."""
    for part in ("backbone", "projector"):
        needed, given = origin.digests.get(part), found.get(part)
        if needed and not given:
            raise CheckpointError(
                f"{path}: was trained on features of a {part}, and none was given; add --{part} RUN"
            )
        if needed and needed != given:
            raise CheckpointError(
                f"{path}: was trained on features of another {part} (SHA-256 {needed[:12]}) than was "
                f"given ({given[:12]}); give the checkpoint that it was trained with"
            )
