"""Stage 1, `scemae pretrain`: a masked autoencoder on shards of unlabelled faces, driven by DeepSpeed.

    scemae pretrain run_dir=runs/small data.shards=data/celeba/train
    torchrun --nproc-per-node 8 -m scemae pretrain run_dir=...
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from scemae import engine as engines, flops, restore, run_folder, stage
from scemae.data.order import Order
from scemae.data.pipeline import Pipeline, pretraining_views
from scemae.data.reader import open_shards
from scemae.distributed import Place, data_threads, process_group
from scemae.generations import Generation
from scemae.landmarks.probe import Probe
from scemae.loop import StopRequest
from scemae.resident import open_frames
from scemae.schema import PretrainConfig
from scemae.watchdog import Watchdog, watch


def main(config: PretrainConfig) -> None:
    """Train, or go on where the run folder's newest checkpoint stands."""
    stop = StopRequest()
    with (process_group(config.runtime.device, config.runtime.hang_seconds) as place,
          run_folder.hold(Path(config.run_dir), place, "pretrain") as generation,
          watch(generation.folder, place, config.runtime.hang_seconds) as dog):
        prepare(config, place, generation, stop, dog).go()


def prepare(config: PretrainConfig, place: Place, generation: Generation, stop: StopRequest,
            dog: Watchdog) -> stage.Run:
    """The parts of one start, put together; nothing is trained or written yet."""
    shards = open_shards(config.data.shards, config.data.cache_dir)
    steps = stage.plan(shards, config.optim, config.loop, config.runtime, place)
    probe = Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir)
    model = restore.build_autoencoder(config.model, config.decoder, mask_ratio=config.mask_ratio,
                                      norm_pix=config.norm_pix, seed=config.seed)
    if start := stage.weights_folder(config.init_from, Path(config.run_dir)):
        restore.load_into(model, start)
    parts = {"model": asdict(config.model), "decoder": asdict(config.decoder), "mask_ratio": config.mask_ratio,
             "norm_pix": config.norm_pix}
    state = stage.state_of(config, "pretrain", parts, place, shards)
    facts = {"images": len(shards), "encoder_parameters": model.encoder.count_parameters()}
    size, patches = config.model.image_size, model.encoder.grid**2
    views = partial(pretraining_views, size=size, scale=tuple(config.data.scale), patches=patches)

    def note() -> None:
        dog.note(0, "data")
        stop.check("decoding")

    def open_feed(order: Order, first: int, last: int) -> stage.Feed:
        source = open_frames(shards, config.data, config.runtime, place, images=(last - first) * steps.images, note=note)
        return lambda slices, consumed: iter(Pipeline(
            source, slices, config.seed, views, device=place.device, noisy_jpeg=config.data.jpeg_noise,
            workers=data_threads(config.runtime.workers), consumed=consumed))

    engine = engines.start(model, config.optim, config.runtime, place, steps.accumulation)
    return stage.Run(config, place, generation, engine, steps, state, shards, open_feed, facts,
                     lambda: probe.errors(engine.module.encoder, place.device), stop, dog,
                     flops.autoencoder_step(config.model, config.decoder, config.mask_ratio))
