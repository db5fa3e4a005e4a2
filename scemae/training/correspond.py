"""Stage 2, `scemae correspond`: freeze the backbone and train CARB's projector under the LCR loss.

scemae correspond run_dir=runs/small-carb backbone=runs/small data.shards=data/celeba/train
scemae correspond run_dir=runs/cl backbone=runs/moco method=cl data.shards=data/celeba/train    a rival's (methods/registry.py)
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from scemae.config.schema.training import Carb, CorrespondConfig
from scemae.data.frame_cache import open_frames
from scemae.data.geometry import INPUT
from scemae.data.order import Order, Slice
from scemae.data.pipeline import Batch, Consumed, Pipeline, correspondence_views
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.distributed import engine as engines
from scemae.distributed.process_group import Place, data_threads, precision, process_group
from scemae.distributed.watchdog import Watchdog, watch
from scemae.errors import ConfigError
from scemae.evaluation import subjects
from scemae.evaluation.landmarks.features import Head, Trunk
from scemae.evaluation.landmarks.probe import Probe
from scemae.methods import registry
from scemae.models.carb import CARB
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.process.stop_signals import StopRequest
from scemae.runs import networks, run_folder
from scemae.runs.checkpoints import checkpoint
from scemae.runs.generations import Generation
from scemae.training import flops, run
from scemae.training.token_store import home, open_tokens, rows_drawn


def main(config: CorrespondConfig) -> None:
    """Train the projector, or go on where the run folder's newest checkpoint stands."""
    stop = StopRequest("starting or waiting for other ranks")
    with (
        process_group(config.runtime.device, config.runtime.hang_seconds) as place,
        run_folder.hold(Path(config.run_dir), place, "correspond") as generation,
        watch(generation.folder, place, config.runtime.hang_seconds) as dog,
    ):
        prepare(config, place, generation, stop, dog).go()


def prepare(
    config: CorrespondConfig, place: Place, generation: Generation, stop: StopRequest, dog: Watchdog
) -> run.Run:
    """The parts of one start, put together; nothing is trained or written yet."""
    shards = open_shards(config.data.shards, config.data.cache_dir)
    steps = run.plan(shards, config.optim, config.loop, config.runtime, place)
    probe = Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir)
    trunk, folder = subjects.load_trunk(Path(config.backbone))
    digest = checkpoint.weights_digest(folder)

    def note() -> None:
        dog.note(0, "data")
        stop.check("computing features")

    makers = Sources(config, trunk, (folder, digest), shards, place, note)
    parts = carb(config, makers) if config.method.name == registry.OWN[2] else rival(config, makers)
    if config.loop.probe_every:  # the trunk is on its device now, and in its precision
        kept = (
            Path(config.store.third_dir) if config.store.third_dir else home(config, folder, place)
        )
        probe.keep(trunk, place, kept, digest, note)
    state = run.state_of(
        config, "correspond", {**parts.settings, "backbone": digest}, place, shards
    )
    facts = {"images": len(shards), "backbone": str(folder)}
    engine = engines.start(parts.module, config.optim, config.runtime, place, steps.accumulation)
    return run.Run(
        config,
        place,
        generation,
        engine,
        steps,
        state,
        shards,
        parts.open_feed,
        facts,
        lambda: probe.errors(trunk, place.device, parts.head),
        stop,
        dog,
        parts.flops,
        partial(parts.made_ahead, Order(len(shards), config.seed, steps.images)),
    )


@dataclass
class Sources:
    """What the parts of every method are made of: the frozen trunk, its checkpoint and digest, and the images."""

    config: CorrespondConfig
    trunk: Trunk
    backbone: tuple[Path, str]
    shards: ShardSet
    place: Place
    note: Callable[[], None]


