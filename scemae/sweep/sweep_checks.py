"""Checks of a whole sweep before its first trial starts."""

from pathlib import Path

from scemae.errors import ConfigError
from scemae.evaluation.landmarks.probe import Probe
from scemae.evaluation.subjects import load_trunk
from scemae.models.vit import Encoder
from scemae.runs import networks
from scemae.sweep.spec import Sweep


def check(sweep: Sweep) -> None:
    """Find now what would fail later. Raises ConfigError, CheckpointError, ShardError."""
    config, share = sweep.settings, sweep.config.trial
    if config.probe_shards is None:
        raise ConfigError(
            f"found no {sweep.stage}.probe_shards, by which trials are judged; give faces with "
            f"landmarks of people to train on: {sweep.stage}.probe_shards=data/celeba/val"
        )
    if share.ranks > 1 and 0 < share.gpus < share.ranks:
        raise ConfigError(
            f"trial.gpus: found {share.gpus} with trial.ranks={share.ranks}; a rank needs a GPU of "
            "its own"
        )
    _ = sweep.images, sweep.size  # opens the shards; makes the grid
    encoder = None
    if sweep.stage == "correspond":
        encoder = load_trunk(Path(config.backbone))[0].network
    Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir).load()
    points = [sweep.paper, sweep.space.draw(sweep.config.seed, 1), *sweep.space.corners()]
    for values in points:
        try:
            found = sweep.with_values(values)
            if isinstance(encoder, Encoder) and config.method.name == "carb":
                networks.check_clusters(found.carb, encoder)
        except ConfigError as error:
            raise ConfigError(
                f"{error}; the space allows {', '.join(sweep.as_words(values))}: narrow it, or "
                "give a constraint"
            ) from error
