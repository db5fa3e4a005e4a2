"""data_parts.json of a run whose data grow: where in its sequence of samples each part joins.

data.append names the parts that are new. A run that has begun takes them in at the next edge of an
epoch after all steps that any of its starts has trained, so that nothing it saw becomes another
sample. Where that is, is written here before the first step that depends on it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from scemae.data.growth import next_edge
from scemae.data.order import Order
from scemae.data.storage.joined import Grown
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import RunFolderError
from scemae.files import disk, documents
from scemae.files.documents import Count, Digest
from scemae.runs import generations
from scemae.runs.generation_files import LEDGER

FILE = "data_parts.json"


@dataclass
class Part:
    """One part: its samples, its digest, the position that it joins at, and the order from there.

    order: the order's version and settings, of all parts up to this one.
    """

    samples: Count
    digest: Digest
    joins: Count
    order: dict[str, int]


@dataclass
class _Record:
    parts: list[Part]


def joins(run_dir: Path, shards: ShardSet, order: Order) -> list[int]:
    """Where each part of the shards joins. order: as if all of them joined at the beginning.

    Raises RunFolderError where they are not the parts that the run has, in their order.
    """
    known, given = _read(run_dir), _parts(shards, order)
    for number, part in enumerate(known):
        if number >= len(given) or not _is_same(part, *given[number]):
            raise RunFolderError(
                f"{run_dir}: part {number + 1} of its data, {part.samples:,} images that joined at "
                f"image {part.joins:,}, is not what data.shards, data.append and the order's "
                "settings give now; give them as before, new parts at the end"
            )
    places = [part.joins for part in known] or [0]
    if len(places) == len(given):
        return places
    trained = max((row["step"] for row, _ in generations.all_rows(run_dir, LEDGER)), default=0)
    sizes = [len(one) for one, _ in given]
    while len(places) < len(given):
        places.append(next_edge(sizes, places, trained * order.global_batch_size))
    return places


def record(run_dir: Path, shards: Grown, order: Order) -> None:
    """Write down where the parts join."""
    parts = [
        Part(len(one), one.digest, place, settings)
        for (one, settings), place in zip(_parts(shards, order), shards.joins, strict=True)
    ]
    disk.write_json(run_dir / FILE, asdict(_Record(parts)))


def _parts(shards: ShardSet, order: Order) -> list[tuple[ShardSet, dict[str, int]]]:
    if not isinstance(shards, Grown):
        return [(shards, {})]
    settings = [{"version": line.version, **line.settings} for line in order.line.lines]
    return [*zip(shards.parts, settings, strict=True)]


def _is_same(part: Part, given: ShardSet, order: dict[str, int]) -> bool:
    same = part.samples == len(given) and part.digest in given.digests
    return same and (not order or part.order == order)


def _read(run_dir: Path) -> list[Part]:
    path = run_dir / FILE
    try:
        return documents.read_json(
            path, _Record, error=RunFolderError, remedy="restore it from a backup"
        ).parts
    except FileNotFoundError:
        return []
