"""What a run will do, from its settings: its data and their order, its steps, its first state."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scemae.config.schema.training import CorrespondConfig, Data, Optim, PretrainConfig, Runtime
from scemae.data.order import Order, accumulation_steps
from scemae.data.read_ahead import check_cache, streams_of
from scemae.data.storage.joined import Grown
from scemae.data.storage.shard_set import ShardSet
from scemae.data.training_set import make_order, open_set
from scemae.distributed import engine as engines
from scemae.distributed.process_group import Place, agree, precision, ranks_of_node
from scemae.errors import ConfigError, ScemaeError
from scemae.runs import data_parts
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.training.loop import Steps

# Of the section data: where the shards are, and the order, whose settings it names itself.
NO_RECIPE = (
    *("shards", "append", "mix", "subset", "cache_dir", "cache_gb", "max_bad_fraction"),
    *("order", "lanes", "block", "window"),
)


def plan(shards: ShardSet, config: PretrainConfig | CorrespondConfig, place: Place) -> Steps:
    """The steps of a run, 0 for no epochs: its result is then the initial weights.

    Raises ConfigError where images or ranks are too few for the batch.
    """
    optim, loop, size = config.optim, config.loop, config.optim.global_batch_size
    if len(shards) < size:
        raise ConfigError(
            f"optim.global_batch_size={size}: found only {len(shards)} images in {shards.folder}; "
            "give more images or a smaller batch"
        )
    if size < place.world_size:
        raise ConfigError(
            f"optim.global_batch_size={size}: found {place.world_size} ranks, each needs at least "
            "one image; raise the batch or start fewer ranks"
        )
    images = order_of(config, shards).images(optim.epochs)
    total = max(round(images / size), 1 if optim.epochs else 0)
    accumulation = accumulation_steps(size, place.world_size, config.runtime.micro_batch_size)
    return Steps(0, total, accumulation, loop.log_every, loop.save_every, loop.probe_every, size)


def settings(
    parts: dict,
    data: Data,
    optim: Optim,
    runtime: Runtime,
    place: Place,
    order: dict[str, Any] | None = None,
) -> dict:
    """The settings that a resumed run must share with its checkpoint: all that change results.

    parts: the method's own; order: those of the order.
    """
    recipe = {name: value for name, value in asdict(data).items() if name not in NO_RECIPE}
    dtype = str(precision(runtime.precision, place.device)).removeprefix("torch.")
    return {
        **parts,
        "data": recipe | (order or {}),
        "optim": asdict(optim),
        "precision": "tf32" if runtime.precision == "tf32" else dtype,
    }


def state_of(
    config: PretrainConfig | CorrespondConfig,
    stage: str,
    parts: dict,
    place: Place,
    shards: ShardSet,
) -> TrainState:
    """The state of a run before its first step. parts: the method's own settings."""
    order = order_of(config, shards)
    return TrainState(
        0,
        config.seed,
        place.world_size,
        engines.zero_stage(config.runtime, place),
        stage,
        settings(parts, config.data, config.optim, config.runtime, place, order.settings),
        shards.digest,
        order.version,
    )


def open_data(
    config: PretrainConfig | CorrespondConfig, place: Place, note: Callable[[], None]
) -> ShardSet:
    """The shards of a run; `note` is called while bytes of them arrive.

    Raises ShardError, ConfigError where the cache is too small.
    """
    shards = open_set(config.data, config.optim.global_batch_size, note=note)
    joins, problem = agree(_joins(config, shards) if place.is_first else None)
    if problem:
        raise ConfigError(problem)
    if isinstance(shards, Grown):
        shards.joins = joins
    if streams := streams_of(shards, order_of(config, shards)):
        check_cache(streams, place.world_size, ranks_of_node(place))
    return shards


def _joins(
    config: PretrainConfig | CorrespondConfig, shards: ShardSet
) -> tuple[list[int], str | None]:
    """On rank 0, where appended parts join, and why they cannot."""
    try:
        return data_parts.joins(Path(config.run_dir), shards, order_of(config, shards)), None
    except ScemaeError as error:
        return [], str(error)


def order_of(config: PretrainConfig | CorrespondConfig, shards: ShardSet) -> Order:
    """The order in which a run takes its samples."""
    return make_order(shards, config.seed, config.optim.global_batch_size, config.data)
