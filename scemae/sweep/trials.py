"""The trials of a sweep on disk. A sweep needs nothing else to resume, with or without Ray.

    SWEEP/sweep.json          what the sweep is: space, search, seed, settings of every trial
    SWEEP/trials/000017/      one trial
        trial.json            its number, values and origin; written before it starts
        run/                  the run folder of `scemae correspond` (or pretrain)
        log.txt               what its ranks print
        end.json              how it ended; a trial without it resumes from its newest checkpoint
    SWEEP/results.csv         the table, a row for each trial that has ended

The folder may be moved. Trial 0 is the paper's setting: the values of the swept settings without a
sweep.
"""

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from scemae.errors import FileError, RunFolderError
from scemae.files import disk, documents
from scemae.files.documents import Count, Seconds
from scemae.runs import generations
from scemae.runs.checkpoints import checkpoint
from scemae.runs.generation_files import METRICS
from scemae.sweep.space import Values

PAPER, RANDOM, GRID, TPE = "paper", "random", "grid", "tpe"
WAITING, RUNNING, FINISHED, STOPPED, FAILED = "waiting", "running", "finished", "stopped", "failed"
PROBE = "probe_"  # before the names of scores in metrics.jsonl
OBJECTIVES = ("different", "same", "cycle")


@dataclass
class Trial:
    """One point of the search, before it runs."""

    number: Count
    values: Values
    origin: str  # PAPER, RANDOM, GRID or TPE

    def folder(self, sweep: Path) -> Path:
        """The trial's folder in the sweep's."""
        return sweep / "trials" / f"{self.number:06d}"


@dataclass
class TrialEnd:
    """end.json: how a trial ended (see TrialRecord)."""

    outcome: Literal["waiting", "running", "finished", "stopped", "failed"]
    step: Count = 0
    total: Count = 0
    scores: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[Count, dict[str, float]]] = field(default_factory=list)
    seconds: Seconds = 0.0
    starts: Count = 0
    trained: Count = 0
    reason: str = ""


@dataclass
class RunLength:
    """The number of steps in a run's provenance.json."""

    total_steps: Count = 0


@dataclass
class TrialRecord:
    """A trial, and how far it has come or how it ended."""

    number: int
    values: Values
    origin: str
    outcome: str = WAITING
    step: int = 0
    total: int = 0  # steps of its whole training
    scores: dict[str, float] = field(default_factory=dict)  # of its last evaluation
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # step, scores
    seconds: float = 0.0  # from start to end, summed over its starts
    starts: int = 0
    trained: int = 0  # steps of all starts; more than `step` if some were lost and repeated
    reason: str = ""  # why it failed

    @property
    def has_ended(self) -> bool:
        """True if it will not run again."""
        return self.outcome in (FINISHED, STOPPED, FAILED)

    @property
    def progress(self) -> float:
        """The share of its training that is done, 0 to 1."""
        return self.step / self.total if self.total else 0.0

    @property
    def trial(self) -> Trial:
        """The trial alone."""
        return Trial(self.number, self.values, self.origin)


def write_trial(sweep: Path, trial: Trial) -> None:
    """Write trial.json, before the trial starts."""
    folder = disk.make_folders(trial.folder(sweep), sweep)
    disk.write_json(folder / "trial.json", asdict(trial))


def end_trial(
    sweep: Path, trial: Trial, outcome: str, reason: str = "", progress: float | None = None
) -> TrialRecord:
    """Write end.json; the scores are read from the trial's run.

    progress: the share of its training at the evaluation by which it was stopped early. What it
    did between that and its end depends on the clock, so it does not count.
    """
    record = read_run(sweep, trial)
    if progress is not None:
        record.step = round(progress * record.total)
        record.curve = [point for point in record.curve if point[0] <= record.step]
        record.scores = record.curve[-1][1] if record.curve else {}
    record.outcome, record.reason = outcome, reason
    found = asdict(record)
    for name in ("number", "values", "origin"):
        del found[name]
    disk.write_json(trial.folder(sweep) / "end.json", found)
    return record


def read_records(sweep: Path) -> Iterator[TrialRecord]:
    """Every trial of a sweep, in order. Raises RunFolderError for a damaged file."""
    root = sweep / "trials"
    for name in sorted(os.listdir(root)) if root.is_dir() else []:
        path = root / name / "trial.json"
        text = _whole_json(path)
        if text is None:
            continue  # the sweep was stopped before it was written, so the trial never ran
        trial = documents.parse_json(
            text, Trial, path, error=RunFolderError, remedy="restore it, or remove its folder"
        )
        if trial.folder(sweep).name != name:
            raise RunFolderError(
                f"{path}: found the number {trial.number}; restore it, or remove its folder"
            )
        yield read_record(sweep, trial)


