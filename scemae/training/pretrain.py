"""Stage 1, `scemae pretrain`: a masked autoencoder on shards of unlabelled faces, driven by DeepSpeed.

scemae pretrain run_dir=runs/small data.shards=data/celeba/train
scemae pretrain run_dir=runs/moco method=moco data.shards=data/celeba/train      a rival's stage 1 (methods/registry.py)
torchrun --nproc-per-node 8 -m scemae pretrain run_dir=...
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch import nn

from scemae.config.schema.training import PretrainConfig
from scemae.data.frame_cache import open_frames
from scemae.data.order import Order
from scemae.data.pipeline import Pipeline, Views, pretraining_views
from scemae.data.storage.shard_set import open_shards
from scemae.distributed import engine as engines
from scemae.distributed.process_group import Place, data_threads, precision, process_group
from scemae.distributed.watchdog import Watchdog, watch
from scemae.evaluation.landmarks import features
from scemae.evaluation.landmarks.features import Trunk
from scemae.evaluation.landmarks.probe import Probe
from scemae.methods import registry
from scemae.process.stop_signals import StopRequest
from scemae.runs import networks, run_folder
from scemae.runs.generations import Generation
from scemae.training import flops, run


def main(config: PretrainConfig) -> None:
    """Train, or go on where the run folder's newest checkpoint stands."""
    stop = StopRequest("starting or waiting for other ranks")
    with (
        process_group(config.runtime.device, config.runtime.hang_seconds) as place,
        run_folder.hold(Path(config.run_dir), place, "pretrain") as generation,
        watch(generation.folder, place, config.runtime.hang_seconds) as dog,
    ):
        prepare(config, place, generation, stop, dog).go()


def prepare(
    config: PretrainConfig, place: Place, generation: Generation, stop: StopRequest, dog: Watchdog
) -> run.Run:
    """The parts of one start, put together; nothing is trained or written yet."""
    shards = open_shards(config.data.shards, config.data.cache_dir)
    steps = run.plan(shards, config.optim, config.loop, config.runtime, place)
    probe = Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir)
    probe.load()
    parts = (
        masked_autoencoder(config)
        if config.method.name == registry.OWN[1]
        else rival(config, place)
    )
    if start := run.weights_folder(config.init_from, Path(config.run_dir)):
        networks.load_into(parts.module, start)
    state = run.state_of(config, "pretrain", parts.settings, place, shards)

    def note() -> None:
        dog.note(0, "data")
        stop.check("decoding")

    def open_feed(order: Order, first: int, last: int) -> run.Feed:
        source = open_frames(
            shards,
            config.data,
            config.runtime,
            place,
            images=(last - first) * steps.images,
            note=note,
        )
        return lambda slices, consumed: iter(
            Pipeline(
                source,
                slices,
                config.seed,
                parts.views,
                device=place.device,
                noisy_jpeg=config.data.jpeg_noise,
                workers=data_threads(config.runtime.workers),
                consumed=consumed,
            )
        )

    facts = {
        "images": len(shards),
        "encoder_parameters": parts.trunk.parameters,
        "model": parts.trunk.model,
    }
    engine = engines.start(parts.module, config.optim, config.runtime, place, steps.accumulation)
    return run.Run(
        config,
        place,
        generation,
        engine,
        steps,
        state,
        shards,
        open_feed,
        facts,
        lambda: probe.errors(parts.trunk, place.device),
        stop,
        dog,
        parts.flops,
    )


@dataclass
class Parts:
    """What a method brings to stage 1; the rest is every method's."""

    module: nn.Module  # a call gives the sum over images of weight * loss
    trunk: Trunk  # the part of it that is evaluated, and that stage 2 freezes
    views: Views  # what the module's forward takes
    settings: dict  # to build it again
    flops: float  # per image of a step; 0: not counted


def masked_autoencoder(config: PretrainConfig) -> Parts:
    """The paper's stage 1."""
    model = networks.build_autoencoder(
        config.model,
        config.decoder,
        mask_ratio=config.mask_ratio,
        norm_pix=config.norm_pix,
        seed=config.seed,
    )
    views = partial(
        pretraining_views,
        size=config.model.image_size,
        scale=tuple(config.data.scale),
        patches=model.encoder.grid**2,
    )
    settings = {
        "model": asdict(config.model),
        "decoder": asdict(config.decoder),
        "mask_ratio": config.mask_ratio,
        "norm_pix": config.norm_pix,
    }
    return Parts(
        model,
        features.vit_trunk(model.encoder),
        views,
        settings,
        flops.autoencoder_step(config.model, config.decoder, config.mask_ratio),
    )


def rival(config: PretrainConfig, place: Place) -> Parts:
    """Another method's stage 1. Raises ConfigError."""
    name, size = config.method.name, config.model.image_size
    method = registry.find(name, 1)
    settings = registry.settings_of(method, config.method.settings)
    module = method.build(settings, image_size=size, seed=config.seed)
    registry.check_runtime(
        name,
        module,
        precision(config.runtime.precision, place.device),
        engines.zero_stage(config.runtime, place),
    )
    views = method.views(settings, size=size, scale=tuple(config.data.scale))
    return Parts(
        module,
        features.trunk_of(module.trunk),
        views,
        {"method": registry.described(name, settings)},
        0.0,
    )
