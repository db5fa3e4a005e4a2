"""What both stages of training do once their parts are built: plan, resume, describe, train, save."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from scemae import checkpoint, engine as engines, run_folder, schedule
from scemae.checkpoint import TrainState
from scemae.data.order import Order, accumulation_steps
from scemae.data.pipeline import Pipeline
from scemae.data.reader import ShardSet
from scemae.distributed import Place, agree, precision
from scemae.errors import ConfigError
from scemae.loop import Steps, train
from scemae.metrics import Writer
from scemae.schema import CorrespondConfig, Data, Loop, Optim, PretrainConfig, Runtime

Batches = Callable[[Pipeline], Iterator[tuple]]  # a pipeline's batches to the engine's arguments


def plan(shards: ShardSet, optim: Optim, loop: Loop, runtime: Runtime, place: Place) -> Steps:
    """Steps of this run. Raises ConfigError where the images or the ranks do not fit the global batch."""
    size = optim.global_batch_size
    if len(shards) < size:
        raise ConfigError(f"optim.global_batch_size={size}: found only {len(shards)} images in {shards.folder}; give "
                          "more images or a smaller batch")
    if size < place.world_size:
        raise ConfigError(f"optim.global_batch_size={size}: found {place.world_size} ranks, each needs at least one "
                          "image; raise the batch or start fewer ranks")
    total = max(round(optim.epochs * len(shards) / size), 1)
    accumulation = accumulation_steps(size, place.world_size, runtime.micro_batch_size)
    return Steps(0, total, accumulation, loop.log_every, loop.save_every, loop.probe_every, size)


def settings(parts: dict, data: Data, optim: Optim, runtime: Runtime, place: Place) -> dict:
    """What a resumed run must have in common with its checkpoint: all that changes results, and the precision."""
    recipe = {name: value for name, value in asdict(data).items() if name not in ("shards", "cache_dir")}
    return {**parts, "data": recipe, "optim": asdict(optim),
            "precision": str(precision(runtime.precision, place.device)).removeprefix("torch.")}


def newest(run_dir: Path) -> Path | None:
    """The run's newest checkpoint as rank 0 sees it, on every rank (a shared file system may lag)."""
    found = checkpoint.committed(run_dir)
    name = agree(str(found[-1]) if found else None)
    return Path(name) if name else None


def run(config: PretrainConfig | CorrespondConfig, place: Place, engine, steps: Steps, state: TrainState,
        shards: ShardSet, batches: Batches, facts: dict, *, probe: Callable[[], dict[str, float]]) -> None:
    """Resume where the run folder's newest checkpoint stands, then train to the last step."""
    run_dir = Path(config.run_dir)
    found = newest(run_dir)
    if found:
        steps.start = checkpoint.resume(engine, found, state)
    if place.is_first:
        print(f"{len(shards):,} images in {config.data.shards}; {steps.total:,} steps of {steps.images}; "
              f"{place.world_size} x {place.device.type}, ZeRO {config.runtime.zero_stage}"
              + (f"; resumed at step {steps.start:,} from {found}" if found else ""), flush=True)
        if steps.start < steps.total:
            run_folder.describe(run_dir, state.stage, config, seed=config.seed, data_digest=state.data_digest,
                                world_size=place.world_size, total_steps=steps.total, **facts)
    pipeline = Pipeline(shards, Order(len(shards), config.seed, steps.images), rank=place.rank,
                        world_size=place.world_size, accumulation_steps=steps.accumulation, start_step=steps.start,
                        device=place.device, frame=config.data.frame, noisy_jpeg=config.data.jpeg_noise,
                        workers=config.runtime.workers)
    writer = Writer(run_dir, place, steps.start)
    optim = config.optim
    warmup = optim.warmup_epochs * len(shards) / optim.global_batch_size

    def set_lr(global_step: int) -> float:
        lr = schedule.learning_rate(global_step, peak=optim.lr, floor=optim.min_lr, warmup_steps=warmup,
                                    total_steps=steps.total)
        engines.set_learning_rate(engine, lr)
        return lr

    def save(global_step: int) -> None:
        state.global_step = global_step
        checkpoint.save(engine, engines.full_weights(engine), state, run_dir, place, config.loop.keep)

    try:
        train(engine, batches(pipeline), lambda: pipeline.waited, steps, place, set_lr=set_lr, save=save, probe=probe,
              writer=writer)
    finally:
        writer.close()


def weights_folder(location: str | None, run_dir: Path) -> Path | None:
    """The checkpoint to start from, unless the run has its own to go on from. Raises CheckpointError."""
    if location is None or newest(run_dir):
        return None
    return checkpoint.newest(Path(location))
