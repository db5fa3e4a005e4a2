"""Inputs of several targets, tried in turn, and the table of what happened."""

import time
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.guard import ACCEPTED, BAD, DEATH, ESCAPE, HANG, MEMORY, REFUSED, TRACEBACK
from tests.fuzz.pool import BATCH, Ended, Finding, Pool, Tally
from tests.fuzz.target import Target

KINDS = (ACCEPTED, REFUSED, *BAD)
PLURALS = {
    ACCEPTED: "accepted",
    REFUSED: "refused",
    TRACEBACK: "tracebacks",
    HANG: "hangs",
    MEMORY: "memory over 1 GiB",
    DEATH: "deaths",
    ESCAPE: "escapes",
}


def fuzz(
    targets: dict[str, Target],
    root: Path,
    seed: int,
    *,
    inputs: int | None,
    seconds: float,
    workers: int = 2,
    ended: Ended = lambda name, tally: None,
) -> tuple[dict[str, Tally], list[Finding]]:
    """Try `inputs` of each target, or as many as a full run does, for at most `seconds`.

    root: a scratch folder. ended: called for each target when all its inputs are done.
    KeyboardInterrupt ends it early; what was counted until then is returned.
    """
    runner = Pool(root, targets, seed, workers, ended)
    try:
        runner.run(_jobs(targets, inputs), time.monotonic() + seconds)
    except KeyboardInterrupt:
        runner.stop()
    return runner.tallies, list(runner.findings.values())


def _jobs(targets: dict[str, Target], inputs: int | None) -> Iterable[tuple[str, int, int]]:
    """(target, first, last): one batch of each target in turn, so that a cut run has tried all."""
    left = [(name, 0, inputs or target.inputs) for name, target in targets.items()]
    while left:
        for name, first, last in left:
            yield name, first, min(first + BATCH, last)
        left = [(name, first + BATCH, last) for name, first, last in left if first + BATCH < last]


def table(tallies: dict[str, Tally]) -> str:
    """The head, and a row for each target."""
    return "\n".join([head(), *(row(name, tally) for name, tally in tallies.items())])


def head() -> str:
    """The first row of the table."""
    return _row("target", ["inputs", *KINDS, "seconds"])


def row(name: str, tally: Tally) -> str:
    """The row of one target."""
    counts = [tally.counts[kind] for kind in KINDS]
    return _row(name, [*(f"{count:,}" for count in (sum(counts), *counts)), f"{tally.seconds:.0f}"])


def _row(name: str, cells: list[str]) -> str:
    return f"| {name:<16} | " + " | ".join(f"{cell:>9}" for cell in cells) + " |"


def totals(tallies: dict[str, Tally], seconds: float) -> str:
    """All targets in one line; seconds: by the clock."""
    sums = {kind: sum(tally.counts[kind] for tally in tallies.values()) for kind in KINDS}
    counts = ", ".join(f"{count:,} {PLURALS[kind]}" for kind, count in sums.items())
    return f"total: {sum(sums.values()):,} inputs, {counts}, {seconds:.0f} seconds"


def keep(folder: Path, findings: list[Finding], seed: int) -> None:
    """Write the text of each finding into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, finding in enumerate(findings):
        again = f"{finding.target} --seed {seed} --only {finding.number}: {finding.times} times"
        (folder / f"{number:03d}-{finding.target}-{finding.kind}.txt").write_text(
            f"{again}\n{finding.signature}\n\n{finding.text}"
        )
