"""The one door to settings: `load` composes configs/*.yaml with Hydra, applies overrides, checks the result.

A misspelt key, a wrong type or settings that contradict each other fail here, in one sentence.
"""

import difflib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from scemae.errors import ConfigError
from scemae.schema import Carb, CorrespondConfig, EvaluateConfig, PretrainConfig


SCHEMAS = {"pretrain": PretrainConfig, "correspond": CorrespondConfig, "evaluate": EvaluateConfig}


def configs_dir() -> Path:
    """The folder of YAML files: beside this module when installed, beside the package in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def load(name: str, overrides: list[str]) -> Any:
    """Compose configs/<name>.yaml with Hydra, apply `key=value` overrides, check it; return the dataclass.

    Raises ConfigError in one sentence for a misspelt key, a wrong type or settings that contradict each other.
    """
    from omegaconf import OmegaConf

    merged = _merge(name, overrides)
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ConfigError(f"found no value for {', '.join(missing)}; give {missing[0]}=... on the command line")
    config = OmegaConf.to_object(merged)
    check(config)
    return config


def compose(name: str, overrides: list[str]) -> str:
    """The resolved config of a command as YAML; what must still be given reads ???."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(_merge(name, overrides))


def _merge(name: str, overrides: list[str]) -> Any:
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    _check_keys(name, overrides)
    try:
        with hydra.initialize_config_dir(str(configs_dir()), version_base="1.3"):
            composed = hydra.compose(name, overrides=overrides)
        return OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(name, error)) from error


def keys(schema: type, prefix: str = "") -> list[str]:
    """The dotted name of every setting of a schema, sections too."""
    found = []
    for part in fields(schema):
        found.append(prefix + part.name)
        if is_dataclass(part.type):
            found += keys(part.type, f"{prefix}{part.name}.")
    return found


def _check_keys(name: str, overrides: list[str]) -> None:
    known = [*keys(SCHEMAS[name]), "experiment"]
    for override in overrides:
        key, equals, _ = override.partition("=")
        key = key.lstrip("+~")
        if not equals:
            raise ConfigError(f"found {override!r}, key=value was needed")
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            raise ConfigError(f"found no setting {key!r}" + (f", did you mean {close[0]!r}" if close else "")
                              + f"; `scemae {name} --cfg` prints every one with its value")


def to_yaml(config: Any) -> str:
    """The resolved config as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


def check(config: Any) -> None:
    """Refuse settings that contradict each other. Raises ConfigError."""
    one_of("runtime.device", config.runtime.device, ("auto", "cpu", "cuda"))
    one_of("runtime.precision", config.runtime.precision, ("auto", "fp32", "bf16"))
    one_of("runtime.zero_stage", config.runtime.zero_stage, (0, 1, 2, 3))
    if isinstance(config, EvaluateConfig):
        one_of("stride", config.stride, (1, 2, 4, 8))
        one_of("detection.stride", config.detection.stride, (1, 2, 4, 8))
        if config.projector and not config.backbone:
            raise ConfigError("evaluate: found a projector without a backbone; give backbone=RUN of stage 1 as well")
        return
    positive = {"optim.global_batch_size": config.optim.global_batch_size, "optim.epochs": config.optim.epochs,
                "runtime.micro_batch_size": config.runtime.micro_batch_size, "loop.log_every": config.loop.log_every,
                "loop.save_every": config.loop.save_every, "loop.keep": config.loop.keep,
                "runtime.workers": config.runtime.workers}
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{key}: found {value}, a number above 0 was needed")
    if config.loop.save_every % config.loop.log_every or config.loop.probe_every % config.loop.log_every:
        raise ConfigError(f"loop: save_every {config.loop.save_every} and probe_every {config.loop.probe_every} must "
                          f"be multiples of log_every {config.loop.log_every}, so that each save follows a checked loss")
    if isinstance(config, PretrainConfig):
        _check_model(config)
    else:
        _check_carb(config.carb)


def one_of(key: str, found: Any, allowed: tuple) -> None:
    """Raise ConfigError unless `found` is allowed."""
    if found not in allowed:
        raise ConfigError(f"{key}: found {found}, one of {', '.join(map(str, allowed))} was needed")


def _check_model(config: PretrainConfig) -> None:
    for name, part in (("model", config.model), ("decoder", config.decoder)):
        if part.width % (4 * part.heads):
            raise ConfigError(f"{name}: width {part.width} must be a multiple of 4 times heads {part.heads}")
    if config.model.depth < 4:
        raise ConfigError(f"model.depth: found {config.model.depth}; clustering follows the third block and reads the "
                          "fourth, so at least 4 are needed")
    if config.model.image_size % config.model.patch_size:
        raise ConfigError(f"model: image_size {config.model.image_size} must be a multiple of patch_size "
                          f"{config.model.patch_size}")
    if not 0 < config.mask_ratio < 1:
        raise ConfigError(f"mask_ratio: found {config.mask_ratio}, a number between 0 and 1 was needed")


def _check_carb(carb: Carb) -> None:
    one_of("carb.projector", carb.projector, ("linear", "spatial_softmax", "conv3", "mlp"))
    one_of("carb.place_unit", carb.place_unit, ("grid", "pixels"))
    one_of("carb.reduction", carb.reduction, ("mean", "sum"))
    one_of("carb.heads", carb.heads, ("mean", "joint"))
    one_of("carb.layer", carb.layer, ("after", "inside"))
    one_of("carb.density", carb.density, ("mean", "knn"))
    one_of("carb.remaining", carb.remaining, ("selected", "all"))
    if not 0 < carb.eta < 1 or carb.tau <= 0 or carb.clusters < 1:
        raise ConfigError(f"carb: found eta {carb.eta}, tau {carb.tau}, clusters {carb.clusters}; needed are "
                          "0 < eta < 1, tau > 0 and at least 1 cluster")


def _explain(name: str, error: Exception) -> str:
    cause = error.__cause__ or error
    lines = [" ".join(line.split()) for line in str(cause).splitlines() if line.strip()]
    noise = ("object_type", "full_key", "reference_type", "Config ", "provider=")
    text = "; ".join(line for line in lines if not line.startswith(noise))
    where = f"{cause.full_key}: " if getattr(cause, "full_key", None) else ""
    return f"{where}{text.rstrip('.')}; `scemae {name} --cfg` prints every setting with its value"
