"""The trials of a sweep on disk, which is all that a sweep needs to go on: with Ray or without it, here or in a moved folder.

    SWEEP/sweep.json            what the sweep is: space, search, seed, settings of every trial
    SWEEP/trials/000017/        one trial
        trial.json              its number, values, and where they came from; written before it starts
        run/                    the run folder of `scemae correspond` (or pretrain): checkpoints, metrics, TensorBoard
        log.txt                 what its ranks print
        end.json                how it ended; a trial without it goes on where its newest checkpoint stands
    SWEEP/results.csv           the table, a row for each trial that has ended

Trial 0 is the paper's setting: the values that the swept settings have without a sweep.
"""

import csv
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from scemae.errors import FileError, RunFolderError
from scemae.files import disk, documents
from scemae.files.documents import Count, Seconds
from scemae.runs import generations
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
    origin: str

    def folder(self, sweep: Path) -> Path:
        """Where it lies."""
        return sweep / "trials" / f"{self.number:06d}"


@dataclass
class TrialEnd:
    """end.json: what became of a trial (see TrialRecord)."""

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
    """How long a run is to be, in its provenance.json."""

    total_steps: Count = 0


@dataclass
class TrialRecord:
    """A trial and what became of it."""

    number: int
    values: Values
    origin: str
    outcome: str = WAITING
    step: int = 0
    total: int = 0
    scores: dict[str, float] = field(default_factory=dict)  # of its last look
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    seconds: float = 0.0  # from start to end, of all its starts
    starts: int = 0
    trained: int = 0  # steps in all; more than `step` where some were lost and done again
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        return self.outcome in (FINISHED, STOPPED, FAILED)

    @property
    def trial(self) -> Trial:
        return Trial(self.number, self.values, self.origin)


def write_trial(sweep: Path, trial: Trial) -> None:
    """Put a trial on disk, before it starts."""
    folder = disk.make_folders(trial.folder(sweep), sweep)
    disk.write_json(folder / "trial.json", asdict(trial))


def end_trial(
    sweep: Path, trial: Trial, outcome: str, reason: str = "", progress: float | None = None
) -> TrialRecord:
    """Say how a trial ended; what it scored is read from its run. `progress`: the share of its training at whose look it was
    stopped: what it did until it was gone depends on the clock, so it does not count."""
    record = read_run(sweep, trial)
    if progress is not None:
        record.step = round(progress * record.total)
        record.curve = [look for look in record.curve if look[0] <= record.step]
        record.scores = record.curve[-1][1] if record.curve else {}
    record.outcome, record.reason = outcome, reason
    disk.write_json(
        trial.folder(sweep) / "end.json",
        {
            name: value
            for name, value in asdict(record).items()
            if name not in ("number", "values", "origin")
        },
    )
    return record


def read_records(sweep: Path) -> Iterator[TrialRecord]:
    """Every trial of a sweep, in order."""
    root = sweep / "trials"
    for name in sorted(os.listdir(root)) if root.is_dir() else []:
        path = root / name / "trial.json"
        text = _whole(path)
        if text is None:
            continue  # it was to be written when the sweep was stopped, and had not begun
        trial = documents.parse_json(
            text, Trial, path, error=RunFolderError, remedy="restore it, or remove its folder"
        )
        if trial.folder(sweep).name != name:
            raise RunFolderError(
                f"{path}: found the number {trial.number}; restore it, or remove its folder"
            )
        yield read_record(sweep, trial)


def _whole(path: Path) -> bytes | None:
    """The JSON in a file; None where there is no such file, or half of one."""
    try:
        text = documents.read_bytes(path, error=RunFolderError, remedy="remove it")
    except OSError:
        return None
    return text if documents.is_whole(text) else None


def read_record(sweep: Path, trial: Trial) -> TrialRecord:
    """What is known of a trial."""
    path = trial.folder(sweep) / "end.json"
    text = _whole(path)
    if text is None:
        return read_run(sweep, trial)
    found = documents.parse_json(
        text,
        TrialEnd,
        path,
        error=RunFolderError,
        finite=False,
        remedy="remove it, and the trial goes on from its newest checkpoint",
    )
    return TrialRecord(trial.number, trial.values, trial.origin, **vars(found))


