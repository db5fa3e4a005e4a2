"""Which settings matter: Optuna's PED-ANOVA (Watanabe et al. 2023) over the finished trials.

PED-ANOVA asks how a setting's values among the best quarter of trials differ from those among all:
they are the same for a setting that does not matter. It draws no random numbers, and takes a
fraction of a second for 10,000 trials, where fANOVA takes 40 s for 1,000 (one thread of two).
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from scemae.sweep.page.setting_axes import SettingAxis, as_text
from scemae.sweep.ranking import ranked, score
from scemae.sweep.trials import TrialRecord

FEWEST = 10  # finished trials
QUARTER = 0.25  # Optuna's default, 0.1, compares one trial of ten: all shares are then equal (ours)
RESAMPLES = 30  # of trials, for an interval (ours)
MANY = 1000  # trials above which there is no interval: 30 more studies would take long


@dataclass
class Importance:
    """Each setting's share of the importance (sum 1) over n trials, or why there is none.

    The interval low..high holds 95 % of resampled lists of trials; empty for very many trials.
    """

    n: int
    shares: dict[str, float] = field(default_factory=dict)  # the greatest first
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    missing: str = ""


def importances(records: list[TrialRecord], objective: str, axes: list[SettingAxis]) -> Importance:
    """How much each setting decides whether a trial is in the best quarter by `objective`.

    Trials without a value or a score are left out, as are settings whose value never changed.
    """
    order = sorted(ranked(records, objective), key=lambda one: one.number)
    has_all = ~np.isnan(np.array([axis.places(order) for axis in axes])).any(axis=0)
    rows = [one for one, whole in zip(order, has_all) if whole] if axes else order
    scores = np.array([score(one, objective) for one in rows])
    varied = [axis for axis in axes if len(set(axis.places(rows))) > 1]
    if missing := _obstacle(scores, varied):
        return Importance(len(rows), missing=missing)
    shares = evaluate(rows, scores, varied)
    names = sorted(shares, key=lambda name: -shares[name])
    found = Importance(len(rows), {name: shares[name] for name in names})
    if len(rows) <= MANY:
        generator = np.random.default_rng(0)
        chosen = [generator.integers(len(rows), size=len(rows)) for _ in range(RESAMPLES)]
        resampled = [
            evaluate([rows[i] for i in part], scores[part], varied)
            for part in chosen
            if np.ptp(scores[part]) > 0
        ]
        for name in names:
            low, high = np.percentile([one[name] for one in resampled], (2.5, 97.5))
            found.low[name], found.high[name] = float(low), float(high)
    return found


def _obstacle(scores: np.ndarray, varied: list[SettingAxis]) -> str:
    if len(scores) < FEWEST:
        return f"found {len(scores)} finished with a score, needed {FEWEST} trials at least"
    if scores.min() == scores.max():
        return f"all {len(scores)} finished trials have the same score"
    if len(varied) < 2:
        return "fewer than two settings were varied, so there is nothing to share out"
    if find_spec("optuna") is None:
        return "found no optuna; `pip install 'scemae[sweep]'`, then `scemae sweep --page` again"
    return ""


def evaluate(
    rows: list[TrialRecord], scores: np.ndarray, axes: list[SettingAxis]
) -> dict[str, float]:
    """The share of each of two or more axes, by Optuna, over trials that have values on all.

    Numbers are given by their place on the axis, 0 to 1, so that Optuna sees the same logarithms
    as the search did.
    """
    import optuna  # heavy, and only `pip install 'scemae[sweep]'` brings it

    spaces: dict[str, optuna.distributions.BaseDistribution] = {
        axis.name: optuna.distributions.CategoricalDistribution(axis.categories)
        if axis.categories
        else optuna.distributions.FloatDistribution(0.0, 1.0)
        for axis in axes
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # without a line for each new study
    try:
        study = optuna.create_study()
        for one, value in zip(rows, scores):
            values = {axis.name: optuna_value(axis, one.values[axis.name]) for axis in axes}
            study.add_trial(
                optuna.trial.create_trial(params=values, distributions=spaces, value=float(value))
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=QUARTER)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {axis.name: float(shares.get(axis.name, 0.0)) for axis in axes}


def optuna_value(axis: SettingAxis, value: Any) -> str | float:
    """A value as Optuna gets it: a category, or its place on the axis, limited to 0..1."""
    return as_text(value) if axis.categories else min(max(axis.place(value), 0.0), 1.0)
