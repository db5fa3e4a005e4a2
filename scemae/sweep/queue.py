"""The trials of a running sweep: which come next, how they end; writes their shared files."""

import sys
import time
from collections.abc import Callable

from scemae.errors import RunFolderError
from scemae.process.progress import progress_bar, say
from scemae.runs.generations import Generation
from scemae.sweep.processes.trial_process import clear
from scemae.sweep.ranking import BestTrials
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
    """Hands out trials, and records how they end."""

    def __init__(
        self,
        sweep: Sweep,
        generation: Generation,
        write_results: Callable[[], object] | None = None,
    ) -> None:
        """Read the trials of earlier starts: the search learns from those that ended, the others
        come first.

        write_results: called now and then when a trial has ended, and at the end.
        """
        self.sweep, self._generation, self._write_results = sweep, generation, write_results
        records = sweep.records()
        self.ended = {record.number: record for record in records if record.has_ended}
        self._resumed = [record.trial for record in records if not record.has_ended]
        known = {record.number for record in records}
        self._new = iter([number for number in range(sweep.size) if number not in known])
        self._search = Search(sweep, records)
        self._losses: dict[int, int] = {}  # by trial number
        self._best = no_best_yet(sweep)
        self._leftovers: set[int] = set()  # numbers of ended trials with files to remove
        for record in self.ended.values():
            self._rank(record)
        self._table = ResultsTable(sweep.folder, sweep.names)
        self._table.rewrite(records)
        self._began = self._written = time.monotonic()
        self._ended_before = len(self.ended)
        self._bar = progress_bar(total=sweep.size, initial=len(self.ended), unit="trial")
        if records:
            print(
                f"{sweep.folder}: {len(self.ended)} of {sweep.size} trials have ended, "
                f"{len(self._resumed)} resume from their checkpoints",
                flush=True,
            )

    @property
    def is_done(self) -> bool:
        """True once every trial has ended."""
        return len(self.ended) >= self.sweep.size

    def next(self) -> Trial | None:
        """The trial to start now, written to disk; None if all have been handed out."""
        if self._resumed:
            return self._resumed.pop(0)
        if (number := next(self._new, None)) is None:
            return None
        trial = self._search.propose(number)
        self.sweep.refuse_superseded(self._generation)
        write_trial(self.sweep.folder, trial)
        return trial

    def end(
        self, trial: Trial, outcome: str, reason: str = "", progress: float | None = None
    ) -> None:
        """Record how a trial ended. progress: see `end_trial`."""
        self.sweep.refuse_superseded(self._generation)
        record = end_trial(self.sweep.folder, trial, outcome, reason, progress)
        self.ended[trial.number] = record
        self._rank(record)
        _unless_disk_full(lambda: self._table.append(record))
        self._search.add_result(record)
        self._print(record)
        self.remove_leftovers(but=trial.number)
        if self._write_results and time.monotonic() - self._written > 60 + len(self.ended) / 10:
            _unless_disk_full(self._write_results)
            self._written = time.monotonic()

    def lose(self, trial: Trial, reason: str) -> None:
        """Queue a trial again whose processes or node are gone; it fails after `retries` times."""
        count = self._losses[trial.number] = self._losses.get(trial.number, 0) + 1
        if count > self.sweep.config.retries:
            self.end(trial, FAILED, f"lost {count} times: {reason}")
            return
        say(f"trial {trial.number}: {reason}; it resumes from its last checkpoint", sys.stdout)
        self._resumed.append(trial)

    def put_back(self, trial: Trial) -> None:
        """Queue a stopped trial that has saved: `next` gives it before any new trial."""
        self._resumed.append(trial)

    def remove_leftovers(self, but: int | None = None) -> None:
        """Remove what ended trials no longer need: their own tokens, and checkpoints of all but the
        best.

        but: a trial whose processes may still live.
        """
        for number in [number for number in self._leftovers if number != but]:
            _remove_leftovers_of(self.sweep, self.ended[number], self._best)
            self._leftovers.discard(number)

    def _rank(self, record: TrialRecord) -> None:
        """Update the best trials; files of a trial that is not among them may be removed."""
        before = self._best.kept
        self._best.add(record)
        self._leftovers |= {record.number, *(before - self._best.kept)}

    def close(self) -> None:
        """Remove the last leftovers and write the results."""
        self.remove_leftovers()
        self._bar.close()
        if self._write_results:
            self._write_results()

    def _print(self, record: TrialRecord) -> None:
        names = [name for name in self.sweep.config.objectives if name in record.scores]
        scores = " ".join(f"{name} {record.scores[name]:.3f}" for name in names)
        text = f"trial {record.number} {record.outcome}"
        if record.outcome == STOPPED:
            text += f" at step {record.step} of {record.total}"
        if scores or record.reason:
            text += f": {scores or record.reason}"
        if self._best.ordered:
            text += " (best {:.3f} of trial {})".format(*self._best.ordered[0])
        minutes = max(time.monotonic() - self._began, 1e-9) / 60
        rate = (len(self.ended) - self._ended_before) / minutes
        left = (self.sweep.size - len(self.ended)) / rate
        done = f"{len(self.ended)} of {self.sweep.size}"
        say(f"{text}; {done}, {rate:.1f} trials/min, {left:.0f} min left", sys.stdout)
        self._bar.update()


def _unless_disk_full(write: Callable[[], object]) -> None:
    """Call `write`; print its error, since the end and the next start write the same again."""
    try:
        write()
    except (OSError, RunFolderError) as error:
        print(
            f"scemae sweep: {error}; the sweep continues, table and page follow at its end",
            file=sys.stderr,
            flush=True,
        )


def no_best_yet(sweep: Sweep) -> BestTrials:
    """An empty list of the best trials; it keeps at least one, for the printed lines."""
    return BestTrials(list(sweep.config.objectives), max(sweep.config.keep, 1))


def remove_leftovers(sweep: Sweep) -> None:
    """Remove what ended trials no longer need, after jobs of an array, which have no TrialQueue."""
    ended, best = [record for record in sweep.records() if record.has_ended], no_best_yet(sweep)
    for record in ended:
        best.add(record)
    for record in ended:
        _remove_leftovers_of(sweep, record, best)


def _remove_leftovers_of(sweep: Sweep, record: TrialRecord, best: BestTrials) -> None:
    clear(record.trial.folder(sweep.folder))
    if sweep.config.keep and record.number not in best.kept:
        drop_checkpoints(sweep.folder, record.trial)
