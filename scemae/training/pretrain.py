"""Stage 1, `scemae pretrain`: train a backbone on shards of unlabelled faces.

scemae pretrain run_dir=runs/small data.shards=data/celeba/train
scemae pretrain run_dir=runs/moco method=moco data.shards=data/celeba/train
torchrun --nproc-per-node 8 -m scemae pretrain run_dir=...

The method is a file of scemae/methods (registry.py): mae is the paper's.
"""

from functools import partial
from pathlib import Path

from scemae.config.schema.training import PretrainConfig
from scemae.distributed import engine as engines
from scemae.distributed.process_group import precision
from scemae.evaluation.landmarks import features
from scemae.evaluation.landmarks.probe import Probe
from scemae.methods import registry
from scemae.runs import networks
from scemae.training import run, run_plan
from scemae.training.feed import Feed


def main(config: PretrainConfig) -> None:
    """Train, from the run folder's newest checkpoint where it has one."""
    with run.started(config, "pretrain") as start:
        prepare(config, start).go()


def prepare(config: PretrainConfig, start: run.Start) -> run.Run:
    """The parts of a run, built and put together; nothing is trained or written yet.

    Raises ConfigError, ShardError, CheckpointError.
    """
    place, size = start.place, config.model.image_size
    shards = run_plan.open_data(config, start.place, start.note)
    steps = run_plan.plan(shards, config, place)
    probe = Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir)
    probe.load()
    method = registry.find(config.method.name, 1)
    settings = registry.settings_of(method, config)
    module = method.build(settings, seed=config.seed)
    dtype = precision(config.runtime.precision, place.device)
    zero_stage = engines.zero_stage(config.runtime, place)
    registry.check_runtime(config.method.name, module, dtype, zero_stage)
    trunk = features.trunk_of(module.trunk)
    if weights := run.weights_folder(config.init_from, Path(config.run_dir), place):
        networks.load_into(module, weights)
    views = method.views(settings, size=size, scale=tuple(config.data.scale))
    facts = {"images": len(shards), "encoder_parameters": trunk.parameters, "model": trunk.model}
    state = run_plan.state_of(
        config, "pretrain", registry.described(method, settings), place, shards
    )
    return run.Run(
        config,
        start,
        engines.start(module, config.optim, config.runtime, place, steps.accumulation),
        Feed(config, shards, place, views, start.note),
        steps,
        state,
        partial(probe.errors, trunk, place.device),
        facts,
        registry.step_flops(method, settings),
    )