def _whole_json(path: Path) -> bytes | None:
    """The JSON in a file; None if there is no file, or its end is missing."""
    try:
        text = documents.read_bytes(path, error=RunFolderError, remedy="remove it")
    except OSError:
        return None
    return text if documents.is_whole(text) else None


def read_record(sweep: Path, trial: Trial) -> TrialRecord:
    """A trial with how it ended, or how far it has come."""
    path = trial.folder(sweep) / "end.json"
    text = _whole_json(path)
    if text is None:
        return read_run(sweep, trial)
    remedy = "remove it, and the trial resumes from its newest checkpoint"
    found = documents.parse_json(
        text, TrialEnd, path, error=RunFolderError, finite=False, remedy=remedy
    )
    return TrialRecord(trial.number, trial.values, trial.origin, **vars(found))


def read_run(sweep: Path, trial: Trial) -> TrialRecord:
    """A trial with how far its run folder says it has come."""
    run = trial.folder(sweep) / "run"
    record = TrialRecord(trial.number, trial.values, trial.origin)
    reached: dict[int, int] = {}  # last step by generation
    for row, counts in generations.all_rows(run, METRICS):
        reached[row["generation"]] = max(reached.get(row["generation"], 0), row["step"])
        if not counts:
            continue
        record.step = max(record.step, row["step"])
        if scores := scores_of(row):
            record.curve.append((row["step"], scores))
    record.scores = record.curve[-1][1] if record.curve else {}
    bases, numbers = generations.base_steps(run), generations.numbers(run)
    record.trained = sum(max(step - bases.get(number, 0), 0) for number, step in reached.items())
    record.starts = len(numbers)
    folders = [generations.path_of(run, number) for number in numbers]
    record.seconds = sum(map(generations.seconds_of, folders))
    record.total = _total_steps(run)
    record.outcome = RUNNING if record.starts else WAITING
    return record


def scores_of(row: dict[str, Any]) -> dict[str, float]:
    """The scores in a row of metrics.jsonl."""
    return {name: row[PROBE + name] for name in OBJECTIVES if PROBE + name in row}


def _total_steps(run: Path) -> int:
    path = run / "provenance.json"
    try:
        return documents.read_json(path, RunLength, error=RunFolderError).total_steps
    except OSError:
        return 0


def drop_checkpoints(sweep: Path, trial: Trial) -> None:
    """Remove the checkpoints of a trial that has ended; its metrics stay."""
    drop(trial.folder(sweep) / "run" / checkpoint.CHECKPOINTS, sweep)


def drop(folder: Path, sweep: Path) -> None:
    """Remove a folder inside a sweep's; print why if it is behind a link or cannot be removed."""
    try:
        disk.remove_tree(folder, sweep, best_effort=True)
    except FileError as error:
        print(f"scemae sweep: {error}", file=sys.stderr, flush=True)


def refuse_links(sweep: Path) -> None:
    """Raise FileError if a folder of trials or runs is a link: another run would be changed."""
    trials = sweep / "trials"
    for path in (trials, *trials.glob("*"), *trials.glob("*/run")):
        disk.refuse_link(path)


class ResultsTable:
    """results.csv: rewritten when a sweep starts; a row is appended when a trial ends."""

    def __init__(self, sweep: Path, names: list[str]) -> None:
        """names: the swept settings."""
        self._path, self._names = sweep / "results.csv", names

    def rewrite(self, records: Iterable[TrialRecord]) -> None:
        """Write the row of every trial that has ended."""
        first = ["trial", "origin", "outcome", *self._names, *OBJECTIVES]
        last = ["step", "total", "steps_trained", "starts", "seconds", "reason"]
        rows = [self._row(record) for record in records if record.has_ended]
        disk.write_text(self._path, _csv_line([*first, *last]) + "".join(rows))

    def append(self, record: TrialRecord) -> None:
        """Append one row, in one write."""
        with os.fdopen(disk.open_to_append(self._path), "a", encoding="utf8", newline="") as file:
            file.write(self._row(record))

    def _row(self, record: TrialRecord) -> str:
        values = [record.values.get(name, "") for name in self._names]
        found = record.scores
        scores = [f"{found[name]:.6g}" if name in found else "" for name in OBJECTIVES]
        steps = [record.step, record.total, record.trained, record.starts]
        first = [record.number, record.origin, record.outcome, *values, *scores, *steps]
        return _csv_line([*first, f"{record.seconds:.1f}", record.reason])


def _csv_line(cells: list) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
