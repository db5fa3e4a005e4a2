"""Which settings matter: PED-ANOVA (Watanabe et al. 2023) over the finished trials, as Optuna has it.

PED-ANOVA asks how a setting's values among the best quarter of trials differ from those among all: a setting that does not
matter has the same values in both. It draws nothing at random, and takes a fraction of a second for 10,000 trials, where
fANOVA's forest takes 40 s for 1,000 (one thread of two).
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from scemae.sweep.page.axes import Axis, say
from scemae.sweep.ranking import ranked, score
from scemae.sweep.trials import TrialRecord

FEWEST = 10  # finished trials
QUARTER = 0.25  # Optuna's own 0.1 leaves one trial of ten to compare: all numbers then weigh the same (ours)
RESAMPLES = 30  # of trials, for an interval (ours)
MANY = 1000  # trials from which none is asked for: 30 more studies take long, and say little


@dataclass
class Importance:
    """Each setting's share of what decides (sum 1), over n trials; bounds hold 95 % of resampled ones, or are missing."""

    n: int
    shares: dict[str, float] = field(default_factory=dict)  # the greatest first
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    missing: str = ""  # why there are no shares


def importances(records: list[TrialRecord], objective: str, axes: list[Axis]) -> Importance:
    """How much each setting of `axes` decides whether a trial is among the best quarter by `objective`.

    Trials without a value or a score take no part. Settings whose value never changed have no share.
    """
    order = sorted(ranked(records, objective), key=lambda one: one.number)
    rows = [
        one
        for one in order
        if not any(np.isnan(axis.place(one.values.get(axis.name))) for axis in axes)
    ]
    scores = np.array([score(one, objective) for one in rows])
    varied = [axis for axis in axes if len({axis.place(one.values[axis.name]) for one in rows}) > 1]
    if len(rows) < FEWEST:
        return Importance(
            len(rows),
            missing=f"found {len(rows)} finished with a score, needed {FEWEST} trials at least",
        )
    if scores.min() == scores.max():
        return Importance(len(rows), missing=f"all {len(rows)} finished trials have the same score")
    if len(varied) < 2:
        return Importance(
            len(rows),
            missing="fewer than two settings were varied, so there is nothing to share out",
        )
    if find_spec("optuna") is None:
        return Importance(
            len(rows),
            missing="found no optuna; `pip install 'scemae[sweep]'`, then `scemae sweep --page` again",
        )
    shares = evaluate(rows, scores, varied)
    names = sorted(shares, key=lambda name: -shares[name])
    found = Importance(len(rows), {name: shares[name] for name in names})
    if len(rows) <= MANY:
        generator = np.random.default_rng(0)
        chosen = [generator.integers(len(rows), size=len(rows)) for _ in range(RESAMPLES)]
        drawn = [
            evaluate([rows[i] for i in part], scores[part], varied)
            for part in chosen
            if np.ptp(scores[part]) > 0
        ]
        bounds = {name: np.percentile([one[name] for one in drawn], (2.5, 97.5)) for name in names}
        found.low, found.high = (
            {name: float(bounds[name][end]) for name in names} for end in (0, 1)
        )
    return found


def evaluate(rows: list[TrialRecord], scores: np.ndarray, axes: list[Axis]) -> dict[str, float]:
    """The share of each of two or more axes, by Optuna, over trials that have values on all.

    Numbers are given by their place on the axis, 0 to 1, so that logarithms are taken as the search took them.
    """
    import optuna  # heavy, and only `pip install 'scemae[sweep]'` brings it

    spaces: dict[str, Any] = {
        axis.name: optuna.distributions.CategoricalDistribution(axis.words)
        if axis.words
        else optuna.distributions.FloatDistribution(0.0, 1.0)
        for axis in axes
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it says in the log that a study was made
    try:
        study = optuna.create_study()
        for one, value in zip(rows, scores):
            values = {axis.name: point(axis, one.values[axis.name]) for axis in axes}
            study.add_trial(
                optuna.trial.create_trial(params=values, distributions=spaces, value=float(value))
            )
        judge = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=QUARTER)
        shares = optuna.importance.get_param_importances(study, evaluator=judge)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {axis.name: float(shares.get(axis.name, 0.0)) for axis in axes}


def point(axis: Axis, value: Any) -> str | float:
    """A value as Optuna is told it."""
    return (
        say(value) if axis.words else min(max(axis.place(value), 0.0), 1.0)
    )  # rounding may leave the range
