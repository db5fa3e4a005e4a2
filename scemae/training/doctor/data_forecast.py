"""What the data of a run will cost at its size: order, index, open files, cache, network."""

from scemae.config.schema.training import CorrespondConfig, PretrainConfig
from scemae.data.read_ahead import cache_needed, streams_of
from scemae.data.storage.index import MOST_INDEXED
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed.process_group import Place, ranks_of_node
from scemae.files.disk import MOST_OPEN
from scemae.training.run_plan import order_of

INDEX_BYTES = 50  # of a sample in memory, with a key of nine letters


def forecast(config: PretrainConfig | CorrespondConfig, shards: ShardSet, place: Place) -> str:
    """One line for the report."""
    order, count = order_of(config, shards), len(shards)
    name = "whole" if order.version == 1 else "lanes"
    index = min(count, MOST_INDEXED) * INDEX_BYTES / 1e6
    parts = [f"order {name}, {order.memory / 1e6:,.0f} MB", f"index {index:,.0f} MB a rank"]
    streams = streams_of(shards, order)
    if not streams:
        parts.append(f"at most {min(len(shards.manifest.shards), MOST_OPEN)} open tars a rank")
        return ", ".join(parts)
    total = sum(stream.tars.fetched_bytes for stream in streams)
    size = total / count
    local = ranks_of_node(place)
    limit = sum(stream.tars.cache.limit for stream in streams)
    needed = sum(cache_needed(stream, place.world_size, local) for stream in streams) / 1e9
    requests = -(-count // config.data.block)
    return ", ".join(
        [
            *parts,
            f"cache {limit / 1e9:g} GB a node ({needed:.3g} needed for {local} of "
            f"{place.world_size} ranks)",
            f"{requests:,} range requests an epoch of {total / 1e9:.3g} GB",
            f"each 1,000 images/s of a node fetch {1e-3 * size:.3g} MB/s by "
            f"{1000 / config.data.block:.3g} requests/s while the cache does not hold its share",
        ]
    )
