"""Find a method by its name, read its settings, load what it trained.

A method is one file, scemae/methods/NAME.py, and one config, configs/method/NAME.yaml. The file has

    STAGE            1 or 2
    TITLE, ROLE      its name in the tables, and whether its rows are "ours" or a "rival"'s there
    Settings         a dataclass; method.settings.KEY=VALUE on the command line sets a field
    build(settings, seed=...)
                     the module that is trained, freshly initialised. Its forward takes the tensors
                     named below and the weights (b,) of the images, and returns the sum over images
                     of weight * loss. In stage 2 the frozen trunk comes after the settings

and, if it is a stage 1,

    views(settings, size=..., scale=...)
                     a function that makes the forward's arguments, weights included, from a Batch
    module.trunk     the part of the module that stage 2 freezes and that evaluation measures

or, if it is a stage 2,

    check(settings, trunk)
                     raises ConfigError where the method cannot be trained on this trunk
    embed(settings, trunk, images)
                     the frozen trunk's outputs for normalised images: the forward's arguments
    STORED           True if the token store keeps that, False if it is computed again for each view
    module.head(maps, side)
                     projected features of the trunk's maps, (b, dim, side, side), of any length
    settings.dim     how many dimensions these have

It may also have

    SETTINGS_AT_TOP = True
                     its Settings are those of the run itself (model, carb), not method.settings
    step_flops(settings), in stage 2 step_flops(settings, trunk)
                     operations of one image in a training step; without it MFU is not reported
    wants_crops(settings), start(module, trunk, crops), in stage 2
                     initial weights that depend on data: where `wants_crops` says so, `start` is
                     given batches of data.pipeline.crop_pairs, of images with their frames
    load_trunk(folder)
                     the trunk of a checkpoint that may hold less than the whole module
    module.after_step()
                     called after each optimizer step; a momentum encoder moves there
    module.worth_compiling = False
                     runtime.compile=auto leaves it alone, since its graph takes minutes to compile
"""

import importlib
import pkgutil
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from scemae import methods
from scemae.config.dotted import recorded
from scemae.config.schema.training import CorrespondConfig, Method, PretrainConfig
from scemae.distributed import zero_state
from scemae.errors import CheckpointError, ConfigError
from scemae.files import documents
from scemae.runs import networks
from scemae.runs.checkpoints import checkpoint

UNNAMED = {1: "mae", 2: "carb"}  # the method of a checkpoint whose settings name none, by stage
DEEPEST = 64  # levels and blocks of a network that a checkpoint may state


def find(name: str, stage: int) -> ModuleType:
    """The file of a method of this stage. Raises ConfigError, naming those there are."""
    files = [info.name for info in pkgutil.iter_modules(methods.__path__)]
    module = _read(name) if name in files else None
    if module is None or getattr(module, "STAGE", None) != stage:
        known = ", ".join(file for file in files if _has_stage(file, stage))
        raise ConfigError(
            f"method: found {name!r}, stage {stage} has {known}; give method=NAME of one of them"
        )
    return module


def _has_stage(name: str, stage: int) -> bool:
    """Whether a file is a method of this stage whose packages are installed."""
    try:
        return getattr(_read(name), "STAGE", None) == stage
    except ConfigError:
        return False


def _read(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{methods.__name__}.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"method={name}: needs the package {error.name}; `pip install 'scemae[rivals]'`"
        ) from error


def settings_of(method: ModuleType, config: PretrainConfig | CorrespondConfig) -> Any:
    """A method's `Settings` from those of a run.

    Raises ConfigError for an entry of method.settings that it does not have, or of another type.
    """
    known: dict[str, Any] = {part.name: part.type for part in fields(method.Settings)}
    if has_settings_at_top(method):
        return method.Settings(**{name: getattr(config, name) for name in known})
    given, title = config.method.settings, name_of(method)
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"method.settings.{key}: found no such setting of {title}, which has "
                + ", ".join(known)
            )
        kinds = (int, float) if known[key] is float else (known[key],)
        if not isinstance(value, kinds) or isinstance(value, bool) != (known[key] is bool):
            raise ConfigError(
                f"method.settings.{key}: found {value!r}, {title} needs a {known[key].__name__}"
            )
    typed = {key: float(value) if known[key] is float else value for key, value in given.items()}
    return method.Settings(**typed)


def has_settings_at_top(method: ModuleType) -> bool:
    """Whether the method's settings are settings of the run itself, and not method.settings."""
    return getattr(method, "SETTINGS_AT_TOP", False)


def name_of(method: ModuleType) -> str:
    """The name that `find` finds the method by."""
    return method.__name__.rpartition(".")[2]


