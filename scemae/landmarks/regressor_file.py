"""A trained landmark regressor as one safetensors file, with what it was trained on, so that it can be used elsewhere.

    tensors     those of `LandmarkRegressor`, in fp32
    metadata    "scemae": JSON of `Origin`
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from scemae import files
from scemae.errors import CheckpointError
from scemae.landmarks.regression import LandmarkRegressor, RegressionConfig
from scemae.tensor_file import fill

FORMAT_VERSION = 1


@dataclass
class Origin:
    """What a regressor was trained on: it is of use for these features alone."""

    benchmark: str  # whose landmarks it predicts, as `find_benchmark` takes it
    settings: RegressionConfig
    digests: dict[str, str]  # SHA-256 of the weights behind its features, as "backbone" and "projector"
    stride: int  # of cover-and-stride, in pixels
    width: int  # channels of the features
    landmarks: int
    format_version: int = FORMAT_VERSION


def save_regressor(path: Path, regressor: LandmarkRegressor, benchmark: str, settings: RegressionConfig,
                   digests: dict[str, str], *, stride: int) -> None:
    """Write a regressor, whole or not at all. `digests` is {"backbone": SHA-256 of its weights} for features of stage 1,
    and has "projector" too where stage 2 takes part (checkpoint.weights_digest). Raises OSError."""
    origin = Origin(benchmark, settings, dict(digests), stride, regressor.heatmaps.in_channels, regressor.landmarks)
    arrays = {name: value.detach().float().cpu().numpy() for name, value in regressor.state_dict().items()}
    files.make_folders(path.parent, path.parent.parent)  # regressors/ of a run folder
    with files.replacing(path) as file:
        fill(file, arrays, {"scemae": json.dumps(asdict(origin))})
    files.sync_folder(path.parent)


def load_regressor(path: Path) -> tuple[LandmarkRegressor, Origin]:
    """The regressor of a file, on the CPU, and what it was trained on. Raises CheckpointError in one sentence."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a regressors/*.safetensors that `scemae evaluate` wrote")
    try:
        with safe_open(path, framework="pt") as file:
            raw = json.loads((file.metadata() or {}).get("scemae", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}); copy it again from where `scemae evaluate` "
                              "wrote it") from error
    try:
        if raw["format_version"] != FORMAT_VERSION:
            raise CheckpointError(f"{path}: found a regressor of format {raw['format_version']}, this version reads "
                                  f"{FORMAT_VERSION}; use the version of scemae that wrote it")
        origin = Origin(**{**raw, "settings": RegressionConfig(**raw["settings"])})
        regressor = LandmarkRegressor(origin.width, origin.landmarks, origin.settings)
        regressor.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: holds no landmark regressor; give a regressors/*.safetensors that `scemae evaluate` "
                              "wrote") from error
    return regressor.eval().requires_grad_(False), origin


def check_digests(path: Path, origin: Origin, found: dict[str, str]) -> None:
    """Raise CheckpointError where the features at hand, of weights `found`, are not those of the regressor in `path`."""
    for part in ("backbone", "projector"):
        needed, given = origin.digests.get(part), found.get(part)
        if needed and not given:
            raise CheckpointError(f"{path}: was trained on features of a {part}, and none was given; add --{part} RUN")
        if needed and needed != given:
            raise CheckpointError(f"{path}: was trained on features of another {part} (SHA-256 {needed[:12]}) than was "
                                  f"given ({given[:12]}); give the checkpoint that it was trained with")
