"""benchmark.yaml of own annotations: the points, their pairs, and the scale of errors."""

import json
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

from scemae.errors import ConfigError, DataError
from scemae.shards.annotations.labels import LabelledObject, Labels


def choose_scale(labels: Labels, asked: tuple[str, str] | None) -> tuple[str, str]:
    """The two points whose distance scales errors: as asked, as the file says, or the two farthest
    on average. Raises ConfigError, DataError.
    """
    asked = asked or labels.scale
    if asked is not None:
        for name in asked:
            _known(name, labels, "--scale-points")
        if asked[0] == asked[1]:
            raise ConfigError(f"--scale-points: found {asked[0]!r} twice; give two points")
    if len(labels.names) < 2:
        raise DataError(
            f"{labels.source}: found the one point {labels.names[0]!r}, and two are needed, whose "
            "distance scales errors; annotate another one"
        )
    if asked is not None:
        return asked
    places = _places(labels.objects)
    gaps = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)  # n l l
    extent = np.nanmax(gaps, axis=(1, 2), keepdims=True, initial=1e-9)
    is_known = np.isfinite(gaps)
    counts = is_known.sum(axis=0)
    means = np.where(is_known, gaps / extent, 0).sum(axis=0) / np.maximum(counts, 1)
    means[counts * 2 < counts.max()] = 0  # points that few objects show would leave the others out
    first, second = np.unravel_index(means.argmax(), means.shape)
    return labels.names[min(first, second)], labels.names[max(first, second)]


def _places(objects: Iterable[LabelledObject]) -> np.ndarray:
    """(n, l, 2), NaN where a point is missing."""
    nowhere = (np.nan, np.nan)
    return np.array([[point or nowhere for point in one.points] for one in objects], float)


def _known(name: str, labels: Labels, option: str) -> None:
    if name not in labels.names:
        raise ConfigError(
            f"{option}: found {name!r}, the points are {', '.join(labels.names)}; name one of them"
        )


def choose_pairs(labels: Labels, asked: list[tuple[str, str]] | None) -> list[tuple[str, str]]:
    """The points that change places in a mirrored picture: as asked, as the file says, or by left
    and right in their names. Raises ConfigError.
    """
    asked = asked or labels.pairs
    if asked is None:
        return mirrored_pairs(labels.names)
    for name in (name for pair in asked for name in pair):
        _known(name, labels, "--pair")
    repeated = [name for name, n in Counter(n for pair in asked for n in pair).items() if n > 1]
    if repeated:
        raise ConfigError(f"--pair: found {repeated[0]!r} more than once; give it one partner")
    return asked


def mirrored_pairs(names: list[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ by left and right alone (also l and r), in any writing."""
    swap = {"left": "right", "l": "r"}
    words = {name: re.findall(r"[a-z]+|\d+|[^a-z\d]+", _spaced(name)) for name in names}
    by_words = {tuple(found): name for name, found in words.items()}
    pairs = []
    for name, found in words.items():
        other = by_words.get(tuple(swap.get(word, word) for word in found))
        if other is not None and other != name:
            pairs.append((name, other))
    return pairs


def _spaced(name: str) -> str:
    """leftEar as left ear, leftear as left ear."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return re.sub(r"(left|right)", r" \1 ", apart)


def benchmark_text(
    title: str,
    labels: Labels,
    *,
    scale: tuple[str, str],
    pairs: list[tuple[str, str]],
    margin: float,
    counts: list[int],
    splits: tuple[str, str],
) -> str:
    """The text of benchmark.yaml, which evaluation/landmarks/benchmarks.py reads."""
    place = labels.names.index
    is_complete = all(point is not None for one in labels.objects for point in one.points)
    fields = {
        "title": title,
        "landmarks": len(labels.names),
        "points": labels.names,
        "eyes": [place(name) for name in scale],
        "pairs": [[place(a), place(b)] for a, b in pairs],
        "frame": "photograph",
        "margin": margin,
        "missing": not is_complete,
        "official": {"train": counts[0], "test": counts[1]},
        "splits": {"train": splits[0], "test": splits[1]},
    }
    reasons = {
        "eyes": f"errors are in % of the distance of {scale[0]} and {scale[1]}",
        "pairs": "change places in a mirrored picture",
        "frame": "the square around the box, or the largest centred one",
        "margin": "times as wide as the box",
        "missing": "whether an object may lack some of the points",
        "official": "objects",
    }
    lines = ["# Written by `scemae shards build folder --landmarks`; it may be changed."]
    for name, value in fields.items():
        why = f"  # {reasons[name]}" if name in reasons else ""
        lines.append(f"{name}: {json.dumps(value)}{why}")
    return "\n".join(lines) + "\n"
