"""The files of a generation's folder, read again: owner.json, base.json, beat, ended, and the rows.

generations.py writes them, and says what each of them is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Required, TypedDict

from scemae.errors import FileError, RunFolderError
from scemae.files import disk, documents
from scemae.files.documents import Count, Seconds

METRICS, LEDGER = "metrics.jsonl", "ledger.jsonl"
DAMAGED = "restore it, or choose another run_dir"
MOST_STEPS = 2**53


@dataclass
class Owner:
    """owner.json: the process of a generation, for other processes to see whether it lives."""

    host: str | None = None
    pid: Count | None = None
    born: str | None = None  # clock ticks from boot to its start
    namespace: str | None = None  # of process numbers
    job: str | None = None
    queued: Seconds | None = None
    started: Seconds | None = None
    rolled_back: bool = False


@dataclass
class Base:
    """base.json: the step that a generation resumed from."""

    step: Count


class LedgerRow(TypedDict, total=False):
    """A row of ledger.jsonl: a step that was trained or left out."""

    step: Required[Count]
    loss: float | None
    digest: str
    skipped: str
    replaced: dict[str, str]
    keys: list[str]


MetricsRow = dict[str, float | int | bool | None]  # "step", "time", and numbers by name
KINDS: dict[str, Any] = {METRICS: MetricsRow, LEDGER: LedgerRow}


def moment(text: str) -> float | None:
    """The unix time that a `beat` or `ended` file gives; None where it gives none."""
    return float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text) else None


def base_of(folder: Path) -> int | None:
    """The step that a generation resumed from; None before it has begun. Raises RunFolderError."""
    path = folder / "base.json"
    try:
        return documents.read_json(path, Base, error=RunFolderError, remedy=DAMAGED).step
    except OSError:
        return None


def owner_of(folder: Path) -> Owner:
    """The process of a generation; without values where it died while it claimed the folder."""
    try:
        return documents.read_json(folder / "owner.json", Owner, error=RunFolderError)
    except (OSError, RunFolderError):
        return Owner()


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of metrics.jsonl or ledger.jsonl, each with its "step".

    A line that was cut is left out. Raises RunFolderError.
    """
    kind = KINDS.get(path.name, dict[str, Any])
    row: dict[str, Any]
    for row in documents.read_rows(path, kind, error=RunFolderError, remedy=DAMAGED):
        if type(row.get("step")) is not int or not 0 <= row["step"] <= MOST_STEPS:
            found = str(row.get("step"))[:40]
            raise RunFolderError(f"{path}: found a row whose step is {found}; {DAMAGED}")
        yield row


def text_of(path: Path) -> str:
    """The text of a small file; empty where it cannot be read."""
    try:
        return disk.read_bytes(path, disk.MIB).decode("utf8", "replace")
    except (OSError, FileError):
        return ""
