"""Stage 2, `scemae correspond`: freeze the backbone and train a projector on it.

scemae correspond run_dir=runs/small-carb backbone=runs/small data.shards=data/celeba/train
scemae correspond run_dir=runs/cl backbone=runs/moco method=cl data.shards=data/celeba/train

The method is a file of scemae/methods (registry.py): carb is the paper's.
"""

import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from scemae.config.schema.training import CorrespondConfig
from scemae.data.geometry import INPUT
from scemae.data.pipeline import crop_pairs
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed import engine as engines
from scemae.distributed.process_group import precision
from scemae.evaluation.landmarks import features
from scemae.evaluation.landmarks.features import Trunk
from scemae.evaluation.landmarks.probe import Probe
from scemae.methods import registry
from scemae.models.vit import Encoder
from scemae.runs.checkpoints import checkpoint, resume
from scemae.training import run, run_plan
from scemae.training.feed import Batches, Feed, trunk_views
from scemae.training.token_fill import Fill, slice_of
from scemae.training.token_store import TokenFeed, home

# For carb.init=lda, choices of ours (PROTOCOL 7).
START_IMAGES = 500  # that the initial weights are computed from, at most
# Area of their crops in the evaluation frame. The central crop that is measured has 0.5 of it.
CROP_SCALE = (0.35, 1.0)


def main(config: CorrespondConfig) -> None:
    """Train the projector, from the run folder's newest checkpoint where it has one."""
    with run.started(config, "correspond") as start:
        prepare(config, start).go()


def prepare(config: CorrespondConfig, start: run.Start) -> run.Run:
    """The parts of a run, built and put together; nothing is trained or written yet.

    Raises ConfigError, ShardError, CheckpointError.
    """
    place, probe_every = start.place, config.loop.probe_every
    shards = run_plan.open_data(config, start.place, start.note)
    steps = run_plan.plan(shards, config, place)
    probe = Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir)
    network, folder = registry.load_trunk(
        resume.newest_of(checkpoint.within(Path(config.backbone), "pretrain"), place)
    )
    trunk, digest = features.trunk_of(network), checkpoint.weights_digest(folder)
    method = registry.find(config.method.name, 2)
    settings = registry.settings_of(method, config)
    module = method.build(settings, network, seed=config.seed)
    dtype = precision(config.runtime.precision, place.device)
    zero_stage = engines.zero_stage(config.runtime, place)
    registry.check_runtime(config.method.name, module, dtype, zero_stage)
    network.to(place.device, torch.float32 if registry.has_batch_norm(network) else dtype)
    is_resumed = resume.has_any(Path(config.run_dir), place)
    if registry.wants_crops(method, settings) and not is_resumed:
        began = time.perf_counter()
        method.start(module, network, _crops(config, start, shards))
        if place.is_first:
            seconds = time.perf_counter() - began
            print(f"projector: initial weights computed in {seconds:.1f} s", file=sys.stderr)
    if probe_every:  # after the trunk's move: its maps are kept in its precision
        probe.keep(trunk, place, _maps_folder(config, folder, start), digest, start.note)
    parts = {**registry.described(method, settings), "width": trunk.width, "backbone": digest}
    facts = {"images": len(shards), "backbone": str(folder)}
    return run.Run(
        config,
        start,
        engines.start(module, config.optim, config.runtime, place, steps.accumulation),
        _feed(config, start, shards, method, settings, trunk, (folder, digest)),
        steps,
        run_plan.state_of(config, "correspond", parts, place, shards),
        partial(probe.errors, trunk, place.device, module.head),
        facts,
        registry.step_flops(method, settings, network),
    )


def _maps_folder(config: CorrespondConfig, backbone: Path, start: run.Start) -> Path:
    """Where the probe keeps the trunk's maps: beside the tokens."""
    third_dir = config.store.third_dir
    return Path(third_dir) if third_dir else home(config, backbone, start.place)


def _crops(config: CorrespondConfig, start: run.Start, shards: ShardSet) -> Batches:
    """What `method.start` gets: `crop_pairs` of the first START_IMAGES images in the run's order.

    Batches of about 32 images. Every rank makes all of them, and so computes the same weights.
    """
    views = partial(crop_pairs, size=INPUT, scale=CROP_SCALE)
    feed = Feed(config, shards, start.place, views, start.note)
    samples = run_plan.order_of(config, shards).first(START_IMAGES)
    feed.open_frames(len(samples))
    parts = np.array_split(samples, max(len(samples) // 32, 1))
    return feed.batches((slice_of(part, len(shards)) for part in parts), lambda *_: start.note())


def _feed(
    config: CorrespondConfig,
    start: run.Start,
    shards: ShardSet,
    method: ModuleType,
    settings: Any,
    trunk: Trunk,
    backbone: tuple[Path, str],
) -> Feed | TokenFeed:
    """From the token store, or with the frozen trunk on every view (PROTOCOL 5.3)."""
    network, place = trunk.network, start.place
    if method.STORED:
        assert isinstance(network, Encoder)  # `build` refuses other trunks
        return TokenFeed(Fill(config, network, backbone, shards, place, start.note))
    views = trunk_views(INPUT, config.data.scale)
    embed = partial(method.embed, settings, network)
    return Feed(config, shards, place, views, start.note, embed)
