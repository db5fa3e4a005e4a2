"""A trained landmark regressor as one safetensors file, with a record of what it was trained on.

tensors     those of `LandmarkRegressor` or of `LocalModel`, in fp32; of `scemae fit` also those of
            `UsualFrames`
metadata    "scemae": JSON of `Origin`
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from scemae.errors import CheckpointError
from scemae.evaluation.landmarks import local_model
from scemae.evaluation.landmarks.local_model import LocalModel
from scemae.evaluation.landmarks.regression import LandmarkRegressor, RegressionConfig
from scemae.files import disk, documents
from scemae.files.documents import Finite, Small
from scemae.runs import usual_frames
from scemae.runs.checkpoints.tensor_file import fill
from scemae.runs.usual_frames import UsualFrames

FORMAT_VERSION = 1
Regressor = LandmarkRegressor | LocalModel
REMEDY = "give a regressors/*.safetensors that `scemae evaluate` wrote, or that of `scemae fit`"


@dataclass
class Origin:
    """What a regressor was trained on; it can be used with the same features only."""

    benchmark: str  # whose landmarks it predicts, an argument of `find_benchmark`
    settings: RegressionConfig | None  # None: a LocalModel
    digests: dict[
        str, str
    ]  # SHA-256 of "backbone" and "projector", as far as its features use them
    stride: Small  # of cover-and-stride, in pixels
    width: Small  # channels of the features
    landmarks: Small
    format_version: int = FORMAT_VERSION
    points: list[str] = field(default_factory=list)  # names of the landmarks, where they have some
    margin: Finite = 1.0  # how many times a box is enlarged before it becomes the frame

    @property
    def title(self) -> str:
        """The benchmark in a word: of one's own points the folder that its file is in."""
        path = Path(self.benchmark)
        return path.parent.name if path.suffix == ".yaml" else self.benchmark


@dataclass
class _RegressorFormat:
    format_version: Any


def save_regressor(
    path: Path,
    regressor: Regressor,
    benchmark: str,
    settings: RegressionConfig | None,
    digests: dict[str, str],
    *,
    stride: int,
    points: Sequence[str] = (),
    margin: float = 1.0,
    usual: UsualFrames | None = None,
) -> None:
    """Write a regressor, whole or not at all.

    settings, points, margin: as in `Origin`. usual: the record of the pictures it was fitted on.
    digests: {"backbone": SHA-256 of its weights} for features of stage 1; with "projector" too
    where stage 2 is used (checkpoint.weights_digest). Raises OSError.
    """
    origin = Origin(
        benchmark,
        settings,
        dict(digests),
        stride,
        regressor.width,
        regressor.landmarks,
        points=[*points],
        margin=margin,
    )
    arrays = {
        name: value.detach().float().cpu().numpy() for name, value in regressor.state_dict().items()
    }
    arrays |= usual.tensors() if usual else {}
    disk.make_folders(path.parent, path.parent.parent)  # regressors/ of a run folder
    with disk.replacing(path) as file:
        fill(file, arrays, {"scemae": json.dumps(asdict(origin))})
    disk.sync_folder(path.parent)


def load_regressor(path: Path) -> tuple[Regressor, Origin]:
    """The regressor of a file, on the CPU, and what it was trained on. Raises CheckpointError."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {found}; {REMEDY}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("scemae", "null")
            names = [name for name in file.keys() if not name.startswith(usual_frames.PREFIX)]
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); copy it again from where "
            "`scemae evaluate` wrote it"
        ) from error
    _check_format(text, path)
    try:
        origin = documents.parse_json(text, Origin, path, error=CheckpointError, remedy=REMEDY)
        _check_shapes(origin, tensors)
        regressor = _empty(origin)
        regressor.load_state_dict(tensors)
    except (CheckpointError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise _no_regressor(path, error) from error
    return regressor.eval().requires_grad_(False), origin


def _check_format(text: str, path: Path) -> None:
    try:
        found = documents.parse_json(
            text, _RegressorFormat, path, error=CheckpointError, remedy=REMEDY
        ).format_version
    except CheckpointError as error:
        raise _no_regressor(path, error) from error
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: found a regressor of format {str(found)[:40]}, this version reads "
            f"{FORMAT_VERSION}; use the version of scemae that wrote it"
        )


def _check_shapes(origin: Origin, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless the tensors have the shapes that `origin` implies.

    This comes before the regressor is made, since a damaged record could ask for one of any size.
    """
    if origin.settings is None:
        needed = local_model.shapes(origin.width, origin.landmarks)
    else:
        points, kernel = origin.settings.intermediate, origin.settings.kernel
        needed = {
            "heatmaps.weight": (origin.landmarks * points, origin.width, kernel, kernel),
            "readout": (origin.landmarks, 2 * points, 2),
        }
    if needed != {name: tuple(value.shape) for name, value in tensors.items()}:
        raise ValueError("its tensors have other names or shapes than it says")


def _empty(origin: Origin) -> Regressor:
    if origin.settings is None:
        return LocalModel(origin.width, origin.landmarks)
    return LandmarkRegressor(origin.width, origin.landmarks, origin.settings)


def _no_regressor(path: Path, error: Exception) -> CheckpointError:
    why = " ".join(str(error).split())[:300]
    return CheckpointError(f"{path}: holds no landmark regressor ({why}); {REMEDY}")


def check_digests(path: Path, origin: Origin, found: dict[str, str]) -> None:
    """Raise CheckpointError where the given features, of weights `found`, are not those of the
    regressor.
    """
    for part in ("backbone", "projector"):
        needed, given = origin.digests.get(part), found.get(part)
        if needed and not given:
            raise CheckpointError(
                f"{path}: was trained on features of a {part}, and none was given; give --run RUN "
                f"with the stage that has it"
            )
        if needed and given and needed != given:
            raise CheckpointError(
                f"{path}: was trained on features of another {part} (SHA-256 {needed[:12]}) than "
                f"was given ({given[:12]}); give the checkpoint that it was trained with"
            )
