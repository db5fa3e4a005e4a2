"""The annotated pictures of one's own category, for `scemae fit`: opened and checked."""

from dataclasses import dataclass
from pathlib import Path

from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.errors import ConfigError, DataError
from scemae.evaluation.landmarks.benchmark_frames import Frames, load_frames
from scemae.evaluation.landmarks.benchmarks import BENCHMARK, Benchmark, find_benchmark


@dataclass
class AnnotatedPictures:
    """The annotated pictures of one category."""

    folder: Path
    benchmark: Benchmark
    frames: Frames
    files: list[str]  # the picture of each sample
    test: Frames | None


def open_annotated(folder: Path) -> AnnotatedPictures:
    """The annotated shards in a folder of `shards build folder --landmarks`.

    Raises ConfigError, ShardError, and DataError for a point that too few pictures show.
    """
    path = folder / BENCHMARK
    if not path.is_file():
        raise ConfigError(
            f"{folder}: found no {BENCHMARK}; give the folder that `scemae shards build folder "
            "--landmarks` wrote"
        )
    benchmark = find_benchmark(str(path))
    shards = open_shards(str(folder / benchmark.splits["train"]))
    frames = load_frames(shards, benchmark)
    test = None
    if (folder / benchmark.splits["test"]).is_dir():
        test = load_frames(open_shards(str(folder / benchmark.splits["test"])), benchmark)
    data = AnnotatedPictures(folder, benchmark, frames, _files(shards), test)
    _check_points(data)
    return data


def _files(shards: ShardSet) -> list[str]:
    return [shards.annotation(i)["file"] for i in range(len(shards))]


def _check_points(data: AnnotatedPictures) -> None:
    """Raise DataError for a point that is in fewer than two pictures, or has no scale."""
    is_known = ~data.frames.landmarks.isnan().any(dim=2)
    names = data.benchmark.points or tuple(map(str, range(data.benchmark.landmarks)))
    for i, name in enumerate(names):
        shown = {file for file, known in zip(data.files, is_known[:, i]) if known}
        if len(shown) < 2 <= len(set(data.files)):
            raise DataError(
                f"{data.folder}: found the point {name!r} in {len(shown)} of "
                f"{len(set(data.files))} pictures, at least 2 are needed; annotate it in more, or "
                "take it out"
            )
    first, second = data.benchmark.eyes
    if len(set(data.files)) > 1 and int((is_known[:, first] & is_known[:, second]).sum()) < 2:
        raise DataError(
            f"{data.folder}: found fewer than 2 pictures that show both {names[first]!r} and "
            f"{names[second]!r}, whose distance scales errors; build the shards with other "
            "--scale-points"
        )
