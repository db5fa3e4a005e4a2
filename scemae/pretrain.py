"""Stage 1, `scemae pretrain`: a masked autoencoder on shards of unlabelled faces, driven by DeepSpeed.

    scemae pretrain run_dir=runs/small data.shards=shards/celeba/train
    torchrun --nproc-per-node 8 -m scemae pretrain run_dir=...
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from scemae import checkpoint, engine as engines, run_folder, schedule
from scemae.checkpoint import TrainState
from scemae.schema import Data, Decoder, Loop, Model, Optim, PretrainConfig, Runtime
from scemae.data.order import Order, accumulation_steps
from scemae.data.pipeline import Pipeline, pretraining_views
from scemae.data.reader import ShardSet, open_shards
from scemae.distributed import Place, process_group
from scemae.errors import CheckpointError, ConfigError
from scemae.landmarks.probe import Probe
from scemae.loop import Steps, train
from scemae.metrics import Writer
from scemae.models.mae import Decoder as MaeDecoder
from scemae.models.mae import MaskedAutoencoder
from scemae.models.vit import Encoder


def main(config: PretrainConfig) -> None:
    """Train, or go on where the run folder's newest checkpoint stands."""
    with process_group(config.runtime.device) as place, run_folder.hold(Path(config.run_dir), place):
        shards = open_shards(config.data.shards, config.data.cache_dir)
        steps = plan(shards, config.optim, config.loop, config.runtime, place)
        probe = Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir)
        model = build(config.model, config.decoder, mask_ratio=config.mask_ratio, norm_pix=config.norm_pix,
                      seed=config.seed)
        if config.init_from:
            load_into(model, Path(config.init_from))
        settings = {"model": asdict(config.model), "decoder": asdict(config.decoder),
                    "mask_ratio": config.mask_ratio, "norm_pix": config.norm_pix}
        state = TrainState(0, config.seed, place.world_size, config.runtime.zero_stage, "pretrain", settings,
                           shards.manifest.digest())
        facts = {"images": len(shards), "encoder_parameters": model.encoder.count_parameters()}
        size, patches = config.model.image_size, model.encoder.grid**2
        scale = (config.data.scale[0], config.data.scale[1])

        def batches(pipeline: Pipeline) -> Iterator[tuple[Tensor, ...]]:
            for batch in pipeline:
                yield *pretraining_views(batch, size, scale, patches), batch.tensor(batch.slice.weights)

        engine = engines.start(model, config.optim, config.runtime, place, steps.accumulation)
        run(config, place, engine, steps, state, shards, batches, facts,
            probe=lambda: probe.errors(engine.module.encoder, place.device))


def run(config, place: Place, engine, steps: Steps, state: TrainState, shards: ShardSet, batches, facts: dict,
        *, probe) -> None:
    """What both stages do once their parts are built: resume, describe, train, save."""
    run_dir = Path(config.run_dir)
    found = checkpoint.committed(run_dir)
    if found:
        steps.start = checkpoint.resume(engine, found[-1], state)
    if place.is_first:
        print(f"{len(shards):,} images in {config.data.shards}; {steps.total:,} steps of {steps.images}; "
              f"{place.world_size} x {place.device.type}, ZeRO {config.runtime.zero_stage}"
              + (f"; resumed at step {steps.start:,} from {found[-1]}" if found else ""))
        run_folder.describe(run_dir, config, seed=config.seed, data_digest=state.data_digest,
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


def build(model: Model, decoder: Decoder, *, mask_ratio: float, norm_pix: bool, seed: int) -> MaskedAutoencoder:
    """A freshly initialised masked autoencoder; the same weights for the same seed on every rank."""
    torch.manual_seed(seed)
    encoder = Encoder(model.width, model.depth, model.heads, model.patch_size, model.image_size)
    head = MaeDecoder(model.width, decoder.width, decoder.depth, decoder.heads, grid=encoder.grid,
                      patch_size=model.patch_size)
    return MaskedAutoencoder(encoder, head, mask_ratio=mask_ratio, norm_pix=norm_pix)


def load_into(model: torch.nn.Module, location: Path) -> None:
    """Start from another run's weights. Raises CheckpointError where they are of another model."""
    folder = checkpoint.newest(location)
    weights, own = checkpoint.read_weights(folder), model.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong:
        found = tuple(weights[wrong[0]].shape) if wrong[0] in weights else "nothing"
        raise CheckpointError(f"{folder}: holds another model ({wrong[0]}: found {found}, needed "
                              f"{tuple(own[wrong[0]].shape)}); give the model's settings it was trained with")
    model.load_state_dict({name: weights[name] for name in own})


def load_autoencoder(location: Path) -> tuple[MaskedAutoencoder, Path]:
    """The masked autoencoder of a stage-1 run folder or checkpoint, and the checkpoint it came from."""
    folder = checkpoint.newest(location)
    state = checkpoint.read_state(folder)
    if state.stage != "pretrain":
        raise CheckpointError(f"{folder}: found a checkpoint of `scemae {state.stage}`, one of `scemae pretrain` was "
                              "needed; give backbone=RUN of stage 1")
    kept = state.settings
    model = build(Model(**kept["model"]), Decoder(**kept["decoder"]), mask_ratio=kept["mask_ratio"],
                  norm_pix=kept["norm_pix"], seed=0)
    load_into(model, folder)
    return model, folder
