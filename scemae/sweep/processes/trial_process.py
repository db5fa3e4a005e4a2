"""One trial at work on this machine: its ranks, and what its run shows of them, look by look."""

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

ASKED, KILLED = "asked to stop", "killed"  # outcomes of a start, not of a trial: both go on
POLL_SECONDS = 0.1
SAVE_SECONDS = (
    600.0  # that a trial has to save when it is asked to stop; what ends a job sooner ends it too
)
STOP_FILE = "SCEMAE_SWEEP_STOP"  # in the environment: the file whose presence asks all trials of a node to stop


@dataclass
class TrialCommand:
    """What a worker is told of a trial."""

    sweep: Path
    trial: Trial
    arguments: list[str]
    ranks: int
    environment: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.trial.folder(self.sweep)


class TrialProcess:
    """One start of a trial. `look` waits for its next look; `close` ends it."""

    def __init__(
        self,
        order: TrialCommand,
        nursery: ForkServerClient,
        is_asked: Callable[[], bool] | None = None,
    ) -> None:
        """is_asked: whether it is to save and stop; none: by the file that STOP_FILE names."""
        self.order, self._nursery, self._ranks = order, nursery, None
        self._is_asked = is_asked or _by_file
        self._asked, self._size = False, -1
        self._told = max(
            len(read_run(order.sweep, order.trial).curve) - 1, 0
        )  # its last look is told again, for a decision

    def look(self) -> tuple[TrialRecord, str]:
        """Wait for the next look, or the end: the record, and RUNNING, FINISHED, FAILED, ASKED or KILLED. Each look is told,
        one after the other, however many there are by now: what is decided by them must not depend on the clock."""
        if self._ranks is None and not self._is_asked():
            self._ranks = Ranks(
                self._nursery,
                self.order.arguments,
                self.order.ranks,
                self.order.folder / "log.txt",
                self.order.environment,
            )
        while self._ranks is not None:
            status = self._ranks.poll()  # first, so that what was written last is seen
            if status is not None or self._has_grown():
                record = read_run(self.order.sweep, self.order.trial)
                is_whole = (
                    bool(record.curve) and record.curve[-1][0] == record.total
                )  # told once its ranks have ended well
                if self._told < len(record.curve) - is_whole:
                    self._told, self._size = self._told + 1, -1  # there may be more to tell
                    return replace(
                        record,
                        curve=record.curve[: self._told],
                        scores=record.curve[self._told - 1][1],
                    ), RUNNING
                if status is not None:
                    return self._ended(record, status)
            if self._is_asked() and not self._asked:
                self._asked = True
                self._ranks.stop(SAVE_SECONDS)
            time.sleep(POLL_SECONDS)
        return read_run(self.order.sweep, self.order.trial), ASKED

    def close(self, patience: float = 0.0) -> None:
        """End its ranks: at once, what they saved stays; or with `patience` seconds to save."""
        if self._ranks is not None:
            self._ranks.stop(patience)

    def _ended(self, record: TrialRecord, status: int) -> tuple[TrialRecord, str]:
        if status == 0 and record.scores and record.step == record.total:
            return record, FINISHED
        if status == 75:
            return record, ASKED if self._asked else KILLED
        if status < 0 or status > 128:
            record.reason = f"killed by {signal.Signals(abs(status) % 128).name}"
            return record, ASKED if self._asked else KILLED
        record.reason = (
            self._last_words() if status else "it has no score at its last step; see log.txt"
        )
        return record, FAILED

    def _last_words(self) -> str:
        try:
            lines = (
                (self.order.folder / "log.txt")
                .read_text(encoding="utf8", errors="replace")
                .splitlines()
            )
        except OSError:
            lines = []
        told = [line for line in lines if line.startswith("scemae ")] or [
            line for line in lines if line.strip()
        ]
        return told[-1][:500] if told else "it left no word"

    def _has_grown(self) -> bool:
        run = self.order.folder / "run"
        size = 0
        for number in generations.numbers(run):
            try:
                size += (generations.path_of(run, number) / METRICS).stat().st_size
            except OSError:
                pass
        grown, self._size = size != self._size, size
        return grown


def _by_file() -> bool:
    return os.path.exists(os.environ.get(STOP_FILE, ""))


def clear(folder: Path) -> None:
    """Remove the tokens that were a trial's own."""
    drop(folder / "tokens", folder.parent.parent)
