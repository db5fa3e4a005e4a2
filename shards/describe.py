"""`shards info`: what finished shards hold, and the keys of their samples."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scemae.data.picture import UnusablePicture, check_jpeg
from scemae.data.storage.manifest import Annotation
from scemae.data.storage.shard_set import open_shards
from scemae.shards.split_places import SplitAt, find_splits, open_split


def describe(location: str | Path) -> str:
    """Lines for people on what the shards at `location` hold. Raises ShardError."""
    return "\n\n".join(_describe_split(open_split(place)) for place in find_splits(location))


def keys(location: str | Path) -> Iterator[str]:
    """The keys of all samples, as data.subset takes them; of several splits one after the other.

    Raises ShardError.
    """
    for place in find_splits(location):
        split = open_split(place)
        for shard in split.manifest.shards:
            yield from split.index(shard).all_keys()


def _describe_split(split: SplitAt) -> str:
    manifest = split.manifest
    reasons = Counter(entry["reason"] for entry in manifest.left_out)
    lines = [
        f"{split.place}: split {manifest.split} of {manifest.dataset}",
        f"  holds        {split.amount}",
        *_first_sample(split),
        *(f"  left out     {count:,}: {reason}" for reason, count in reasons.most_common()),
        *(f"  excluded     {count:,}: {reason}" for reason, count in manifest.excluded.items()),
        *(f"  option       {name}: {value}" for name, value in manifest.options.items()),
        f"  digest       {manifest.digest()}, of the samples in their order",
        f"  of its tars  {manifest.tars_digest()}",
    ]
    return "\n".join(lines)


def _first_sample(split: SplitAt) -> list[str]:
    if not isinstance(split.tars, Path) or split.manifest.is_compressed:
        return []
    shards = open_shards(str(split.place))
    try:
        pixels = "{}x{} pixels".format(*check_jpeg(shards.jpeg(0)))
    except UnusablePicture as error:
        pixels = str(error)
    first = shards.annotation(0)
    return [
        f"  first sample {first.get('file', shards.keys[0])}, {pixels}",
        f"  annotations  {', '.join(_annotations(first)) or 'none'}",
    ]


def _annotations(first: Annotation) -> list[str]:
    names = {
        "landmarks": f"{len(first.get('landmarks') or [])} landmarks",
        "identity": "identity",
        "box": "face box",
        "size": "size",
    }
    return [words for key, words in names.items() if key in first]
