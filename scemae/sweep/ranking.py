"""Which trials are best: by one score, by several, and whether another score ranks them alike.

Lower scores are better. Only finished trials are ranked: a trial that was stopped early was scored
after less training.
"""

import bisect
import math
from dataclasses import dataclass

import numpy as np

from scemae.sweep.trials import FINISHED, TrialRecord

RESAMPLES = 1000  # of trials, for an interval (ours)
AT_ONCE = 50  # resamples ranked in one array: 8 MB for 10,000 trials


@dataclass
class Agreement:
    """Spearman's rank correlation of two scores over n trials, with its 95 % bootstrap interval."""

    n: int
    rho: float
    low: float
    high: float


def score(record: TrialRecord, objective: str) -> float:
    """A trial's last score; NaN if it has none or diverged."""
    value = float(record.scores.get(objective, math.nan))
    return value if math.isfinite(value) else math.nan


def ranked(records: list[TrialRecord], objective: str) -> list[TrialRecord]:
    """The finished trials that have a score, best first, ties by number."""
    scored = [
        one for one in records if one.outcome == FINISHED and not math.isnan(score(one, objective))
    ]
    return sorted(scored, key=lambda one: (score(one, objective), one.number))


def best(records: list[TrialRecord], objective: str) -> TrialRecord | None:
    """The finished trial with the lowest score, the first of equal ones; None if none has one."""
    return next(iter(ranked(records, objective)), None)


def pareto_front(records: list[TrialRecord], objectives: list[str]) -> list[TrialRecord]:
    """The finished trials that no other dominates, ordered by the first objective.

    A trial dominates another if it is as good in every objective and better in one; trials with the
    same scores do not. A trial without one of the scores is left out.
    """
    found = []
    for one in ranked(records, objectives[0]):
        point = tuple(score(one, name) for name in objectives)
        if not any(map(math.isnan, point)):
            found.append((point, one))
    front: list[TrialRecord] = []
    scores = np.empty((len(found), len(objectives)))  # of the front, in its first rows
    # In this order a trial comes after all that dominate it, and one of those is in the front.
    for point, one in sorted(found, key=lambda pair: (pair[0], pair[1].number)):
        before = scores[: len(front)]
        if not ((before <= point).all(axis=1) & (before < point).any(axis=1)).any():
            scores[len(front)] = point
            front.append(one)
    return front


class BestTrials:
    """The best trials so far, updated trial by trial: by the first objective, and the front."""

    def __init__(self, objectives: list[str], most: int) -> None:
        """most: how many, beside the Pareto front of several objectives."""
        self._objectives, self._most = objectives, most
        self.ordered: list[tuple[float, int]] = []  # score and number, best first
        self._front: list[TrialRecord] = []

    def add(self, record: TrialRecord) -> None:
        """Take in a trial that has ended."""
        own = score(record, self._objectives[0])
        if record.outcome != FINISHED or math.isnan(own):
            return
        bisect.insort(self.ordered, (own, record.number))
        del self.ordered[self._most :]
        if len(self._objectives) > 1:
            self._front = pareto_front([*self._front, record], self._objectives)

    @property
    def kept(self) -> set[int]:
        """Numbers of the trials that keep their checkpoints: these and the paper's setting."""
        numbers = [number for _, number in self.ordered]
        return {0, *numbers, *(record.number for record in self._front)}


def agreement(records: list[TrialRecord], first: str, second: str) -> Agreement | None:
    """How alike two scores rank the finished trials that have both; None if one is constant.

    The interval is the 2.5th to 97.5th percentile over resampled trials (ours), drawn with a fixed
    seed: the same trials always give the same interval.
    """
    from scipy.stats import rankdata, spearmanr  # heavy, and only the page needs it

    both = [(score(one, first), score(one, second)) for one in ranked(records, first)]
    pairs = np.array(both).reshape(-1, 2)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    if len(pairs) < 3 or (pairs == pairs[0]).all(axis=0).any():
        return None
    generator, found = np.random.default_rng(0), []
    for _ in range(RESAMPLES // AT_ONCE):
        chosen = generator.integers(len(pairs), size=(AT_ONCE, len(pairs)))
        ranks = rankdata(pairs[chosen], axis=1)  # resamples, trials, 2
        ranks -= ranks.mean(axis=1, keepdims=True)
        spread = np.sqrt((ranks**2).sum(axis=1).prod(axis=1))
        found.append(ranks.prod(axis=2).sum(axis=1) / np.where(spread > 0, spread, np.nan))
    low, high = np.nanpercentile(np.concatenate(found), (2.5, 97.5))
    return Agreement(len(pairs), float(spearmanr(*pairs.T).statistic), float(low), float(high))
