"""Real training runs, started as anyone starts them, and what their own metrics say."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from scemae.runs.metrics_log import read_metrics

TINY = (
    "model=demo",
    "decoder=demo",
    "probe_shards=null",
    "loop.probe_every=0",
    "optim.warmup_epochs=0",
)


@contextmanager
def started(words: list[str], log: Path, ranks: int = 1) -> Iterator[subprocess.Popen]:
    """`scemae WORDS` in a process group of its own, which is ended with the block.

    Its output is appended to `log`.
    """
    launcher = [sys.executable, "-m"]
    if ranks > 1:
        launcher += ["torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone", "-m"]
    threads = str(max(len(os.sched_getaffinity(0)) // ranks, 1))
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf8") as out:
        process = subprocess.Popen(
            [*launcher, "scemae", *words],
            stdout=out,
            stderr=out,
            env={"OMP_NUM_THREADS": threads, **os.environ},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
            process.wait()


def pretrain(
    run_dir: Path, shards: Path, *overrides: str, ranks: int = 1
) -> AbstractContextManager[subprocess.Popen]:
    """`scemae pretrain`, as `started`."""
    words = ["pretrain", f"run_dir={run_dir}", f"data.shards={shards}", *overrides]
    return started(words, run_dir.parent / f"{run_dir.name}.log", ranks)


def finished(run_dir: Path, shards: Path, *overrides: str, ranks: int = 1) -> list[dict]:
    """The metrics of a run that reached its end. Raises RuntimeError with its last messages."""
    with pretrain(run_dir, shards, *overrides, ranks=ranks) as process:
        process.wait()
    if process.returncode:
        raise RuntimeError((run_dir.parent / f"{run_dir.name}.log").read_text()[-2000:])
    return read_metrics(run_dir)


def first_step(run_dir: Path, launched: float, after: int = 0, patience: float = 600) -> dict:
    """Wait for the metrics row of the first step after `after`; with `start`, adds its seconds."""
    while time.time() < launched + patience:
        for row in read_metrics(run_dir) if (run_dir / "generations").exists() else []:
            if "first_step_seconds" in row and row["time"] > launched and row["step"] > after:
                return {**row, "start": row["time"] - launched}
        time.sleep(0.02)
    raise RuntimeError((run_dir.parent / f"{run_dir.name}.log").read_text()[-2000:])


def speeds(rows: list[dict], skip: int = 1) -> list[dict]:
    """The heartbeats of a run but for the first `skip`, which warm up."""
    return [row for row in rows if "images_per_second" in row][skip:]
