"""Stage 2, `scemae correspond`: freeze the backbone and train CARB's projector under the LCR loss.

    scemae correspond run_dir=runs/small-carb backbone=runs/small data.shards=data/celeba/train
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from scemae import checkpoint, engine as engines, restore, run_folder, stage
from scemae.data.pipeline import Pipeline, correspondence_views
from scemae.data.reader import open_shards
from scemae.distributed import Place, precision, process_group
from scemae.errors import ConfigError
from scemae.generations import Generation
from scemae.landmarks.probe import Probe
from scemae.loop import StopRequest
from scemae.models.carb import CARB, select
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.schema import Carb, CorrespondConfig
from scemae.watchdog import Watchdog, watch


def main(config: CorrespondConfig) -> None:
    """Train the projector, or go on where the run folder's newest checkpoint stands."""
    stop = StopRequest()
    with (process_group(config.runtime.device, config.runtime.hang_seconds) as place,
          run_folder.hold(Path(config.run_dir), place, "correspond") as generation,
          watch(generation.folder, place, config.runtime.hang_seconds) as dog):
        prepare(config, place, generation, stop, dog).go()


def prepare(config: CorrespondConfig, place: Place, generation: Generation, stop: StopRequest,
            dog: Watchdog) -> stage.Run:
    """The parts of one start, put together; nothing is trained or written yet."""
    shards = open_shards(config.data.shards, config.data.cache_dir)
    steps = stage.plan(shards, config.optim, config.loop, config.runtime, place)
    probe = Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir)
    encoder, folder = restore.load_encoder(Path(config.backbone))
    check_clusters(config.carb, encoder)
    encoder = encoder.to(place.device, precision(config.runtime.precision, place.device))
    torch.manual_seed(config.seed)
    module = build(config.carb, encoder)
    parts = {"carb": asdict(config.carb), "width": encoder.width, "backbone": checkpoint.weights_digest(folder)}
    state = stage.state_of(config, "correspond", parts, place, shards)
    facts = {"images": len(shards), "backbone": str(folder)}
    size, scale = encoder.grid * encoder.patch_size, (config.data.scale[0], config.data.scale[1])
    chosen = restore.selection_options(config.carb)

    def batches(pipeline: Pipeline) -> Iterator[tuple[Tensor, ...]]:
        for batch in pipeline:
            selection = select(encoder, correspondence_views(batch, size, scale), **chosen)
            yield selection.feature_map, selection.ids, selection.is_attentive, batch.tensor(batch.slice.weights)

    engine = engines.start(module, config.optim, config.runtime, place, steps.accumulation)
    return stage.Run(config, place, generation, engine, steps, state, shards, batches, facts,
                     lambda: probe.errors(encoder, place.device, engine.module.projector), stop, dog)


def build(carb: Carb, encoder: Encoder) -> CARB:
    """The projector under its loss."""
    return CARB(Projector(carb.projector, encoder.width, carb.dim), tau=carb.tau, reduction=carb.reduction,
                coefficients=(carb.r_att_att, carb.r_att_inatt, carb.r_inatt_inatt),
                place_unit=1.0 if carb.place_unit == "grid" else float(encoder.patch_size))


def check_clusters(carb: Carb, encoder: Encoder) -> None:
    """Raise ConfigError where eta leaves no attentive tokens, or fewer inattentive ones than clusters."""
    n = encoder.grid**2
    attentive = round(carb.eta * n)
    if attentive < 1 or n - attentive < carb.clusters:
        raise ConfigError(f"carb: eta {carb.eta} of {n} tokens leaves {attentive} attentive and {n - attentive} "
                          f"inattentive ones; at least 1 and {carb.clusters} (carb.clusters) are needed")
