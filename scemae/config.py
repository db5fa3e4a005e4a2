"""The settings of each command: dataclass schemas, their validation, and the one door `load`.

Sections by consequence: model, decoder, carb, data, optim and loop change results; runtime (device, precision, ZeRO
stage, workers) should not. Values live in configs/*.yaml; a misspelt key or a wrong type fails here.
"""

import difflib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from scemae.errors import ConfigError


@dataclass
class Model:
    """The encoder. DeiT: T 192/3, S 384/6, B 768/12 wide/heads, 12 deep (PROTOCOL 1.3, 2.3)."""

    name: str = "deit_small"
    width: int = 384
    depth: int = 12
    heads: int = 6
    patch_size: int = 8
    image_size: int = 96


@dataclass
class Decoder:
    """The MAE decoder (PROTOCOL 1.6, 2.3): 512 wide, 8 deep, 16 heads unless a light one is asked for."""

    name: str = "mae"
    width: int = 512
    depth: int = 8
    heads: int = 16


@dataclass
class Data:
    """Shards to train on, and the image augmentation."""

    shards: str = "shards/train"
    cache_dir: str | None = None  # where shards named by a URL are copied
    frame: int = 178  # side of the square frame that crops are taken from, in pixels
    scale: list[float] = field(default_factory=lambda: [0.2, 1.0])  # RandomResizedCrop's share of the area
    jpeg_noise: bool = False


@dataclass
class Optim:
    """Adam's settings; lr is absolute (PROTOCOL 2.1)."""

    lr: float = 3e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.05
    decoupled: bool = True  # AdamW; False is Adam with L2
    warmup_epochs: float = 40
    min_lr: float = 0.0
    clip_grad: float = 0.0  # 0: none
    epochs: float = 400
    global_batch_size: int = 512


@dataclass
class Loop:
    """How often things happen, in global steps."""

    log_every: int = 10
    save_every: int = 500
    keep: int = 2  # newest checkpoints that stay
    probe_every: int = 0  # 0: never
    probe_pairs: int = 64


@dataclass
class Runtime:
    """Where and how it runs; results should not depend on it beyond rounding."""

    device: str = "auto"  # auto, cpu or cuda
    precision: str = "auto"  # auto (bf16 on cuda, fp32 on cpu), fp32 or bf16
    zero_stage: int = 1
    offload: bool = False  # optimizer state in host memory
    micro_batch_size: int = 512  # images per rank and micro-step, at most
    workers: int = 2  # decoding threads per rank


@dataclass
class PretrainConfig:
    """Stage 1: `scemae pretrain`."""

    run_dir: str = "???"
    seed: int = 0
    init_from: str | None = None
    mask_ratio: float = 0.75
    norm_pix: bool = False
    probe_shards: str | None = None  # shards with landmarks and identities other than the training set's
    model: Model = field(default_factory=Model)
    decoder: Decoder = field(default_factory=Decoder)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    loop: Loop = field(default_factory=Loop)
    runtime: Runtime = field(default_factory=Runtime)


@dataclass
class Carb:
    """CARB and the LCR loss (paper 3.2 and 3.3); [U] in PROTOCOL 1.6: a choice of ours."""

    eta: float = 0.1  # share of attentive tokens; 0.25 for B (paper 4)
    clusters: int = 4  # K_c (paper 4)
    r_att_att: float = 5.0  # Eq. 6 (paper 4)
    r_att_inatt: float = 5.0
    r_inatt_inatt: float = 2.0
    tau: float = 1 / 7  # Eq. 4 [U]; 1/8 for 64 dimensions
    dim: int = 128  # of the projected features
    projector: str = "linear"  # [U] linear, spatial_softmax, conv3, mlp
    place_unit: str = "grid"  # f_loc in "grid" cells or "pixels" [U]
    reduction: str = "mean"  # over i in Eq. 7: "mean" [U] or "sum" (as printed)
    heads: str = "mean"  # Eq. 1 per head, then "mean" [U], or "joint" (as printed)
    layer: str = "after"  # Eq. 1 from the block "after" the third or "inside" it [U]
    density: str = "mean"  # Eq. 2 over all tokens ("mean") or the nearest 5 ("knn") [U]
    remaining: str = "selected"  # CLS and T ("selected") or "all" tokens through blocks 4-12 [U]
    aggregate: bool = False  # a centre stands for its members by itself, or as their mean [U]


@dataclass
class CorrespondConfig:
    """Stage 2: `scemae correspond`."""

    run_dir: str = "???"
    backbone: str = "???"  # run folder or checkpoint of stage 1
    seed: int = 0
    probe_shards: str | None = None
    carb: Carb = field(default_factory=Carb)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    loop: Loop = field(default_factory=Loop)
    runtime: Runtime = field(default_factory=Runtime)


@dataclass
class Matching:
    """The matching test (PROTOCOL 3.4)."""

    shards: str | None = None
    couples: int = 500  # each gives a same and a different pair
    seed: int = 0


@dataclass
class Detection:
    """Landmark regression on all annotations (PROTOCOL 3.5, 3.6, 4.4)."""

    train: str | None = None
    test: str | None = None
    benchmark: str = "mafl"
    epochs: int = 200
    batch_size: int = 32
    lr: float = 1e-3
    limit: int | None = None  # training images, for a declared, reduced schedule
    stride: int = 2


@dataclass
class EvaluateConfig:
    """`scemae evaluate`: matching and detection for the ladder of features."""

    run_dir: str = "???"
    backbone: str | None = None  # run folder or checkpoint of stage 1
    projector: str | None = None  # run folder or checkpoint of stage 2
    seed: int = 0
    stride: int = 2  # of cover-and-stride, in pixels
    cache_dir: str | None = None
    matching: Matching = field(default_factory=Matching)
    detection: Detection = field(default_factory=Detection)
    runtime: Runtime = field(default_factory=Runtime)


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
        raise ConfigError(f"loop: save_every {config.loop.save_every} and probe_every {config.loop.probe_every} must be "
                          f"multiples of log_every {config.loop.log_every}, so that each save follows a checked loss")
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
        raise ConfigError(f"carb: found eta {carb.eta}, tau {carb.tau}, clusters {carb.clusters}; needed are 0 < eta < 1, "
                          "tau > 0 and at least 1 cluster")


def _explain(name: str, error: Exception) -> str:
    cause = error.__cause__ or error
    lines = [" ".join(line.split()) for line in str(cause).splitlines() if line.strip()]
    text = "; ".join(line for line in lines if not line.startswith(("object_type", "full_key", "reference_type", "Config ")))
    where = f"{cause.full_key}: " if getattr(cause, "full_key", None) else ""
    return f"{where}{text.rstrip('.')}; `scemae {name} --cfg` prints every setting with its value"
