"""Stage 1, `scemae pretrain`: a masked autoencoder on shards of unlabelled faces, driven by DeepSpeed.

    scemae pretrain run_dir=runs/small data.shards=data/celeba/train
    torchrun --nproc-per-node 8 -m scemae pretrain run_dir=...
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from scemae import engine as engines, restore, run_folder, stage
from scemae.data.pipeline import Pipeline, pretraining_views
from scemae.data.reader import open_shards
from scemae.distributed import Place, process_group
from scemae.generations import Generation
from scemae.landmarks.probe import Probe
from scemae.loop import StopRequest
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
    scale = (config.data.scale[0], config.data.scale[1])

    def batches(pipeline: Pipeline) -> Iterator[tuple[Tensor, ...]]:
        for batch in pipeline:
            yield *pretraining_views(batch, size, scale, patches), batch.tensor(batch.slice.weights)

    engine = engines.start(model, config.optim, config.runtime, place, steps.accumulation)
    return stage.Run(config, place, generation, engine, steps, state, shards, batches, facts,
                     lambda: probe.errors(engine.module.encoder, place.device), stop, dog)
