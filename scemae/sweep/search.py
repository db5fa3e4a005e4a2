"""Which trial comes next: by its number for random and grid search, by TPE (Optuna) from scores.

Each draw of TPE is seeded by (seed, number), so that with one trial at a time a sweep that was
stopped and resumed draws the same trials as an uninterrupted one.
"""

import math
import warnings
from typing import Any

from scemae.sweep.space import Parameter, rounded
from scemae.sweep.spec import Sweep
from scemae.sweep.trials import FINISHED, STOPPED, TPE, Trial, TrialRecord

STARTUP = 10  # random trials before TPE begins to model (Optuna's default)
ATTEMPTS = 100  # draws of TPE that may break a constraint before one is drawn at random


class Search:
    """Proposes trials, and learns how they end."""

    def __init__(self, sweep: Sweep, records: list[TrialRecord]) -> None:
        """records: the trials of earlier starts."""
        self._sweep, self._tpe = sweep, Tpe(sweep) if sweep.config.search == TPE else None
        for record in records:
            if record.has_ended:
                self.add_result(record)
            elif self._tpe:
                self._tpe.add_running(record.trial)

    def propose(self, number: int) -> Trial:
        """Trial `number`, to be started for the first time now."""
        if self._tpe is None or number < STARTUP:
            trial = self._sweep.trial(number)
            if self._tpe:
                self._tpe.add_running(trial)
            return trial
        return self._tpe.propose(number)

    def add_result(self, record: TrialRecord) -> None:
        """Take in a trial that has ended."""
        if self._tpe:
            self._tpe.add_result(record)


class Tpe:
    """Optuna's tree-structured Parzen estimator over the space, all parameters modelled jointly."""

    def __init__(self, sweep: Sweep) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Choices for a categorical distribution")  # lists
        self._optuna, self._sweep = optuna, sweep
        self._study = optuna.create_study(directions=["minimize"] * len(sweep.config.objectives))
        self._ranges = {one.name: distribution(optuna, one) for one in sweep.space.parameters}
        self._running: dict[int, Any] = {}  # Optuna's trials by our number

    def propose(self, number: int) -> Trial:
        """The next point that keeps the constraints."""
        for attempt in range(ATTEMPTS):
            self._seed(number, attempt)
            asked = self._study.ask(self._ranges)
            # Forgotten: the point that runs is the rounded one, which add_running adds.
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
            parameters = self._sweep.space.parameters
            values = {one.name: as_drawn(one, asked.params[one.name]) for one in parameters}
            if self._sweep.space.fits(values):
                trial = Trial(number, values, TPE)
                break
        else:
            trial = self._sweep.trial(number)
        self.add_running(trial)
        return trial

    def add_running(self, trial: Trial) -> None:
        """A trial runs: TPE proposes no other points close to it."""
        if self._sweep.space.contains(trial.values):
            self._study.enqueue_trial(trial.values)
            self._running[trial.number] = self._study.ask(self._ranges)

    def add_result(self, record: TrialRecord) -> None:
        """Give Optuna the scores of a trial; the last if it stopped early, none if it failed."""
        if not self._sweep.space.contains(record.values):
            return
        if record.number not in self._running:
            self.add_running(record.trial)
        asked, state = self._running.pop(record.number), self._optuna.trial.TrialState
        objectives = self._sweep.config.objectives
        scores = [record.scores.get(name, math.nan) for name in objectives]
        if record.outcome not in (FINISHED, STOPPED) or any(map(math.isnan, scores)):
            self._study.tell(asked, state=state.FAIL)
        elif record.outcome == STOPPED and len(objectives) == 1:
            for step, found in record.curve:
                asked.report(found[objectives[0]], step)
            self._study.tell(asked, state=state.PRUNED)
        else:
            self._study.tell(asked, scores)

    def _seed(self, number: int, attempt: int) -> None:
        seed = (self._sweep.config.seed * 1_000_003 + number * 1009 + attempt) % 2**32
        self._study.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=seed
        )


def distribution(optuna: Any, parameter: Parameter) -> Any:
    """A parameter's range as a distribution of Optuna."""
    kinds, low, high = optuna.distributions, parameter.low, parameter.high
    if parameter.values is not None:
        return kinds.CategoricalDistribution(parameter.values)
    if parameter.is_whole:
        step = int(parameter.step or 1)
        return kinds.IntDistribution(int(low), int(high), log=parameter.log, step=step)
    return kinds.FloatDistribution(low, high, log=parameter.log, step=parameter.step)


def as_drawn(parameter: Parameter, value: Any) -> Any:
    """A value of Optuna as the random search draws it: the nearest step, else six digits."""
    if parameter.values is None and parameter.step is not None:
        return min(parameter.steps(), key=lambda step: abs(step - value))
    return rounded(value) if isinstance(value, float) and parameter.values is None else value
