"""One start of a trial on this machine: its ranks, and the evaluations that its run shows."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from scemae.runs import generations
from scemae.runs.generation_files import METRICS
from scemae.sweep.processes.rank_processes import ForkServerClient, Ranks
from scemae.sweep.trials import FAILED, FINISHED, RUNNING, Trial, TrialRecord, drop, read_run

ASKED, KILLED = "asked to stop", "killed"  # outcomes of a start; after both the trial is resumed
POLL_SECONDS = 0.1
SAVE_SECONDS = 600.0  # that a trial gets to save; what ends a job sooner ends it too
STOP_FILE = "SCEMAE_SWEEP_STOP"  # environment: if that file exists, all trials of the node stop


@dataclass
class TrialCommand:
    """What a worker needs to start a trial."""

    sweep: Path
    trial: Trial
    arguments: list[str]  # of `scemae`
    ranks: int
    environment: dict[str, str]

    @property
    def folder(self) -> Path:
        """The trial's folder."""
        return self.trial.folder(self.sweep)


class TrialProcess:
    """One start of a trial. `next_evaluation` waits for its next score; `close` ends it."""

    def __init__(
        self,
        command: TrialCommand,
        server: ForkServerClient,
        is_asked: Callable[[], bool] | None = None,
    ) -> None:
        """is_asked: whether the trial is to stop; None: if the file that STOP_FILE names exists."""
        self.command, self._server = command, server
        self._ranks: Ranks | None = None
        self._is_asked = is_asked or _stop_file_exists
        self._asked, self._size = False, -1
        # The last evaluation is reported again, since the scheduler may not have decided on it.
        self._reported = max(len(read_run(command.sweep, command.trial).curve) - 1, 0)

    def next_evaluation(self) -> tuple[TrialRecord, str]:
        """Wait for the next evaluation, or the end.

        Returns the record, and RUNNING, FINISHED, FAILED, ASKED or KILLED. Evaluations are reported
        one by one, even if several are there, so that decisions on them do not depend on the clock.
        """
        command = self.command
        if self._ranks is None and not self._is_asked():
            log = command.folder / "log.txt"
            self._ranks = Ranks(
                self._server, command.arguments, command.ranks, log, command.environment
            )
        while self._ranks is not None:
            status = self._ranks.poll()  # before the read: then nothing is written after it
            if status is not None or self._has_grown():
                record = read_run(command.sweep, command.trial)
                if self._report_one_more(record):
                    curve = record.curve[: self._reported]
                    return replace(record, curve=curve, scores=curve[-1][1]), RUNNING
                if status is not None:
                    return self._end_of(record, status)
            if self._is_asked() and not self._asked:
                self._asked = True
                self._ranks.stop(SAVE_SECONDS)
            time.sleep(POLL_SECONDS)
        return read_run(command.sweep, command.trial), ASKED

    def close(self, patience: float = 0.0) -> None:
        """End its ranks, after `patience` seconds to save; what was saved before stays."""
        if self._ranks is not None:
            self._ranks.stop(patience)

    def _report_one_more(self, record: TrialRecord) -> bool:
        """True if an evaluation is still to be reported; the one at the end is part of FINISHED."""
        is_complete = bool(record.curve) and record.curve[-1][0] == record.total
        if self._reported >= len(record.curve) - is_complete:
            return False
        self._reported, self._size = self._reported + 1, -1  # -1: read again, there may be more
        return True

    def _end_of(self, record: TrialRecord, status: int) -> tuple[TrialRecord, str]:
        if status == 0 and record.scores and record.step == record.total:
            return record, FINISHED
        if status == 75:
            return record, ASKED if self._asked else KILLED
        if status < 0 or status > 128:
            record.reason = f"killed by {signal.Signals(abs(status) % 128).name}"
            return record, ASKED if self._asked else KILLED
        no_score = "it has no score at its last step; see log.txt"
        record.reason = self._last_message() if status else no_score
        return record, FAILED

    def _last_message(self) -> str:
        """The last line of ours in its log, else the last line."""
        try:
            text = (self.command.folder / "log.txt").read_text(encoding="utf8", errors="replace")
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.strip()]
        found = [line for line in lines if line.startswith("scemae ")] or lines
        return found[-1][:500] if found else "it left no message"

    def _has_grown(self) -> bool:
        run, size = self.command.folder / "run", 0
        for number in generations.numbers(run):
            try:
                size += (generations.path_of(run, number) / METRICS).stat().st_size
            except OSError:
                pass
        grown, self._size = size != self._size, size
        return grown


def _stop_file_exists() -> bool:
    return os.path.exists(os.environ.get(STOP_FILE, ""))


def clear(folder: Path) -> None:
    """Remove the tokens that belong to one trial alone."""
    drop(folder / "tokens", folder.parent.parent)
