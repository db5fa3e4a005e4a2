"""Seconds from the start of a resumed run to its first step, page cache warm or cold.

    python -m bench resume [--faces 4000] [--repeats 3] [--out DIR]

A real run is killed in the middle of an epoch and started again. The clock runs from the start of
the process to the end of its first step. "cold": shards and checkpoint are dropped from the page
cache first (posix_fadvise).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from bench import faces, machine, repeat, runs
from scemae.data.storage.shard_set import open_shards


def main(argv: list[str]) -> int:
    """Measure and write resume.json and resume.md."""
    parser = argparse.ArgumentParser(
        "bench resume", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--faces", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    shards, rows = faces.shards(options.faces), []
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            f"{tier}, {cache}": Start(
                Path(folder) / f"{tier}-{cache}", shards, tier, cache == "cold"
            )
            for tier in ("streaming", "host")
            for cache in ("warm", "cold")
        }
        found = repeat.interleave(cases, options.repeats)
        for name, case in cases.items():
            rows.append(
                {
                    "start": name,
                    "to the first step, s": median(found[name]),
                    "fastest": min(found[name]),
                    "slowest": max(found[name]),
                    "of it the step's own wait for data, s": median(case.waits),
                }
            )
    machine.write(
        "resume", options.out, rows, machine.facts() | {"images": len(open_shards(str(shards)))}
    )
    return 0


class Start:
    """One run that is killed after its first steps and started again, each time it is called."""

    def __init__(self, run_dir: Path, shards: Path, tier: str, cold: bool) -> None:
        self.run_dir, self.shards, self.cold = run_dir, shards, cold
        self.overrides = (
            *runs.TINY,
            "optim.global_batch_size=64",
            "optim.epochs=1000",
            "loop.log_every=4",
            "loop.save_every=4",
            f"runtime.tier={tier}",
        )
        self.waits: list[float] = []
        with runs.pretrain(run_dir, shards, *self.overrides):  # the run that will be resumed
            self._saved(above=0)

    def __call__(self) -> float:
        """Seconds from the start of the process to the end of its first step."""
        before = self._saved(above=0)
        if self.cold:
            for folder in (self.shards, self.run_dir):
                evict(folder)
        launched = time.time()
        with runs.pretrain(self.run_dir, self.shards, *self.overrides):
            row = runs.first_step(self.run_dir, launched)
            self._saved(above=before)
        self.waits.append(row["first_step_wait"])
        return row["start"]

    def _saved(self, above: int) -> int:
        """Wait for a checkpoint of a step above one; returns the newest."""
        while True:
            steps = [
                int(path.name.split("-")[1].split(".")[0])
                for path in self.run_dir.glob("checkpoints/step-*")
            ]
            if max(steps, default=0) > above:
                return max(steps)
            time.sleep(0.05)


def evict(folder: Path) -> None:
    """Put the files of a folder out of the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
