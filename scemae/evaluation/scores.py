"""Mean errors with bootstrap intervals, and paired comparisons of methods."""

from dataclasses import dataclass

import numpy as np

from scemae.errors import ConfigError
from scemae.evaluation.landmarks.benchmarks import Benchmark
from scemae.evaluation.landmarks.matching import MatchingErrors

CHUNK = 1 << 22  # resampled values held at a time


@dataclass
class Estimate:
    """A mean over `n` pairs or images, and its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    level: float = 0.95


@dataclass
class Comparison:
    """Two methods on the same pairs or images; a negative difference: the first errs less."""

    first: float  # mean error of the first method
    second: float
    difference: Estimate  # first - second, resampled together
    wins: float  # share of pairs or images on which the first errs strictly less
    ties: float

    @property
    def is_decided(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclass
class MatchingScore:
    """Matching on one list of pairs (PROTOCOL 8), in 70-px units and in pixels of the 96 crop."""

    same: Estimate
    different: Estimate
    same_96: float
    different_96: float
    same_per_landmark: list[float]  # 70-px units
    different_per_landmark: list[float]
    pairs_hash: str
    unit: str = "pixels of a 70-px frame (96-px errors times 70/96)"
    warping: str = "align_corners=True"


@dataclass
class DetectionScore:
    """Detection on one test set: mean error in per cent of the inter-ocular distance."""

    benchmark: str
    error: Estimate
    unit: str = "% of the inter-ocular distance"


def bootstrap(
    values: np.ndarray, *, seed: int = 0, draws: int = 10_000, level: float = 0.95
) -> Estimate:
    """Mean of values (n,) and its percentile bootstrap interval. Raises ConfigError if empty."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ConfigError(
            f"scores: found errors of shape {values.shape}, needed at least one number per pair or "
            "image"
        )
    random, rows = np.random.default_rng(seed), max(1, CHUNK // len(values))
    parts = []
    for done in range(0, draws, rows):
        size = min(rows, draws - done), len(values)
        parts.append(values[random.integers(len(values), size=size)].mean(axis=1))
    means = np.concatenate(parts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values.mean()), float(low), float(high), len(values), level)


def compare(
    first: np.ndarray,
    second: np.ndarray,
    *,
    seed: int = 0,
    draws: int = 10_000,
    level: float = 0.95,
) -> Comparison:
    """Compare two methods by their errors (n,) on the same pairs or images, in the same order.

    Raises ConfigError where the shapes differ.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape:
        raise ConfigError(
            f"scores: found errors of shapes {first.shape} and {second.shape}, a comparison needs "
            "the same pairs or images for both"
        )
    difference = bootstrap(first - second, seed=seed, draws=draws, level=level)
    return Comparison(
        float(first.mean()),
        float(second.mean()),
        difference,
        float((first < second).mean()),
        float((first == second).mean()),
    )


def score_matching(errors: MatchingErrors, *, seed: int = 0, draws: int = 10_000) -> MatchingScore:
    """Mean over pairs and landmarks; the bootstrap draws pairs."""
    same, different = (
        bootstrap(part.mean(axis=1), seed=seed, draws=draws)
        for part in (errors.same, errors.different)
    )
    return MatchingScore(
        same,
        different,
        float(errors.same_96.mean()),
        float(errors.different_96.mean()),
        errors.same.mean(axis=0).tolist(),
        errors.different.mean(axis=0).tolist(),
        errors.pairs_hash,
    )


def compare_matching(
    first: MatchingErrors, second: MatchingErrors, *, seed: int = 0
) -> dict[str, Comparison]:
    """Compare two matchers on "same" and "different" pairs. Raises ConfigError if they had other
    pairs.
    """
    if first.pairs_hash != second.pairs_hash:
        raise ConfigError(
            f"scores: the methods saw pairs {first.pairs_hash[:12]} and {second.pairs_hash[:12]}; "
            "evaluate both on the same manifest"
        )
    return {
        kind: compare(
            getattr(first, kind).mean(axis=1), getattr(second, kind).mean(axis=1), seed=seed
        )
        for kind in ("same", "different")
    }


def score_detection(
    errors: np.ndarray, benchmark: Benchmark, *, seed: int = 0, draws: int = 10_000
) -> DetectionScore:
    """Mean over the images of errors (n,) in %IOD; the bootstrap draws images."""
    return DetectionScore(benchmark.name, bootstrap(errors, seed=seed, draws=draws))
