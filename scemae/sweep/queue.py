"""The book of a sweep that runs: which trials wait, run, have ended; the one writer of all that they share."""

import sys
import time
from collections.abc import Callable

from scemae.errors import RunFolderError
from scemae.process.progress import progress_bar, say
from scemae.runs.generations import Generation
from scemae.sweep import ranking
from scemae.sweep.processes.trial_process import clear
from scemae.sweep.search import Search
from scemae.sweep.spec import Sweep
from scemae.sweep.trials import (
    FAILED,
    STOPPED,
    ResultsTable,
    Trial,
    TrialRecord,
    drop_checkpoints,
    end_trial,
    write_trial,
)


class TrialQueue:
    """Hands out trials, and writes down how they end."""

    def __init__(
        self, sweep: Sweep, generation: Generation, show: Callable[[], None] = lambda: None
    ) -> None:
        """Reads what earlier starts left: trials that ended are told to the search, the others come first. `show` is called
        now and then, when a trial has ended."""
        self.sweep, self._generation, self._show = sweep, generation, show
        records = sweep.records()
        self.ended = {record.number: record for record in records if record.has_ended}
        self._again = [record.trial for record in records if not record.has_ended]
        known = {record.number for record in records}
        self._new = iter([number for number in range(sweep.size) if number not in known])
        self._search = Search(sweep, records)
        self._losses: dict[int, int] = {}
        self._best = no_best_yet(sweep)
        self._leavings: set[int] = set()  # of ended trials, to be removed
        for record in self.ended.values():
            self._sort_in(record)
        self._table = ResultsTable(sweep.folder, sweep.names)
        self._table.rewrite(iter(records))
        self._began, self._ended_before, self._shown = (
            time.monotonic(),
            len(self.ended),
            time.monotonic(),
        )
        self._bar = progress_bar(total=sweep.size, initial=len(self.ended), unit="trial")
        if records:
            print(
                f"{sweep.folder}: {len(self.ended)} of {sweep.size} trials have ended, {len(self._again)} go on where they "
                "stood",
                flush=True,
            )

    @property
    def is_done(self) -> bool:
        """True once every trial has ended."""
        return len(self.ended) >= self.sweep.size

    def next(self) -> Trial | None:
        """The trial to start now, on disk already; None where all have been handed out."""
        if self._again:
            return self._again.pop(0)
        if (number := next(self._new, None)) is None:
            return None
        trial = self._search.propose(number)
        self._check()
        write_trial(self.sweep.folder, trial)
        return trial

    def end(
        self, trial: Trial, outcome: str, reason: str = "", progress: float | None = None
    ) -> None:
        """Write down how a trial ended, in all places; of one that was stopped, the share of its training at that look."""
        self._check()
        record = end_trial(self.sweep.folder, trial, outcome, reason, progress)
        self.ended[trial.number] = record
        self._sort_in(record)
        _go_on(lambda: self._table.append(record))
        self._search.tell(record)
        self._tell(record)
        self.remove_leftovers(but=trial.number)
        if time.monotonic() - self._shown > 60 + len(self.ended) / 10:
            _go_on(self._show)
            self._shown = time.monotonic()

    def lose(self, trial: Trial, reason: str) -> None:
        """The processes of a trial, or its node, are gone: it goes on, `retries` times."""
        self._losses[trial.number] = self._losses.get(trial.number, 0) + 1
        if self._losses[trial.number] > self.sweep.config.retries:
            self.end(trial, FAILED, f"lost {self._losses[trial.number]} times: {reason}")
            return
        say(f"trial {trial.number}: {reason}; it goes on from its last checkpoint", sys.stdout)
        self._again.append(trial)

    def put_back(self, trial: Trial) -> None:
        """A trial that was asked to stop, and saved: it comes first when the sweep goes on."""
        self._again.append(trial)

    def remove_leftovers(self, but: int | None = None) -> None:
        """Remove what ended trials no longer need: tokens of their own, and checkpoints of all but the best. `but`: its
        processes may live for a moment yet."""
        for number in [number for number in self._leavings if number != but]:
            clear(self.ended[number].trial.folder(self.sweep.folder))
            self._leavings.discard(number)
            if self.sweep.config.keep and number not in self._best.kept:
                drop_checkpoints(self.sweep.folder, self.ended[number].trial)

    def _sort_in(self, record: TrialRecord) -> None:
        """Who is not among the best, or falls out of them, is swept up."""
        before = self._best.kept
        self._best.add(record)
        self._leavings |= {record.number, *(before - self._best.kept)}

    def close(self) -> None:
        """The last look at everything."""
        self.remove_leftovers()
        self._bar.close()
        self._show()

    def _check(self) -> None:
        self.sweep.refuse_superseded(self._generation)

    def _tell(self, record: TrialRecord) -> None:
        found = " ".join(
            f"{name} {record.scores[name]:.3f}"
            for name in self.sweep.config.objectives
            if name in record.scores
        )
        seconds = time.monotonic() - self._began
        rate = 60 * (len(self.ended) - self._ended_before) / max(seconds, 1e-9)
        left = (self.sweep.size - len(self.ended)) / rate
        said = (
            f"trial {record.number} {record.outcome}"
            + (f" at step {record.step} of {record.total}" if record.outcome == STOPPED else "")
            + (f": {found or record.reason}" if found or record.reason else "")
        )
        if self._best.ordered:
            said += " (best {:.3f} of trial {})".format(*self._best.ordered[0])
        say(
            f"{said}; {len(self.ended)} of {self.sweep.size}, {rate:.1f} trials/min, {left:.0f} min left",
            sys.stdout,
        )
        self._bar.update()


def _go_on(write: Callable[[], object]) -> None:
    """Write what is made again from trials/ at the next start and at the end: where the disk is full the sweep goes on."""
    try:
        write()
    except (OSError, RunFolderError) as error:
        print(
            f"scemae sweep: {error}; the sweep goes on, table and page follow at its end",
            file=sys.stderr,
            flush=True,
        )


def no_best_yet(sweep: Sweep) -> ranking.BestTrials:
    """None yet, by this sweep's objectives; at least one is asked for, to be told of."""
    return ranking.BestTrials(list(sweep.config.objectives), max(sweep.config.keep, 1))


def remove_leftovers(sweep: Sweep) -> None:
    """Remove what ended trials no longer need, as a book does on its way: after jobs of an array, which have none."""
    ended, best = [record for record in sweep.records() if record.has_ended], no_best_yet(sweep)
    for record in ended:
        best.add(record)
    for record in ended:
        clear(record.trial.folder(sweep.folder))
        if sweep.config.keep and record.number not in best.kept:
            drop_checkpoints(sweep.folder, record.trial)
