"""`scemae goodput RUN`: where the wall time of a run went, and the share of steps that count in it.

Every second from the first start (or when it was queued) to the last sign of life is counted under
one kind of `Spent`, so the kinds add up to the whole. A start is a generation (generations.py); a
roll-back begins a new one.

    queued      started        first step ends         last heartbeat   last sign of life
      |  queue    |   restart    |  compute, data wait,    |  lost, or      |  down ...
      |           |              |  save stall, probe,     |  other         |
      |           |              |  other                  |                |
"""

import argparse
import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from scemae.errors import RunFolderError
from scemae.files import documents
from scemae.files.documents import Seconds
from scemae.runs import generations
from scemae.runs.generation_files import DAMAGED, METRICS, moment, owner_of, text_of


@dataclass
class Spent:
    """Seconds of wall time by their use. Together they are all of it."""

    compute: float = 0.0
    data_wait: float = 0.0
    save_stall: float = 0.0
    probe: float = 0.0
    restart: float = 0.0
    lost: float = 0.0
    queue: float = 0.0
    down: float = 0.0
    other: float = 0.0

    @property
    def wall(self) -> float:
        """All seconds."""
        return sum(asdict(self).values())

    def share(self, seconds: float, **parts: float) -> None:
        """Add `seconds` to the kinds in `parts`, each up to its value, and the rest to `other`."""
        for name, wanted in {**parts, "other": math.inf}.items():
            taken = max(min(wanted, seconds), 0.0)
            setattr(self, name, getattr(self, name) + taken)
            seconds -= taken


@dataclass
class StartAccount:
    """One start of the run. Times are unix times; `base` is the step that it resumed from."""

    generation: int
    queued: float
    started: float
    ended: float
    rolled_back: bool = False
    base: int | None = None
    images: int = 0  # of steps that count
    images_lost: int = 0  # of logged steps that were trained again
    spent: Spent = field(default_factory=Spent)
    wall: float = 0.0  # seconds, all of `spent`


@dataclass
class Stamped:
    """The times in a row of metrics.jsonl, in seconds."""

    time: Seconds
    save_stall: Seconds = 0.0
    commit_seconds: Seconds = 0.0
    probe_seconds: Seconds = 0.0
    first_step_seconds: Seconds = 0.0
    first_step_wait: Seconds = 0.0


@dataclass
class Timed(Stamped):
    """The row of a heartbeat."""

    seconds: Seconds = field(kw_only=True)
    images_per_second: Seconds = field(kw_only=True)
    data_wait: Seconds = field(kw_only=True)


@dataclass
class Goodput:
    """All starts of a run, and their sum.

    goodput: the share of compute in all time; goodput_without_queue: in all time but the queue.
    """

    starts: list[StartAccount]
    total: Spent
    wall: float
    images: int
    images_lost: int
    goodput: float
    goodput_without_queue: float


def read(run_dir: Path) -> Goodput:
    """The account of the run in a folder. Raises RunFolderError where nothing was trained."""
    bases, rows = generations.base_steps(run_dir), defaultdict(list)
    if not bases:
        raise RunFolderError(
            f"{run_dir}: found no start that began to train in its {generations.GENERATIONS}/; "
            "give the run_dir of `scemae pretrain` or `scemae correspond`"
        )
    for row, counts in generations.all_rows(run_dir, METRICS):
        if "time" in row:
            documents.convert(
                row,
                Timed if "seconds" in row else Stamped,
                f"{run_dir}: a row of step {row['step']} in {METRICS}",
                error=RunFolderError,
                remedy=DAMAGED,
            )
            rows[row["generation"]].append((row, counts))
    starts = timeline(run_dir, rows)
    for start in starts:
        start.base = bases.get(start.generation)
        account(
            start,
            rows[start.generation],
            resumed=any(number > start.generation for number in bases),
        )
        start.wall = start.spent.wall
    parts = ([getattr(start.spent, kind.name) for start in starts] for kind in fields(Spent))
    total = Spent(*map(math.fsum, parts))
    return Goodput(
        starts,
        total,
        total.wall,
        sum(start.images for start in starts),
        sum(start.images_lost for start in starts),
        total.compute / max(total.wall, 1e-9),
        total.compute / max(total.wall - total.queue, 1e-9),
    )


