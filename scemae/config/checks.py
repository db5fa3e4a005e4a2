"""`check` refuses settings that contradict each other or are out of range, in one sentence."""

from typing import Any

from scemae.config import inputs
from scemae.config.closest import hint
from scemae.config.dotted import get_setting
from scemae.config.schema.evaluation import EvaluateConfig, TablesConfig
from scemae.config.schema.jobs import SubmitConfig, SweepConfig
from scemae.config.schema.training import CorrespondConfig, PretrainConfig
from scemae.errors import ConfigError

# Settings of a training stage that must be above 0, and at least 0.
POSITIVE = (
    *("optim.global_batch_size", "optim.lr"),
    *("data.lanes", "data.block", "data.window"),
    *("loop.log_every", "loop.save_every", "loop.keep", "loop.probe_pairs"),
    *("runtime.micro_batch_size", "runtime.hang_seconds"),
)
NOT_NEGATIVE = (
    *(
        "optim.epochs",
        "optim.warmup_epochs",
        "optim.min_lr",
        "optim.weight_decay",
        "optim.clip_grad",
    ),
    *("loop.probe_every", "loop.keep_every", "loop.spike_factor", "loop.max_skips"),
    "data.max_bad_fraction",
)
POSITIVE_IN_TABLES = (
    *("matching.couples", "matching.chunk", "runtime.batch_size"),
    *("detection.epochs", "detection.batch_size", "detection.lr", "detection.init_std"),
    *("few_shot.images_per_epoch", "few_shot.epochs", "few_shot.batch_size", "few_shot.lr"),
    *("few_shot.init_std", "few_shot.views"),
    *("embedding.images", "embedding.repeats", "embedding.perplexity"),
)


def check(config: Any) -> None:
    """Refuse settings that contradict each other. Raises ConfigError."""
    if isinstance(config, SubmitConfig):
        _check_submission(config)
        return
    if isinstance(config, SweepConfig):
        _check_sweep(config)
        return
    one_of("runtime.device", config.runtime.device, ("auto", "cpu", "cuda"))
    trains = isinstance(config, PretrainConfig | CorrespondConfig)
    precisions = ("auto", "fp32", "bf16", *(["tf32"] if trains else []))
    one_of("runtime.precision", config.runtime.precision, precisions)
    at_least("seed", config.seed, 0)
    if isinstance(config, EvaluateConfig):
        _check_evaluation(config)
        return
    if isinstance(config, TablesConfig):
        _check_tables(config)
        return
    _check_training(config)
    if isinstance(config, PretrainConfig):
        _check_model(config)
    else:
        _check_carb(config)


def one_of(key: str, found: Any, allowed: tuple) -> None:
    """Raise ConfigError unless `found` is allowed."""
    if found not in allowed:
        needed = f"one of {', '.join(map(str, allowed))} was needed{hint(found, allowed)}"
        raise ConfigError(f"{key}: found {found}, {needed}")


def at_least(key: str, found: float, least: float) -> None:
    """Raise ConfigError unless `found` is a number of `least` or more."""
    if not found >= least:
        raise ConfigError(f"{key}: found {found}, a number of at least {least} was needed")


def above_0(key: str, found: float) -> None:
    """Raise ConfigError unless `found` is a finite number above 0."""
    if not 0 < found < float("inf"):
        raise ConfigError(f"{key}: found {found}, a number above 0 was needed")


