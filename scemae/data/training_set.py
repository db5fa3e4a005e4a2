"""The samples that a run trains on, and their order, from the section `data` of its settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from scemae.data.growth import Growing
from scemae.data.lanes import Lanes
from scemae.data.mixture import SEEDS, MixedOrder, parse_mixture
from scemae.data.order import MOST_WHOLE, Order
from scemae.data.storage.joined import Grown, Joined
from scemae.data.storage.shard_set import ShardSet, needs_cache, open_shards, stream_shards
from scemae.data.storage.subset import Subset
from scemae.errors import ConfigError


class DataSettings(Protocol):
    """What is read here of the section `data` (config/schema/training.py)."""

    shards: str
    append: list[str]
    mix: list[str]
    subset: str | None
    cache_dir: str | None
    cache_gb: float | None
    order: str
    lanes: int
    block: int
    window: int


def open_set(
    data: DataSettings,
    batch: int,
    *,
    location: str | None = None,
    cache_dir: str | None = None,
    may_copy: bool = True,
    note: Callable[[], None] = lambda: None,
) -> ShardSet:
    """The samples; location and cache_dir stand for data.shards and data.cache_dir if given.

    may_copy, note: as in open_shards. Appended sets join at the beginning until a run knows where
    (runs/data_parts.py). Raises ConfigError for settings that contradict each other, ShardError.
    """
    check_together(data)
    cache_dir = cache_dir or data.cache_dir

    def opened(locations: list[str]) -> list[ShardSet]:
        if data.cache_gb is None or not may_copy or not any(map(needs_cache, locations)):
            return [open_shards(one, cache_dir, may_copy=may_copy, note=note) for one in locations]
        if local := [one for one in locations if not needs_cache(one)]:
            raise ConfigError(
                f"data.append: found the folder {local[0]}, which is read as it is, beside shards "
                "that data.cache_gb streams; give all of them as URLs, or leave data.cache_gb out"
            )
        return stream_shards(locations, cache_dir, data.cache_gb, data.block, note)

    if data.mix:
        places = [where for where, _ in parse_mixture(data.mix, batch)]
        return Joined([one for where in places for one in opened([where])])
    parts = opened([location or data.shards, *data.append])
    if data.append:
        return Grown(parts, [0] * len(parts))
    return Subset(parts[0], Path(data.subset)) if data.subset else parts[0]


def check_together(data: DataSettings) -> None:
    """Raise ConfigError for two ways of choosing samples that cannot be combined."""
    given = {"data.mix": data.mix, "data.subset": data.subset, "data.append": data.append}
    if len(found := [name for name, value in given.items() if value]) > 1:
        raise ConfigError(
            f"{' and '.join(found)}: only one of them can be used at a time; build shards of a "
            "subset, or of what is appended, and mix those"
        )


def make_order(shards: ShardSet, seed: int, batch: int, data: DataSettings) -> Order:
    """The order of the samples of `open_set`: of a mixture, one for each of its sets.

    data.order=auto: whole up to MOST_WHOLE samples of a set, lanes above. Raises ConfigError.
    """
    if isinstance(shards, Grown):
        sizes = np.cumsum(shards.sizes).tolist()
        lines = [_order(size, seed, batch, data).line for size in sizes]
        return Order(len(shards), seed, batch, Growing(lines, shards.joins))
    if not isinstance(shards, Joined):
        return _order(len(shards), seed, batch, data)
    counts = [images for _, images in parse_mixture(data.mix, batch)]
    parts = zip(shards.sizes, counts, strict=True)
    return MixedOrder(
        [_order(size, seed + SEEDS * i, count, data) for i, (size, count) in enumerate(parts)]
    )


def _order(samples: int, seed: int, batch: int, data: DataSettings) -> Order:
    whole = samples <= MOST_WHOLE if data.order == "auto" else data.order == "whole"
    if whole:
        return Order(samples, seed, batch)
    lanes = fitting_lanes(min(data.lanes, max(samples // data.block, 1)), batch)
    return Order(samples, seed, batch, Lanes(samples, seed, lanes, data.block, data.window))


def fitting_lanes(most: int, batch: int) -> int:
    """The largest number of lanes up to `most` that divides the batch or is a multiple of it.

    With another number a lane would come at another place of each batch, so that all ranks would
    read it in turn.
    """
    return next(k for k in range(most, 0, -1) if batch % k == 0 or k % batch == 0)