def timeline(run_dir: Path, rows: dict[int, list]) -> list[StartAccount]:
    """All starts, with their times, and their seconds of `queue` and `down`.

    A start that was cut off and lives on ends, for this account, where the next one starts.
    """
    starts: list[StartAccount] = []
    for number in generations.numbers(run_dir):
        folder, before = generations.path_of(run_dir, number), starts[-1] if starts else None
        owner = owner_of(folder)
        if owner.started is None:  # it died while it claimed the folder
            continue
        started = max(owner.started, before.started if before else 0.0)
        seen = [row["time"] for row, _ in rows[number]]
        seen += [
            stamp for name in ("beat", "ended") if (stamp := last_sign(folder / name)) is not None
        ]
        if before:
            before.ended = started if owner.rolled_back else min(before.ended, started)
        idle = before.ended if before else 0.0
        queued = min(max(started if owner.queued is None else owner.queued, idle), started)
        starts.append(
            StartAccount(number, queued, started, max([started, *seen]), owner.rolled_back)
        )
        starts[-1].spent = Spent(queue=started - queued, down=queued - idle if before else 0.0)
    return starts


def last_sign(path: Path) -> float | None:
    """The unix time in a `beat` or `ended` file, or else its modification time; None without it."""
    try:
        found = moment((text_of(path).split() or [""])[-1])
        return path.stat().st_mtime if found is None else found
    except OSError:
        return None


def account(start: StartAccount, rows: list[tuple[dict, bool]], *, resumed: bool) -> None:
    """Count the seconds of a start by their use.

    rows: its rows, each with whether it counts. resumed: a later start has resumed, so what this
    one did not save is lost.
    """
    spent, end = start.spent, start.ended
    # when the first step ended
    first = next((row["time"] - row.get("seconds", 0.0) for row, _ in rows), end)
    now = min(max(first, start.started), end)
    spent.restart += now - start.started
    early: dict = {}  # the row with the first step of the start
    parts, last_step, in_order = Spent(), None, False
    for row, counts in rows:
        parts.save_stall += row.get("save_stall", 0.0) + row.get("commit_seconds", 0.0)
        parts.probe += row.get("probe_seconds", 0.0)
        early = row if "first_step_seconds" in row else early
        # A save of the step of the last heartbeat, which it waited for, ends a start in order.
        in_order |= "save_stall" in row and row["step"] == last_step
        if "seconds" in row:
            until = min(max(row["time"], now), end)
            spent.share(
                until - now,
                **trained(row, early, counts),
                save_stall=parts.save_stall,
                probe=parts.probe,
            )
            images = round(row["images_per_second"] * row["seconds"])
            start.images, start.images_lost = (
                start.images + images * counts,
                start.images_lost + images * (not counts),
            )
            parts, early, last_step, in_order, now = Spent(), {}, row["step"], False, until
    is_cut_off = resumed and not in_order
    spent.share(
        end - now,
        save_stall=parts.save_stall,
        probe=parts.probe,
        lost=math.inf if is_cut_off else 0.0,
    )


def trained(row: dict, early: dict, counts: bool) -> dict[str, float]:
    """The seconds of the steps of a row, without the first step of a start (it is in `restart`)."""
    wait = max(row["data_wait"] * row["seconds"] - early.get("first_step_wait", 0.0), 0.0)
    compute = max(row["seconds"] - early.get("first_step_seconds", 0.0) - wait, 0.0)
    return {"compute": compute, "data_wait": wait} if counts else {"lost": compute + wait}


def table(found: Goodput) -> str:
    """Goodput as text: a row per start, the total with shares, and a sentence."""
    names = [kind.name for kind in fields(Spent)]
    titles = [name.replace("_", " ") for name in names]
    lines = [["start", "from", "wall", *titles, "images", "images lost"]]
    for start in found.starts:
        number = f"{start.generation}{'r' * start.rolled_back}"
        base = "–" if start.base is None else str(start.base)
        lines.append(_row(number, base, start))
    lines.append(_row("all", "", found))
    wall = max(found.wall, 1e-9)
    shares = [f"{getattr(found.total, name) / wall:.1%}" for name in names]
    lines.append(["", "", "", *shares, "", ""])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        cells = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        shown.append("  ".join(cells).rstrip())
    sentence = (
        f"goodput {found.goodput:.1%} of all time, {found.goodput_without_queue:.1%} without "
        f"the queue; {found.images:,} images trained, {found.images_lost:,} lost and trained again"
    )
    return "\n".join([*shown, sentence])


def _row(name: str, base: str, part: StartAccount | Goodput) -> list[str]:
    spent = part.spent if isinstance(part, StartAccount) else part.total
    seconds = [clock(part.wall), *(clock(getattr(spent, kind.name)) for kind in fields(Spent))]
    return [name, base, *seconds, f"{part.images:,}", f"{part.images_lost:,}"]


def clock(seconds: float) -> str:
    """Seconds as a person reads them: 4.2, 3:05 or 12:03:05."""
    if seconds < 59.95:
        return f"{seconds:.1f}"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
        if minutes >= 60
        else f"{minutes}:{rest:02d}"
    )


def main(arguments: argparse.Namespace) -> None:
    """Print where the time of a run went. Raises RunFolderError where nothing was trained in it."""
    found = read(arguments.run)
    print(json.dumps(asdict(found), indent=1) if arguments.json else table(found))
