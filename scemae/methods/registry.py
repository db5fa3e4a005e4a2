"""From the name of a method to its file in scemae/methods, and from settings to what trains: the rivals' way into both stages.

A method is one file, scemae/methods/NAME.py, and one config, configs/method/NAME.yaml. The file says its `STAGE` (1 or 2),
has its `Settings`, and `build`s the module that is trained; of stage 1 also the `views` that its forward takes. A module whose
graph is so large that compiling it takes minutes says `worth_compiling = False`, and runtime.compile=auto heeds it. The paper's
own stages, "mae" and "carb", are training/pretrain.py and training/correspond.py themselves.
"""

import importlib
import pkgutil
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from scemae import methods
from scemae.config.schema.training import Method
from scemae.distributed import zero_state
from scemae.errors import CheckpointError, ConfigError
from scemae.files import documents
from scemae.runs.checkpoints.checkpoint import MANIFEST

OWN = {1: "mae", 2: "carb"}  # the paper's stages
DEEPEST = 64  # levels and blocks of a network that a checkpoint describes


def find(name: str, stage: int) -> ModuleType:
    """The file of a rival's stage. Raises ConfigError, naming those there are, where it is none."""
    files = [info.name for info in pkgutil.iter_modules(methods.__path__)]
    module = _read(name) if name in files else None
    if module is None or module.STAGE != stage:
        known = [OWN[stage], *(file for file in files if _has_stage(file, stage))]
        raise ConfigError(
            f"method: found {name!r}, stage {stage} has {', '.join(known)}; give method=NAME of one of them"
        )
    return module


def _has_stage(name: str, stage: int) -> bool:
    """Whether a rival is of this stage, and its packages are there."""
    try:
        return _read(name).STAGE == stage
    except ConfigError:
        return False


def _read(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{methods.__name__}.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"method={name}: needs the package {error.name}; `pip install 'scemae[rivals]'`"
        ) from error


def settings_of(module: ModuleType, given: dict[str, Any]) -> Any:
    """A method's `Settings` from plain values. Raises ConfigError for one that it does not have, or of another type."""
    known = {part.name: part.type for part in fields(module.Settings)}
    title = module.__name__.rpartition(".")[2]
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"method.settings.{key}: found no such setting of {title}, which has {', '.join(known)}"
            )
        kinds = (int, float) if known[key] is float else (known[key],)
        if not isinstance(value, kinds) or isinstance(value, bool) != (known[key] is bool):
            raise ConfigError(
                f"method.settings.{key}: found {value!r}, {title} needs a {known[key].__name__}"
            )
    return module.Settings(
        **{key: float(value) if known[key] is float else value for key, value in given.items()}
    )


def kept_settings(module: ModuleType, kept: Method, where: Path) -> Any:
    """A method's `Settings` from its checkpoint `where`. Raises CheckpointError."""
    name = f"{where / MANIFEST}: settings.method.settings"
    settings = documents.convert(kept.settings, module.Settings, name, error=CheckpointError)
    if deep := next(
        (key for key in ("depth", "blocks") if getattr(settings, key, 0) > DEEPEST), None
    ):
        raise CheckpointError(
            f"{name}.{deep}: found {getattr(settings, deep)}, at most {DEEPEST} was needed; restore it"
        )
    return settings


def described(name: str, settings: Any) -> dict[str, Any]:
    """What a checkpoint keeps of a rival, to build it again."""
    return {"name": name, "settings": asdict(settings)}


def check_runtime(name: str, module: nn.Module, dtype: torch.dtype, zero_stage: int) -> None:
    """Refuse what would go wrong without a word. Raises ConfigError."""
    delicate = hasattr(module, "after_step") or any(
        isinstance(part, nn.BatchNorm2d) for part in module.modules()
    )
    if delicate and dtype != torch.float32:
        raise ConfigError(
            f"method={name}: found bf16, in which the small steps of a momentum encoder vanish and BatchNorm's "
            "statistics do not fit the weights; give runtime.precision=fp32"
        )
    if zero_state.not_optimized(module) and zero_stage == 3:
        raise ConfigError(
            f"method={name}: found runtime.zero_stage=3, under which what no optimizer moves (a momentum "
            "encoder, BatchNorm's statistics) is not kept whole; give runtime.zero_stage 0, 1 or 2"
        )


def load(module: nn.Module, weights: dict[str, torch.Tensor], where: object) -> nn.Module:
    """Give a freshly built rival the weights of its checkpoint. Raises CheckpointError where they are of another model."""
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{where}: its weights are of another model ({' '.join(str(error).split())[:200]}); it was "
            "written by another version of scemae"
        ) from error
    return module.eval().requires_grad_(False)