def read_run(sweep: Path, trial: Trial) -> TrialRecord:
    """How far a trial's run has come, from the run folder."""
    run, record = trial.folder(sweep) / "run", TrialRecord(trial.number, trial.values, trial.origin)
    reached: dict[int, int] = {}
    for row, counts in generations.all_rows(run, METRICS):
        reached[row["generation"]] = max(reached.get(row["generation"], 0), row["step"])
        if not counts:
            continue
        record.step = max(record.step, row["step"])
        if scores := scores_of(row):
            record.curve.append((row["step"], scores))
    record.scores = record.curve[-1][1] if record.curve else {}
    bases = generations.base_steps(run)
    record.trained = sum(max(step - bases.get(number, 0), 0) for number, step in reached.items())
    record.starts = len(generations.numbers(run))
    record.seconds = sum(
        map(
            generations.seconds_of,
            (generations.path_of(run, number) for number in generations.numbers(run)),
        )
    )
    record.total = _total(run)
    record.outcome = RUNNING if record.starts else WAITING
    return record


def scores_of(row: dict[str, Any]) -> dict[str, float]:
    """The scores in a row of metrics.jsonl."""
    return {name: row[PROBE + name] for name in OBJECTIVES if PROBE + name in row}


def _total(run: Path) -> int:
    try:
        return documents.read_json(
            run / "provenance.json", RunLength, error=RunFolderError
        ).total_steps
    except OSError:
        return 0


def drop_checkpoints(sweep: Path, trial: Trial) -> None:
    """Remove the checkpoints of a trial that has ended and is not among the best; what it showed stays."""
    from scemae.runs.checkpoints import checkpoint  # here: Ray's workers do without torch

    drop(trial.folder(sweep) / "run" / checkpoint.CHECKPOINTS, sweep)


def drop(folder: Path, sweep: Path) -> None:
    """Remove a folder below a sweep's; what cannot be removed, or lies behind a link, stays, and is told."""
    try:
        disk.remove_tree(folder, sweep, best_effort=True)
    except FileError as error:
        print(f"scemae sweep: {error}", file=sys.stderr, flush=True)


def refuse_links(sweep: Path) -> None:
    """Raise FileError where the folder of the trials, of one of them, or its run is a link: another run would be changed."""
    for path in (
        sweep / "trials",
        *(sweep / "trials").glob("*"),
        *(sweep / "trials").glob("*/run"),
    ):
        disk.refuse_link(path)


class ResultsTable:
    """results.csv: written anew when a sweep begins, then a row is appended whenever a trial ends."""

    def __init__(self, sweep: Path, names: list[str]) -> None:
        self._path, self._names = sweep / "results.csv", names
        self._head = [
            "trial",
            "origin",
            "outcome",
            *names,
            *OBJECTIVES,
            "step",
            "total",
            "steps_trained",
            "starts",
            "seconds",
            "reason",
        ]

    def rewrite(self, records: Iterator[TrialRecord]) -> None:
        """All rows that there are, in the order of trials."""
        head = io.StringIO()
        csv.writer(head, lineterminator="\n").writerow(self._head)
        disk.write_text(
            self._path,
            head.getvalue() + "".join(self._row(record) for record in records if record.has_ended),
        )

    def append(self, record: TrialRecord) -> None:
        """One row more, in one write."""
        with os.fdopen(disk.open_to_append(self._path), "a", encoding="utf8", newline="") as file:
            file.write(self._row(record))

    def _row(self, record: TrialRecord) -> str:
        line = io.StringIO()
        scores = (
            f"{record.scores[name]:.6g}" if name in record.scores else "" for name in OBJECTIVES
        )
        csv.writer(line, lineterminator="\n").writerow(
            [
                record.number,
                record.origin,
                record.outcome,
                *(record.values.get(name, "") for name in self._names),
                *scores,
                record.step,
                record.total,
                record.trained,
                record.starts,
                f"{record.seconds:.1f}",
                record.reason,
            ]
        )
        return line.getvalue()