def _check_training(config: PretrainConfig | CorrespondConfig) -> None:
    data, optim, loop, runtime = config.data, config.optim, config.loop, config.runtime
    one_of("optim.name", optim.name, ("adamw", "adam", "sgd"))
    one_of("runtime.zero_stage", runtime.zero_stage, ("auto", 0, 1, 2, 3))
    one_of("data.order", data.order, ("auto", "whole", "lanes"))
    one_of("data.decoder", data.decoder, ("cpu", "nvjpeg"))
    if data.decoder == "nvjpeg" and (data.jpeg_noise or runtime.tier not in ("auto", "streaming")):
        raise ConfigError(
            "data.decoder=nvjpeg: found data.jpeg_noise=true or a resident runtime.tier; nvjpeg "
            "decodes only streamed images without noise, give data.jpeg_noise=false and "
            "runtime.tier=streaming, or data.decoder=cpu"
        )
    one_of("runtime.tier", runtime.tier, ("auto", "gpu", "host", "streaming"))
    if runtime.workers != "auto" and not (isinstance(runtime.workers, int) and runtime.workers > 0):
        raise ConfigError(
            f"runtime.workers: found {runtime.workers}, auto or a number above 0 was needed"
        )
    one_of("runtime.compile", runtime.compile, ("auto", True, False))
    one_of("runtime.tracker", runtime.tracker, (inputs.NO_TRACKER, *inputs.TRACKERS))
    if runtime.offload and runtime.zero_stage == 0:
        raise ConfigError(
            "runtime: found offload=true with zero_stage=0, which does not partition the "
            "optimizer's state; give zero_stage 1, 2 or 3, or offload=false"
        )
    for key in POSITIVE:
        above_0(key, get_setting(config, key))
    for key in NOT_NEGATIVE:
        at_least(key, get_setting(config, key), 0)
    computes = isinstance(config, CorrespondConfig) and config.carb.init == "lda"
    if not optim.epochs and not computes:
        raise ConfigError(
            "optim.epochs=0: trains nothing; give more than 0, or with carb.init=lda, which "
            "computes the projector, 0"
        )
    at_least("data.frame", data.frame, 96)
    _check_pairs(data.scale, optim.betas)
    if loop.save_every % loop.log_every or loop.probe_every % loop.log_every:
        raise ConfigError(
            f"loop: save_every {loop.save_every} and probe_every {loop.probe_every} must be "
            f"multiples of log_every {loop.log_every}, so that each save follows a checked loss"
        )


def _check_pairs(scale: list[float], betas: list[float]) -> None:
    """Refuse a data.scale or optim.betas that is not two numbers in their range."""
    for key, found in (("data.scale", scale), ("optim.betas", betas)):
        if not all(type(one) in (int, float) for one in found):
            raise ConfigError(f"{key}: found {str(list(found))[:80]}, two numbers were needed")
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigError(f"data.scale: found {scale}, two shares 0 < low <= high <= 1 were needed")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"optim.betas: found {betas}, two numbers from 0 to below 1 were needed")


def _check_submission(config: SubmitConfig) -> None:
    cluster = config.cluster
    one_of("cluster.kind", cluster.kind, ("batch", "local"))
    for name in ("nodes", "ranks_per_node", "cpus_per_task", "time", "signal"):
        above_0(f"cluster.{name}", getattr(cluster, name))
    above_0("parts", config.parts)
    for name in ("gpus_per_node", "max_restarts"):
        at_least(f"cluster.{name}", getattr(cluster, name), 0)
    if cluster.kind == "local" and cluster.nodes > 1:
        raise ConfigError(
            f"cluster.nodes: found {cluster.nodes} with cluster=local, which uses this machine "
            "only; give 1"
        )
    if 60 * cluster.time <= cluster.signal:
        raise ConfigError(
            f"cluster: found time {cluster.time} minutes and signal {cluster.signal} seconds "
            "before its end, so a job would be stopped at its start; give more time"
        )


def _check_sweep(config: SweepConfig) -> None:
    one_of("search", config.search, ("random", "grid", "tpe"))
    at_least("seed", config.seed, 0)
    for key in ("trials", "jobs", "trial.ranks", "trial.cpus"):
        above_0(key, get_setting(config, key))
    for key in ("trial.gpus", "retries", "keep"):
        at_least(key, get_setting(config, key), 0)
    if config.concurrency != "auto" and not (
        isinstance(config.concurrency, int) and config.concurrency > 0
    ):
        raise ConfigError(
            f"concurrency: found {config.concurrency}, auto or a number above 0 was needed"
        )
    if not 1 <= len(config.objectives) <= 2 or len(set(config.objectives)) < len(config.objectives):
        raise ConfigError(
            f"objectives: found {list(config.objectives)}, one or two different ones were needed"
        )
    for objective in config.objectives:
        one_of("objectives", objective, ("different", "same", "cycle"))
    if not 0 < config.halving.grace <= 1 or config.halving.reduction < 2:
        raise ConfigError(
            f"halving: found grace {config.halving.grace}, reduction {config.halving.reduction}; "
            "needed are 0 < grace <= 1 and a reduction of at least 2"
        )


