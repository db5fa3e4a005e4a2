"""Inputs of several targets, tried in turn, and the table of what happened."""

import time
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.guard import ACCEPTED, BAD, REFUSED
from tests.fuzz.pool import BATCH, Finding, Pool, Tally
from tests.fuzz.target import Target


def fuzz(targets: dict[str, Target], root: Path, seed: int, *, inputs: int | None, seconds: float, workers: int = 2
         ) -> tuple[dict[str, Tally], list[Finding]]:
    """Try `inputs` of each target, or as many as a full run does, for at most `seconds`, in the scratch folder `root`."""
    runner = Pool(root, targets, seed, workers)
    runner.run(_jobs(targets, inputs), time.monotonic() + seconds)
    return runner.tallies, list(runner.findings.values())


def _jobs(targets: dict[str, Target], inputs: int | None) -> Iterable[tuple[str, int, int]]:
    """(target, first, last), a batch of each target in turn, so that a run cut short has seen all of them."""
    left = [(name, 0, inputs or target.inputs) for name, target in targets.items()]
    while left:
        for name, first, last in left:
            yield name, first, min(first + BATCH, last)
        left = [(name, first + BATCH, last) for name, first, last in left if first + BATCH < last]


def table(tallies: dict[str, Tally]) -> str:
    """A row for each target."""
    heads = (ACCEPTED, REFUSED, *BAD)
    rows = [["target", "inputs", *heads, "seconds"]]
    for name, tally in tallies.items():
        counts = [tally.counts[head] for head in heads]
        rows.append([name, f"{sum(counts):,}", *(f"{count:,}" for count in counts), f"{tally.seconds:.0f}"])
    sums = [sum(tally.counts[head] for tally in tallies.values()) for head in heads]
    rows.append(["all", f"{sum(sums):,}", *(f"{count:,}" for count in sums), f"{sum(tally.seconds for tally in tallies.values()):.0f}"])
    return "\n".join(f"| {row[0]:<16} | " + " | ".join(f"{cell:>9}" for cell in row[1:]) + " |" for row in rows)


def keep(folder: Path, findings: list[Finding], seed: int) -> None:
    """Write the text of each finding into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, finding in enumerate(findings):
        (folder / f"{number:03d}-{finding.target}-{finding.kind}.txt").write_text(
            f"{finding.target} --seed {seed} --only {finding.number}: {finding.times} times\n{finding.signature}\n\n{finding.text}")