@dataclass
class Parts:
    """What a method brings to stage 2; the rest is every method's."""

    module: (
        nn.Module
    )  # the projector under its loss; a call gives the sum over images of weight * loss
    head: Head
    open_feed: Callable[[Order, int, int], run.Feed]
    settings: dict  # to build it again
    flops: float  # per image of a step; 0: not counted
    made_ahead: Callable[[Order, int], int] = lambda order, total: (
        0
    )  # view images that open_feed makes


def carb(config: CorrespondConfig, sources: Sources) -> Parts:
    """The paper's stage 2, from the token store. Raises ConfigError where the backbone has no tokens to select."""
    trunk, place, encoder = sources.trunk, sources.place, sources.trunk.network
    if not isinstance(encoder, Encoder):
        raise ConfigError(
            f"method=carb: found a backbone of {trunk.model}, and CARB selects the tokens of a ViT; give a "
            "backbone of method=mae, or method=cl or lead"
        )
    networks.check_clusters(config.carb, encoder)
    encoder.to(place.device, precision(config.runtime.precision, place.device))
    torch.manual_seed(config.seed)
    module = build(config.carb, encoder)

    def open_feed(order: Order, first: int, last: int) -> run.Feed:
        return open_tokens(
            config,
            encoder,
            sources.backbone,
            sources.shards,
            place,
            order=order,
            stop=last,
            note=sources.note,
        ).batches

    return Parts(
        module,
        lambda maps, side: module.projector(maps[0]),
        open_feed,
        {"carb": asdict(config.carb), "views": config.views, "width": encoder.width},
        flops.projector_step(config.carb, encoder.width, encoder.grid**2),
        lambda order, total: len(rows_drawn(order, total, config.views)),
    )


def rival(config: CorrespondConfig, sources: Sources) -> Parts:
    """Another method's stage 2: its frozen trunk looks at every view anew, since a hypercolumn is too large to keep
    (PROTOCOL 5.3). Raises ConfigError."""
    name, trunk, place = config.method.name, sources.trunk, sources.place
    method = registry.find(name, 2)
    settings = registry.settings_of(method, config.method.settings)
    if not trunk.is_resized:
        raise ConfigError(
            f"method={name}: found a backbone of {trunk.model}, and {name} reads a hypercolumn; give a "
            "backbone of method=moco or byol"
        )
    module = method.build(settings, trunk.network, seed=config.seed)
    registry.check_runtime(
        name,
        module,
        precision(config.runtime.precision, place.device),
        engines.zero_stage(config.runtime, place),
    )
    network = trunk.network.to(place.device)

    def views(batch: Batch) -> tuple[Tensor, ...]:
        return (
            correspondence_views(batch, INPUT, tuple(config.data.scale)),
            batch.tensor(batch.slice.weights),
        )

    def open_feed(order: Order, first: int, last: int) -> run.Feed:
        source = open_frames(
            sources.shards,
            config.data,
            config.runtime,
            place,
            note=sources.note,
            images=(last - first) * order.global_batch_size,
        )

        def feed(slices: Iterator[Slice], consumed: Consumed) -> Iterator[tuple]:
            pipeline = Pipeline(
                source,
                slices,
                config.seed,
                views,
                device=place.device,
                noisy_jpeg=config.data.jpeg_noise,
                workers=data_threads(config.runtime.workers),
                consumed=consumed,
            )
            for images, weights in pipeline:
                with torch.no_grad():
                    maps = network(images)
                yield *maps, weights

        return feed

    return Parts(
        module,
        module.projector,
        open_feed,
        {"method": registry.described(name, settings), "width": trunk.width},
        0.0,
    )


def build(carb: Carb, encoder: Encoder) -> CARB:
    """The projector under its loss."""
    return CARB(
        Projector(carb.projector, encoder.width, carb.dim),
        clusters=carb.clusters,
        tau=carb.tau,
        coefficients=(carb.r_att_att, carb.r_att_inatt, carb.r_inatt_inatt),
        reduction=carb.reduction,
        place_unit=1.0 if carb.place_unit == "grid" else float(encoder.patch_size),
    )