def _check_evaluation(config: EvaluateConfig) -> None:
    one_of("stride", config.stride, (1, 2, 4, 8))
    one_of("detection.stride", config.detection.stride, (1, 2, 4, 8))
    _check_measures(config)
    above_0("runtime.batch_size", config.runtime.batch_size)
    for name in ("epochs", "batch_size", "lr", "init_std"):
        above_0(f"detection.{name}", getattr(config.detection, name))
    above_0("matching.couples", config.matching.couples)
    if config.run and (config.backbone or config.projector):
        raise ConfigError(
            "found run and backbone or projector; give run=RUN alone, which finds the backbone, or "
            "the two others"
        )
    if config.also and not (config.projector or config.run):
        raise ConfigError("also: found no projector that they come after; give projector=RUN first")
    if bool(config.detection.train) != bool(config.detection.test):
        raise ConfigError(
            "found only one of detection.train and detection.test; give both, or neither"
        )
    if not config.matching.shards and not config.detection.train:
        raise ConfigError(
            "found neither matching.shards nor detection.train and detection.test; give the shards "
            "of at least one test"
        )


def _check_measures(config: EvaluateConfig | TablesConfig) -> None:
    """Settings of ours that `evaluate` and `tables` share (PROTOCOL 4.7, 7)."""
    at_least("matching.place_images", config.matching.place_images, 0)
    detection = config.detection
    for name in ("stage_2_weights", "weight_decays"):
        values = getattr(detection, name)
        if not values:
            raise ConfigError(f"detection.{name}: found an empty list, needed at least one number")
        for value in values:
            at_least(f"detection.{name}", value, 0)


def _check_tables(config: TablesConfig) -> None:
    one_of("stride", config.stride, (1, 2, 4, 8))
    one_of("detection.stride", config.detection.stride, (1, 2, 4, 8))
    _check_measures(config)
    detection, few_shot = config.detection, config.few_shot
    for key in POSITIVE_IN_TABLES:
        above_0(key, get_setting(config, key))
    if detection.kernel % 2 == 0:
        raise ConfigError(
            f"detection.kernel: found {detection.kernel}, needed an odd number so that maps keep "
            "their size"
        )
    for key, every in detection.hold_out.items():
        at_least(f"detection.hold_out.{key}", every, 2)
    for key, found in (("few_shot.counts", few_shot.counts), ("few_shot.seeds", few_shot.seeds)):
        if not found or len(set(found)) != len(found) or min(found) < (key == "few_shot.counts"):
            raise ConfigError(
                f"{key}: found {list(found)}, different whole numbers were needed, at least one"
                + (" and none below 1" if key == "few_shot.counts" else "")
            )


def _check_model(config: PretrainConfig) -> None:
    model = config.model
    for name, part in (("model", model), ("decoder", config.decoder)):
        above_0(f"{name}.depth", part.depth)
        above_0(f"{name}.heads", part.heads)
        if part.width <= 0 or part.width % (4 * part.heads):
            raise ConfigError(
                f"{name}: width {part.width} must be a multiple of 4 times heads {part.heads}"
            )
    if model.depth < 4:
        raise ConfigError(
            f"model.depth: found {model.depth}; clustering follows the third block and reads the "
            "fourth, so at least 4 are needed"
        )
    if (model.patch_size, model.image_size) != (8, 96):
        raise ConfigError(
            f"model: found patch_size {model.patch_size} and image_size {model.image_size}; the "
            "protocols and cover-and-stride are those of patch 8 at 96 pixels"
        )
    if not 1 / 144 <= config.mask_ratio <= 143 / 144:
        raise ConfigError(
            f"mask_ratio: found {config.mask_ratio}, a number between 0 and 1 that hides "
            "and keeps at least one of 144 patches was needed"
        )


def _check_carb(config: CorrespondConfig) -> None:
    carb = config.carb
    one_of("carb.projector", carb.projector, ("linear", "spatial_softmax", "conv3", "mlp"))
    one_of("carb.place_unit", carb.place_unit, ("grid", "pixels"))
    one_of("carb.reduction", carb.reduction, ("mean", "sum"))
    one_of("carb.heads", carb.heads, ("mean", "joint"))
    one_of("carb.layer", carb.layer, ("after", "inside"))
    one_of("carb.density", carb.density, ("mean", "knn"))
    one_of("carb.init", carb.init, ("random", "lda"))
    one_of("carb.remaining", carb.remaining, ("selected", "all"))
    above_0("carb.dim", carb.dim)
    above_0("views", config.views)
    for name in ("r_att_att", "r_att_inatt", "r_inatt_inatt"):
        at_least(f"carb.{name}", getattr(carb, name), 0)
    if not 0 < carb.eta < 1 or not carb.tau > 0 or carb.clusters < 1:
        raise ConfigError(
            f"carb: found eta {carb.eta}, tau {carb.tau}, clusters {carb.clusters}; needed are "
            "0 < eta < 1, tau > 0 and at least 1 cluster"
        )
