"""The facts of each benchmark, read from data files and checked."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from scemae.config.load import configs_dir
from scemae.data.storage.manifest import Manifest
from scemae.errors import ConfigError, ShardError
from scemae.evaluation.landmarks.frame_rules import RULES
from scemae.files import documents

SPLITS = {"train", "test"}  # of each benchmark
BENCHMARK = "benchmark.yaml"  # in a folder of shards with points of its own


@dataclass(frozen=True)
class Benchmark:
    """The facts of one data set, each with its source in configs/benchmark/NAME.yaml.

    A new data set whose frame rule is one of `RULES` needs such a file and no code.
    """

    name: str  # the argument of `find_benchmark`
    title: str  # as the paper's Table 2 calls it
    landmarks: int  # points per face
    eyes: tuple[int, int]  # the two points whose distance is the inter-ocular distance (IOD)
    frame: str  # name in `RULES` of the rule from stored image to 136 frame
    official: dict[str, int]  # images of "train" and "test"
    splits: dict[str, str]  # the folders of shards of "train" and "test"
    offset: float = 0.0  # added to raw landmarks: -1 where the files count pixels from 1 (Matlab)
    points: tuple[str, ...] = ()  # names of the landmarks, in their order
    pairs: tuple[tuple[int, int], ...] = ()  # points that change places in a mirrored picture
    margin: float = 1.0  # only for frame: photograph. The side of the frame, in sides of the box
    missing: bool = False  # whether a picture may lack some of the points
    # the paper's detection error, %IOD, by DeiT size
    targets: dict[str, float] = field(default_factory=dict)
    column: int | None = None  # of the paper's Table 2, from 1


# The paper's matching error on MAFL, (same, different) identity in 70-px units, by DeiT size and
# projected width.
MATCHING_TARGETS = {
    "T-64": (0.47, 1.99),
    "S-128": (0.31, 1.69),
    "S-256": (0.33, 1.72),
    "B-256": (0.27, 1.61),
}


def benchmark_names() -> list[str]:
    """All benchmarks, in the order of the paper's Table 2, then by name. Raises ConfigError."""
    found = [find_benchmark(path.stem) for path in sorted(_folder().glob("*.yaml"))]
    found.sort(key=lambda one: (one.column or len(found) + 1, one.name))
    return [one.name for one in found]


@cache
def find_benchmark(name: str) -> Benchmark:
    """The benchmark of configs/benchmark/`name`.yaml, or of the file `name` where that ends in
    .yaml.

    Each is read once. Raises ConfigError for an unknown name and for a missing, unknown or wrong
    field.
    """
    if name.endswith(".yaml"):
        return _read_benchmark(Path(name), name)
    if not (_folder() / f"{name}.yaml").is_file():
        raise ConfigError(
            f"benchmark: found {name!r}, needed one of {', '.join(benchmark_names())}, or a file "
            "that ends in .yaml"
        )
    return _read_benchmark(_folder() / f"{name}.yaml", name)


def check_counts(manifest: Manifest, benchmark: Benchmark, split: str) -> str | None:
    """None where the shards are the whole official `split` ("train" or "test"), else what they are
    instead.

    Raises ShardError where their manifest claims the whole set with another number of samples, or
    names another split.
    """
    where, official = f"{manifest.dataset}/{manifest.split}", benchmark.official[split]
    said = manifest.options.get("official_samples")
    if said is not None and (manifest.split, said) != (benchmark.splits[split], official):
        raise ShardError(
            f"{where}: found shards of a split of {said:,} images, {benchmark.title}'s {split} "
            f"set is {benchmark.splits[split]}, of {official:,}; give the shards of that one"
        )
    if manifest.options.get("subset") is not False:
        if manifest.samples == official:
            return f"{official:,} images, not the official ones"
        return f"subset: {manifest.samples:,} of {official:,}"
    if manifest.samples != official:
        raise ShardError(
            f"{where}: found {manifest.samples:,} samples, its manifest says that it is the whole "
            f"{split} set of {benchmark.title}, {official:,} ({len(manifest.left_out):,} were left "
            "out as unusable); repair the source and build it again"
        )
    return None


