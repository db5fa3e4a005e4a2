"""Which trial comes next: random and grid search by number, TPE (Optuna) by what the trials before have shown.

Each draw of TPE is seeded by (seed, number), so that with one trial at a time a sweep that was stopped and went on draws
what an undisturbed one draws.
"""

import warnings
from typing import Any

from scemae.sweep.space import Parameter, rounded
from scemae.sweep.spec import Sweep
from scemae.sweep.trials import FINISHED, STOPPED, TPE, Trial, TrialRecord

STARTUP = 10  # trials before TPE begins to model: random ones (Optuna's default)
ATTEMPTS = 100  # draws of TPE that may break a constraint, before one is drawn at random


class Search:
    """Proposes trials, and is told how they end."""

    def __init__(self, sweep: Sweep, records: list[TrialRecord]) -> None:
        self._sweep, self._tpe = sweep, Tpe(sweep) if sweep.config.search == TPE else None
        for record in records:
            if record.has_ended:
                self.tell(record)
            elif self._tpe:
                self._tpe.expect(record.trial)

    def propose(self, number: int) -> Trial:
        """Trial `number`, now to be started for the first time."""
        if self._tpe is None or number < STARTUP:
            trial = self._sweep.trial(number)
            if self._tpe:
                self._tpe.expect(trial)
            return trial
        return self._tpe.propose(number)

    def tell(self, record: TrialRecord) -> None:
        """A trial has ended."""
        if self._tpe:
            self._tpe.tell(record)


class Tpe:
    """Optuna's tree-structured Parzen estimator over the space, with all parameters modelled together."""

    def __init__(self, sweep: Sweep) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._optuna, self._sweep = optuna, sweep
        self._study = optuna.create_study(directions=["minimize"] * len(sweep.config.objectives))
        self._ranges = {one.name: distribution(optuna, one) for one in sweep.space.parameters}
        self._asked: dict[int, Any] = {}

    def propose(self, number: int) -> Trial:
        """The next point that keeps the constraints."""
        for attempt in range(ATTEMPTS):
            self._seed(number, attempt)
            asked = self._study.ask(self._ranges)
            self._study.tell(
                asked, state=self._optuna.trial.TrialState.FAIL
            )  # what runs is the point as it is written
            values = {
                one.name: plain(one, asked.params[one.name]) for one in self._sweep.space.parameters
            }
            if self._sweep.space.fits(values):
                trial = Trial(number, values, TPE)
                break
        else:
            trial = self._sweep.trial(number)
        self.expect(trial)
        return trial

    def expect(self, trial: Trial) -> None:
        """A trial runs: it keeps others away from its point."""
        if self._sweep.space.contains(trial.values):
            self._study.enqueue_trial(trial.values)
            self._asked[trial.number] = self._study.ask(self._ranges)

    def tell(self, record: TrialRecord) -> None:
        """Its scores; of one that was stopped early those of its last look. A failed one says nothing."""
        state = self._optuna.trial.TrialState
        objectives = self._sweep.config.objectives
        scores = [record.scores.get(name, float("nan")) for name in objectives]
        is_good = record.outcome in (FINISHED, STOPPED) and all(score == score for score in scores)
        if not self._sweep.space.contains(record.values):
            return
        asked = self._asked.pop(record.number, None)
        if asked is None:
            self.expect(record.trial)
            asked = self._asked.pop(record.number)
        if not is_good:
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
    """A parameter's range as Optuna has it."""
    if parameter.values is not None:
        return optuna.distributions.CategoricalDistribution(parameter.values)
    if parameter.is_whole:
        return optuna.distributions.IntDistribution(
            int(parameter.low),
            int(parameter.high),
            log=parameter.log,
            step=int(parameter.step or 1),
        )
    return optuna.distributions.FloatDistribution(
        parameter.low, parameter.high, log=parameter.log, step=parameter.step
    )


def plain(parameter: Parameter, value: Any) -> Any:
    """A drawn value as the random search has it: the step it is meant to be, or to six digits."""
    if parameter.values is None and parameter.step is not None:
        return min(parameter.steps(), key=lambda step: abs(step - value))
    return rounded(value) if isinstance(value, float) and parameter.values is None else value
