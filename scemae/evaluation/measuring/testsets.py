"""The benchmarks at hand: where the shards of each split lie, and substitutes for a split that is
missing.

Every departure from the official protocol (a subset, another set's training faces, held-out images)
is a sentence in `notes`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from scemae.config.locations import below, masked, scheme_of
from scemae.data.storage.manifest import MANIFEST
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.errors import ConfigError
from scemae.evaluation.landmarks.benchmark_frames import Frames, load_frames
from scemae.evaluation.landmarks.benchmarks import (
    BENCHMARK,
    Benchmark,
    benchmark_names,
    check_counts,
    find_benchmark,
)


@dataclass
class TestSet:
    """One benchmark with the shards at hand; without training shards only matching and t-SNE can be
    measured.
    """

    benchmark: Benchmark
    test: ShardSet
    train: ShardSet | None
    train_rows: list[int] | None = None  # of the training shards; None: all
    test_rows: list[int] | None = None
    # the benchmark whose geometry the training shards have, where they are another one's
    train_as: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Equal for equal samples in equal splits."""
        parts = [
            self.test.manifest.digest(),
            self.train and self.train.manifest.digest(),
            self.train_rows,
            self.test_rows,
        ]
        return str(parts)

    def frames(self, split: str, limit: int | None = None) -> Frames:
        """The evaluation frames of "train" or "test". Raises ShardError, ConfigError."""
        shards, rows = self._part(split)
        assert shards is not None  # callers ask for training frames only where there are shards
        name = self.train_as if split == "train" and self.train_as else self.benchmark.name
        found = _frames(str(shards.folder), name, limit if rows is None else None)
        return found if rows is None else _chosen(found, rows[:limit])

    def count(self, split: str, limit: int | None = None) -> int:
        """How many images of a split are used."""
        shards, rows = self._part(split)
        whole = 0 if shards is None else len(shards) if rows is None else len(rows)
        return whole if limit is None else min(whole, limit)

    def _part(self, split: str) -> tuple[ShardSet | None, list[int] | None]:
        return (self.test, self.test_rows) if split == "test" else (self.train, self.train_rows)


def find_testsets(
    folders: Iterable[str],
    cache_dir: str | None,
    *,
    train_on: dict[str, str],
    hold_out: dict[str, int],
) -> tuple[dict[str, TestSet], dict[str, str]]:
    """Every benchmark whose splits lie in `folders`, as FOLDER/SPLIT, and why the others cannot be
    measured. A folder's own FOLDER/benchmark.yaml is one of them.

    train_on: a benchmark without training shards learns from another one's, with the same points.
    hold_out: of a benchmark with a single split every n-th image is tested on, and the others are
    trained on. Raises ShardError for damaged shards, ConfigError where a substitute does not fit.
    """
    places = list(folders)
    found, missing = {}, {}
    for name, here in {**dict.fromkeys(benchmark_names(), places), **_own(places)}.items():
        benchmark = find_benchmark(name)
        train = _open(here, benchmark.splits["train"], cache_dir)
        test = _open(here, benchmark.splits["test"], cache_dir)
        if train is None and test is not None and name in hold_out:
            found[name] = _held_out(benchmark, "test", test, hold_out[name])
        elif test is None and train is not None and name in hold_out:
            found[name] = _held_out(benchmark, "train", train, hold_out[name])
        elif test is None:
            searched = ", ".join(map(masked, places)) or "no folder"
            missing[name] = f"no shards {benchmark.splits['test']} in {searched}"
            if name == "aflw_rc":
                missing[name] += ": the corrected labels are not public"
        else:
            found[name] = TestSet(benchmark, test, train)
            note(found[name], "test", test)
            if train is not None:
                note(found[name], "train", train)
    for name, other in train_on.items():
        if name in found and found[name].train is None:
            _lend(found, name, other)
    return found, missing


def _own(places: list[str]) -> dict[str, list[str]]:
    """The benchmark files beside shards with points of their own, each with its folder."""
    folders = [folder for folder in places if not scheme_of(folder)]
    return {
        str(Path(folder) / BENCHMARK): [folder]
        for folder in folders
        if (Path(folder) / BENCHMARK).is_file()
    }


def note(one: TestSet, split: str, shards: ShardSet) -> None:
    """Add a note where the shards are a subset of the official split. Raises ShardError
    (check_counts).
    """
    if problem := check_counts(shards.manifest, one.benchmark, split):
        one.notes.append(f"{split} {problem}")


def _held_out(benchmark: Benchmark, split: str, shards: ShardSet, every: int) -> TestSet:
    rows = list(range(len(shards)))
    test = rows[every - 1 :: every]
    kept = sorted(set(rows) - set(test))
    one = TestSet(benchmark, shards, shards, kept, test)
    note(one, split, shards)
    other = {"train": "test", "test": "train"}[split]
    one.notes.append(
        f"no official {other} images: of the {split} images 1 in {every} is tested on "
        f"({len(test)}), the others are trained on ({len(kept)})"
    )
    return one


def _lend(found: dict[str, TestSet], name: str, other: str) -> None:
    if other not in found or found[other].train is None:
        raise ConfigError(
            f"detection.train_on.{name}={other}: found no training shards of {other}; give the "
            "folder that has them, or leave it out"
        )
    mine, theirs = found[name], found[other]
    if mine.benchmark.landmarks != theirs.benchmark.landmarks:
        raise ConfigError(
            f"detection.train_on.{name}={other}: {other} has {theirs.benchmark.landmarks} "
            f"landmarks, {name} {mine.benchmark.landmarks}; give one with the same"
        )
    mine.train, mine.train_rows, mine.train_as = theirs.train, theirs.train_rows, other
    mine.notes.append(f"no training images of its own: trained on {theirs.benchmark.title}'s")


def _open(folders: list[str], split: str, cache_dir: str | None) -> ShardSet | None:
    there = [
        folder
        for folder in folders
        if scheme_of(folder) or (Path(folder) / split / MANIFEST).exists()
    ]
    return open_shards(below(there[0], split), cache_dir) if there else None


@lru_cache(maxsize=4)
def _frames(folder: str, benchmark: str, limit: int | None) -> Frames:
    return load_frames(open_shards(folder), find_benchmark(benchmark), limit=limit)


def _chosen(frames: Frames, rows: list[int]) -> Frames:
    index = torch.tensor(rows)
    return Frames(
        frames.images[index],
        frames.landmarks[index],
        [frames.keys[i] for i in rows],
        frames.identities[index],
    )