def _folder() -> Path:
    return configs_dir() / "benchmark"


def _read_benchmark(path: Path, name: str) -> Benchmark:
    remedy = f"give a file like {_folder() / 'mafl.yaml'}"
    try:
        found: Any = documents.read_yaml(path, Any, error=ConfigError, remedy=remedy)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}); {remedy}") from error
    raw: dict = found if isinstance(found, dict) else {}
    _check_fields(path, raw)
    for key, (is_right, needed) in CHECKS.items():
        if key in raw and not is_right(raw[key], raw):
            raise ConfigError(f"{path}: {key}: found {raw[key]!r}, {needed} was needed")
    tuples: dict = {key: tuple(raw[key]) for key in ("eyes", "points") if key in raw}
    if "pairs" in raw:
        tuples["pairs"] = tuple(map(tuple, raw["pairs"]))
    return Benchmark(name, **raw | tuples)


def _check_fields(path: Path, raw: dict) -> None:
    """Raise ConfigError for the first field that is missing or unknown."""
    known = [part for part in fields(Benchmark) if part.name != "name"]
    has_default = [
        part.default is not MISSING or part.default_factory is not MISSING for part in known
    ]
    needed = [part.name for part, has in zip(known, has_default, strict=True) if not has]
    optional = [part.name for part, has in zip(known, has_default, strict=True) if has]
    missing = [key for key in needed if key not in raw]
    unknown = sorted(raw.keys() - {*needed, *optional}, key=str)
    if not missing and not unknown:
        return
    what = f"found no field {missing[0]}" if missing else f"found the unknown field {unknown[0]}"
    raise ConfigError(
        f"{path}: {what}; a benchmark has {', '.join(needed)}, and may have {', '.join(optional)}"
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= 10**6


def _is_number(value: Any) -> bool:
    # not NaN, nor an int too large for a float
    return type(value) in (int, float) and abs(value) <= 1e300


def _has_parts(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and value.keys() == SPLITS and all(map(is_right, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_eyes(value: Any, landmarks: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and value[0] != value[1]
        and all(type(point) is int and 0 <= point < landmarks for point in value)
    )


# Of each field, in this order: a check of (value, all fields), and what is needed where it fails.
CHECKS: dict[str, tuple[Callable[[Any, dict], bool], str]] = {
    "title": (lambda value, raw: _is_text(value), "a name"),
    "landmarks": (lambda value, raw: _is_count(value), "a number of points above 0"),
    "eyes": (
        lambda value, raw: _are_eyes(value, raw["landmarks"]),
        "a list of two different points, counted from 0,",
    ),
    "frame": (
        lambda value, raw: isinstance(value, str) and value in RULES,
        f"one of {', '.join(RULES)}",
    ),
    "official": (
        lambda value, raw: _has_parts(value, lambda one: one == 0 or _is_count(one)),
        "a number of images each for train and test",
    ),
    "splits": (lambda value, raw: _has_parts(value, _is_text), "a folder each for train and test"),
    "offset": (lambda value, raw: _is_number(value), "a number of pixels"),
    "points": (
        lambda value, raw: (
            isinstance(value, list) and len(value) == raw["landmarks"] and all(map(_is_text, value))
        ),
        "a list of one name for each landmark",
    ),
    "pairs": (
        lambda value, raw: (
            isinstance(value, list) and all(_are_eyes(pair, raw["landmarks"]) for pair in value)
        ),
        "a list of pairs of points, counted from 0,",
    ),
    "margin": (lambda value, raw: _is_number(value) and 0.1 <= value <= 10, "0.1 to 10"),
    "missing": (lambda value, raw: isinstance(value, bool), "true or false"),
    "targets": (
        lambda value, raw: isinstance(value, dict) and all(map(_is_number, value.values())),
        "numbers by DeiT size",
    ),
    "column": (lambda value, raw: _is_count(value), "a number above 0"),
}
