"""Checks of a whole sweep before its first trial starts."""

from pathlib import Path

from scemae.config.inputs import refuse_missing_tracker
from scemae.errors import ConfigError
from scemae.evaluation.landmarks.probe import Probe
from scemae.methods import registry
from scemae.sweep.spec import Sweep


def check(sweep: Sweep) -> None:
    """Find now what would fail later. Raises ConfigError, CheckpointError, ShardError."""
    config, share = sweep.settings, sweep.config.trial
    if config.probe_shards is None:
        raise ConfigError(
            f"found no {sweep.stage}.probe_shards, by which trials are judged; give faces with "
            f"landmarks of people to train on: {sweep.stage}.probe_shards=data/celeba/val"
        )
    refuse_missing_tracker(config.runtime.tracker)
    if share.ranks > 1 and 0 < share.gpus < share.ranks:
        raise ConfigError(
            f"trial.gpus: found {share.gpus} with trial.ranks={share.ranks}; a rank needs a GPU of "
            "its own"
        )
    for name in ("mix", "append", "subset", "cache_gb"):
        if found := getattr(config.data, name):
            raise ConfigError(
                f"data.{name}: found {found}, and trials train on the whole set in data.shards, "
                "which they share; leave it out, or build the shards that you want"
            )
    _ = sweep.images, sweep.size  # opens the shards; makes the grid
    method = trunk = None
    if sweep.stage == "correspond":
        trunk = registry.load_trunk(Path(config.backbone))[0]
        method = registry.find(config.method.name, 2)
    Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir).load()
    points = [sweep.paper, sweep.space.draw(sweep.config.seed, 1), *sweep.space.corners()]
    for values in points:
        try:
            found = sweep.with_values(values)
            if method is not None:
                method.check(registry.settings_of(method, found), trunk)
        except ConfigError as error:
            raise ConfigError(
                f"{error}; the space allows {', '.join(sweep.as_words(values))}: narrow it, or "
                "give a constraint"
            ) from error
