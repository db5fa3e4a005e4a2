"""Measuring several cases in turns, so that other work on the machine slows all of them alike."""

from collections.abc import Callable
from statistics import median


def interleave(cases: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run all cases in turns, `repeats` times (A B C A B C ...). A case returns images/s."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            found[name].append(case())
    return found


def summary(values: list[float]) -> dict[str, float]:
    """Median, least and most of the repeats of one case."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratio(ours: list[float], peer: list[float]) -> float:
    """How many times faster `ours` is: the median of the ratios within each round."""
    return median(mine / theirs for mine, theirs in zip(ours, peer, strict=True))
