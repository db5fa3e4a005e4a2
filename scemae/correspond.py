"""Stage 2, `scemae correspond`: freeze the backbone and train CARB's projector under the LCR loss.

    scemae correspond run_dir=runs/small-carb backbone=runs/small data.shards=data/celeba/train
"""

from dataclasses import asdict
from pathlib import Path

import torch

from scemae import checkpoint, engine as engines, flops, restore, run_folder, stage
from scemae.data.order import Order
from scemae.data.reader import open_shards
from scemae.distributed import Place, precision, process_group
from scemae.errors import ConfigError
from scemae.generations import Generation
from scemae.landmarks.probe import Probe
from scemae.loop import StopRequest
from scemae.models.carb import CARB
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.schema import Carb, CorrespondConfig
from scemae.token_store import open_tokens, rows_drawn
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
    digest = checkpoint.weights_digest(folder)
    parts = {"carb": asdict(config.carb), "views": config.views, "width": encoder.width, "backbone": digest}
    state = stage.state_of(config, "correspond", parts, place, shards)
    facts = {"images": len(shards), "backbone": str(folder)}

    def note() -> None:
        dog.note(0, "data")
        stop.check("computing tokens")

    def open_feed(order: Order, first: int, last: int) -> stage.Feed:
        return open_tokens(config, encoder, (folder, digest), shards, place, order=order, stop=last, note=note).batches

    engine = engines.start(module, config.optim, config.runtime, place, steps.accumulation)
    return stage.Run(config, place, generation, engine, steps, state, shards, open_feed, facts,
                     lambda: probe.errors(encoder, place.device, engine.module.projector), stop, dog,
                     flops.projector_step(config.carb, encoder.width, encoder.grid**2),
                     lambda total: len(rows_drawn(Order(len(shards), config.seed, steps.images), total, config.views)))


def build(carb: Carb, encoder: Encoder) -> CARB:
    """The projector under its loss."""
    return CARB(Projector(carb.projector, encoder.width, carb.dim), clusters=carb.clusters, tau=carb.tau,
                coefficients=(carb.r_att_att, carb.r_att_inatt, carb.r_inatt_inatt), reduction=carb.reduction,
                place_unit=1.0 if carb.place_unit == "grid" else float(encoder.patch_size))


def check_clusters(carb: Carb, encoder: Encoder) -> None:
    """Raise ConfigError where eta leaves no attentive tokens, or fewer inattentive ones than clusters."""
    n = encoder.grid**2
    attentive = round(carb.eta * n)
    if attentive < 1 or n - attentive < carb.clusters:
        raise ConfigError(f"carb: eta {carb.eta} of {n} tokens leaves {attentive} attentive and {n - attentive} "
                          f"inattentive ones; at least 1 and {carb.clusters} (carb.clusters) are needed")