def described(method: ModuleType, settings: Any) -> dict[str, Any]:
    """What a checkpoint keeps of a method, to build it again."""
    if has_settings_at_top(method):
        parts = {part.name: getattr(settings, part.name) for part in fields(settings)}
        return {name: recorded(one) if is_dataclass(one) else one for name, one in parts.items()}
    return {"method": {"name": name_of(method), "settings": asdict(settings)}}


@dataclass
class _Named:
    """The part of a checkpoint's settings that names its method."""

    method: Method | None = None


def method_of(folder: Path, kept: dict[str, Any], stage: int) -> str:
    """The name of the method in a checkpoint's settings. Raises CheckpointError."""
    named = networks.settings_of(folder, kept, _Named).method
    return UNNAMED[stage] if named is None else named.name


def kept_settings(method: ModuleType, kept: dict[str, Any], folder: Path) -> Any:
    """A method's `Settings` from those of its checkpoint. Raises CheckpointError."""
    where = f"{folder / checkpoint.MANIFEST}: settings"
    if not has_settings_at_top(method):
        kept, where = kept["method"]["settings"], f"{where}.method.settings"
    settings = documents.convert(kept, method.Settings, where, error=CheckpointError)
    for key in ("depth", "blocks"):
        if getattr(settings, key, 0) > DEEPEST:
            raise CheckpointError(
                f"{where}.{key}: found {getattr(settings, key)}, at most {DEEPEST} was needed; "
                "restore it"
            )
    return settings


def check_runtime(name: str, module: nn.Module, dtype: torch.dtype, zero_stage: int) -> None:
    """Refuse a precision or ZeRO stage that would spoil the training of `module` unnoticed.

    Raises ConfigError.
    """
    is_delicate = hasattr(module, "after_step") or has_batch_norm(module)
    if is_delicate and dtype != torch.float32:
        raise ConfigError(
            f"method={name}: found bf16, in which the small steps of a momentum encoder vanish and "
            "BatchNorm's statistics do not fit the weights; give runtime.precision=fp32"
        )
    if zero_state.not_optimized(module) and zero_stage == 3:
        raise ConfigError(
            f"method={name}: found runtime.zero_stage=3, under which what no optimizer moves (a "
            "momentum encoder, BatchNorm's statistics) is not kept whole; give runtime.zero_stage "
            "0, 1 or 2"
        )


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a network has running statistics, which need fp32."""
    return any(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def wants_crops(method: ModuleType, settings: Any) -> bool:
    """Whether the method computes initial weights from crops of training images."""
    return hasattr(method, "wants_crops") and method.wants_crops(settings)


def step_flops(method: ModuleType, settings: Any, *trunk: nn.Module) -> float:
    """Floating-point operations of a training step per image; 0 where the method counts none."""
    return method.step_flops(settings, *trunk) if hasattr(method, "step_flops") else 0.0


@dataclass
class Trained:
    """What a checkpoint holds: the frozen module of a method, and how it was built."""

    name: str  # of the method
    settings: Any
    module: Any  # nn.Module
    folder: Path  # the checkpoint


def load_trunk(location: Path) -> tuple[nn.Module, Path]:
    """The frozen trunk of a stage-1 run folder or checkpoint, and the checkpoint.

    Raises CheckpointError.
    """
    folder, kept = checkpoint.stage_1(location)
    method = find(method_of(folder, kept, 1), 1)
    if hasattr(method, "load_trunk"):
        return method.load_trunk(folder), folder
    return _load(method, folder, kept).module.trunk, folder


def load_stage_2(location: Path, backbone: Path, trunk: nn.Module) -> Trained:
    """The trained part of a stage-2 run folder or checkpoint.

    backbone: the checkpoint that the frozen `trunk` is of. Raises CheckpointError where the run was
    trained on another one: its features would mean nothing.
    """
    folder = checkpoint.newest(checkpoint.within(location, "correspond"))
    state = checkpoint.read_state(folder)
    if state.stage != "correspond":
        raise CheckpointError(
            f"{folder}: found a checkpoint of `scemae {state.stage}`, one of `scemae correspond` "
            "was needed; give projector=RUN of stage 2"
        )
    networks.check_backbone(folder, state, backbone)
    method = find(method_of(folder, state.settings, 2), 2)
    return _load(method, folder, state.settings, trunk)


def _load(method: ModuleType, folder: Path, kept: dict[str, Any], *trunk: nn.Module) -> Trained:
    """Build a method's module as its checkpoint describes it, and give it the weights."""
    settings = kept_settings(method, kept, folder)
    build = partial(method.build, settings, *trunk, seed=0)
    module = networks.sized(build, checkpoint.read_shapes(folder), folder)
    networks.fill(module, checkpoint.read_weights(folder), folder)
    return Trained(name_of(method), settings, module.eval().requires_grad_(False), folder)
